"""Owns the one-gate mixture of experts, the MMoE paper's own baseline.

Ma et al., KDD 2018, equation 5: f(x) = sum_i g(x)_i f_i(x), with one gate for all tasks.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.layers.gates import Gating
from models.trunks.mmoe import Mmoe


class Omoe(nn.Module):
    """A mixture of experts with a single gate; every head's tower reads the same vector."""

    def __init__(
        self, in_widths: Sequence[int], heads: Sequence[str], experts: int, hidden: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.mixture = Mmoe(in_widths, ("all",), experts, hidden, dropout)
        self.out_width = self.mixture.out_width

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[B or 1, width]` -> `[1, B, out_width]`, which the towers broadcast."""
        return self.mixture(parts)

    def gating(self, parts: Sequence[Tensor]) -> Gating:
        """The one gate under every head's name, and the experts' outputs."""
        found = self.mixture.gating(parts)
        return Gating(dict.fromkeys(self.heads, found.gates["all"]), found.experts)

    def gate_means(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]`; the same gate under every head's name."""
        mean = self.mixture.gate_means(parts)["all"]
        return dict.fromkeys(self.heads, mean)
