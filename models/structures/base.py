"""Owns what every task structure says about itself: its heads, its outputs and their labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from models.layers.probability import LogProbability


@dataclass(frozen=True)
class Output:
    """One task score. `label`: the columns whose AND it estimates; `space`: the columns whose AND restricts where it means that.

    `trained`: it has a loss of its own, over its space (the whole impression space where that is empty). `importance`: label columns with a
    factor; an impression's loss counts by the largest factor among those of its columns that are 1, or once.
    """

    name: str
    kind: Literal["probability", "value"]
    label: tuple[str, ...]
    space: tuple[str, ...] = ()
    trained: bool = True
    importance: tuple[tuple[str, float], ...] = ()


class TaskStructure(Protocol):
    """`heads` are logits `[n]` by name; `scores` makes outputs of them: log probabilities, or plain values."""

    @property
    def heads(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[Output, ...]: ...

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, LogProbability | Tensor]: ...
