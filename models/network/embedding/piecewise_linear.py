"""Piecewise-linear encoding of numbers: the position of a number in each quantile bin of its column, 0 to 1."""

import numpy as np
import torch
from torch import Tensor, nn

# The steepest slope of a bin: a bin of one float32 step stays a step, and 0 * slope stays 0 instead of NaN.
_STEEPEST = 1e30

# Shape legend: ... any leading axes, N numerics, K encoded columns, E edges, T = E - 1 bins, D embedding width.


def binned_columns(edges_NE: np.ndarray) -> np.ndarray:
    """The columns that have bins: those with at least one finite edge."""
    return np.flatnonzero(np.isfinite(edges_NE).any(axis=1))


class PiecewiseLinear(nn.Module):
    """x -> e in [0, 1]^T, e_t = clip((x - b_{t-1}) / (b_t - b_{t-1}), 0, 1); then a linear layer per column.

    Unlike the source, the outermost bins are clipped too, so that a number beyond the training range cannot blow up.
    A missing number has a learnt vector of its own. A column with fewer edges than E has +inf after them; those bins
    stay 0.

    Source: Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS
    2022 (arXiv 2203.05556), equation 1 and section 3.2.
    """

    lower: Tensor
    slope: Tensor

    def __init__(self, edges: np.ndarray, dim: int) -> None:
        super().__init__()
        columns = binned_columns(edges)
        self.columns = columns.tolist()
        lower_KT, slope_KT = _bins(edges[columns])
        self.register_buffer("lower", torch.from_numpy(lower_KT))
        self.register_buffer("slope", torch.from_numpy(slope_KT))
        n, bins = lower_KT.shape
        # Initialised per column as nn.Linear does.
        bound = max(bins, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(n, bins, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, dim).uniform_(-bound, bound))
        self.missing = nn.Parameter(torch.zeros(n, dim))

    def encoded(self, values: Tensor) -> Tensor:
        """Raw `[..., K]` -> `[..., K, T]` in [0, 1]; NaN stays NaN."""
        return ((values.unsqueeze(-1) - self.lower) * self.slope).clamp(0, 1)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw `[..., N]` with NaN for missing -> `[..., K * D]`."""
        values = raw[..., self.columns]
        missing = torch.isnan(values)
        encoded = self.encoded(torch.where(missing, 0, values))
        embedded = torch.einsum("...kt,ktd->...kd", encoded, self.weight) + self.bias
        return torch.where(missing.unsqueeze(-1), self.missing, embedded).flatten(-2)


def _bins(edges_KE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower edge of each bin and 1 / its width, float32 `[K, T]` each; both are 0 for a bin that a column lacks."""
    lower = edges_KE[:, :-1].astype(np.float64)
    upper = edges_KE[:, 1:].astype(np.float64)
    present = np.isfinite(upper)
    width = np.where(present, upper, 1.0) - np.where(present, lower, 0.0)
    slope = np.minimum(1.0 / np.maximum(width, 1.0 / _STEEPEST), _STEEPEST)
    return (
        np.where(present, lower, 0.0).astype(np.float32),
        np.where(present, slope, 0.0).astype(np.float32),
    )
