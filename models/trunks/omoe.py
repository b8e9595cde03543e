"""One-gate mixture of experts (OMoE), a baseline of the MMoE paper.

Ma et al., KDD 2018, equation 5: f(x) = sum_i g(x)_i f_i(x), with one gate for all tasks.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from models.layers.gates import Gating
from models.options import Experts, Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec
from models.trunks.mmoe import Mmoe

# Shape legend: B impressions or candidates, E experts.


class OmoeOptions(TrunkOptions):
    """The widths and number of the experts."""

    takes_batch_norm: ClassVar[bool] = True
    type: Literal["omoe"]
    experts: Experts = 4
    expert_hidden: Hidden = (128, 64)

    def build(self, spec: TrunkSpec) -> "Omoe":
        return Omoe(spec.in_widths, spec.heads, self.experts, self.expert_hidden, spec.dropout, spec.batch_norm)


class Omoe(Trunk):
    """A mixture of experts with a single gate; the towers of all heads read the same vector."""

    def __init__(
        self,
        in_widths: Sequence[int],
        heads: Sequence[str],
        experts: int,
        hidden: Sequence[int],
        dropout: float,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.mixture = Mmoe(in_widths, ("all",), experts, hidden, dropout, batch_norm=batch_norm)
        self.out_width = self.mixture.out_width

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[1, B, out_width]`, which the towers broadcast."""
        return self.mixture(inputs)

    def gating(self, inputs: TrunkInput) -> Gating:
        """The gate, listed under the name of every head, and the outputs of the experts."""
        one_gate = self.mixture.gating(inputs)
        return Gating(dict.fromkeys(self.heads, one_gate.gates["all"]), one_gate.experts)

    def gate_means(self, inputs: TrunkInput) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`; every head has the same gate."""
        mean = self.mixture.gate_means(inputs)["all"]
        return dict.fromkeys(self.heads, mean)
