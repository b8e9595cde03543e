"""Defines what all trunks have in common: options, sizes, input and output."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from models.layers.gates import Gating
from models.layers.input_part import InputPart
from models.options import Options

# Shape legend: B impressions or candidates, H heads, K width of the context, E experts, X width of the trunk's output.


@dataclass(frozen=True)
class TrunkSpec:
    """The sizes that a trunk is built for. `context_width` 0: no context features; `domains` 0: no domains.

    `batch_norm`: the input of every ReLU is normalised over the batch.
    """

    parts: tuple[InputPart, ...]
    heads: tuple[str, ...]
    dropout: float
    context_width: int = 0
    domains: int = 0
    batch_norm: bool = False

    @property
    def in_widths(self) -> list[int]:
        """The width of each part."""
        return [part.width for part in self.parts]


class TrunkInput(NamedTuple):
    """Input of a trunk. In training every tensor has B rows; at serving, tensors of the request have one row.

    `parts`: the vectors of user, context and item and of the encoded behaviours, each `[B or 1, width]`;
    `context`: the context's vector `[B or 1, K]`, which is one of the parts too, None without context features;
    `domain`: int64 `[B or 1]`, i for the recipe's i-th domain and 0 for any other, None if the recipe names no
    domain.
    """

    parts: Sequence[Tensor]
    context: Tensor | None = None
    domain: Tensor | None = None


class Trunk(nn.Module, ABC):
    """The layers between the shared embeddings and the towers of the heads."""

    out_width: int

    @abstractmethod
    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, X]`, by head in order, or `[1, B, X]` if all heads read the same vector."""

    def logit_shift(self, inputs: TrunkInput) -> Tensor | None:
        """Logits to add to those of the towers, `[H, B]` or `[1, B]`; None if there are none."""
        return None

    def gating(self, inputs: TrunkInput) -> Gating | None:
        """The gates of the last layer of experts and the outputs of the experts; None without gates."""
        return None

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`, by head; empty without gates."""
        return {}


class TrunkOptions(Options, ABC):
    """The options of one trunk in `model.trunk` of a recipe; a subclass adds `type`, its name in the recipe."""

    type: str
    needs_domain: ClassVar[bool] = False  # True: the recipe has to name domains
    takes_batch_norm: ClassVar[bool] = False

    @abstractmethod
    def build(self, spec: TrunkSpec) -> Trunk:
        """Build the untrained network."""
