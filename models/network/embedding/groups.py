"""Embeds a feature group: embedding rows and raw numbers become one vector, one piece per feature."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from features import Categorical, Feature, MultiCategorical, Numeric
from models.data.encoding.encoding import NumericStats
from models.data.encoding.vocabulary import MISSING_ROW
from models.network.embedding.compact import Lookup
from models.network.embedding.dense_vectors import DenseVectors, PlainColumns
from models.network.embedding.piecewise_linear import PiecewiseLinear, binned_columns

_LARGEST_SUM_AS_PRODUCT = 4096  # multiplications per row

# Shape legend: ... any leading axes, K key columns, N numerics, D embedding width, G pieces of a group side by side.


class Numerics(nn.Module):
    """g(f) = tanh((f - mu) / sigma), after signed log1p for columns that use it; a learned value replaces a missing
    one.

    Source: ESM2 (Wen et al. 2020, arXiv 1910.07099), equation 17; the learned missing value is Meituan's Missing Value
    Layer.
    """

    mean: Tensor
    deviation: Tensor
    log1p: Tensor

    def __init__(self, stats: NumericStats, log1p: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(stats.mean.copy()))
        self.register_buffer("deviation", torch.from_numpy(stats.deviation.copy()))
        self.register_buffer("log1p", torch.from_numpy(log1p.copy()))
        self.missing = nn.Parameter(torch.zeros(len(stats.mean)))
        self.any_log1p = bool(log1p.any())
        self.all_log1p = bool(log1p.all())

    def forward(self, raw: Tensor) -> Tensor:
        """Raw `[..., N]` with NaN for missing -> `[..., N]` in (-1, 1), or the learned value."""
        if self.all_log1p:
            value = _signed_log1p(raw)
        elif self.any_log1p:
            value = torch.where(self.log1p, _signed_log1p(raw), raw)
        else:
            value = raw
        scaled = torch.tanh((value - self.mean) / self.deviation)
        return torch.where(torch.isnan(raw), self.missing, scaled)


def _signed_log1p(raw: Tensor) -> Tensor:
    return torch.sign(raw) * torch.log1p(torch.abs(raw))


class NumericBins(nn.Module):
    """An embedding of the quantile bin that a raw number falls into; bin 0 is missing."""

    edges: Tensor
    offsets: Tensor

    def __init__(self, edges: np.ndarray, dim: int) -> None:
        super().__init__()
        columns = binned_columns(edges)
        self.columns = columns.tolist()
        self.register_buffer("edges", torch.from_numpy(edges[columns].copy()))
        bins = edges.shape[1] + 2
        self.register_buffer("offsets", torch.arange(len(columns)) * bins, persistent=False)
        self.table = nn.Embedding(len(columns) * bins, dim)
        nn.init.normal_(self.table.weight, std=0.05)

    def forward(self, raw: Tensor) -> Tensor:
        """Raw `[..., N]` with NaN for missing -> `[..., columns with bins * D]`."""
        values = raw[..., self.columns]
        place = (values.unsqueeze(-1) >= self.edges).sum(-1) + 1
        return self.table(torch.where(torch.isnan(values), 0, place) + self.offsets).flatten(-2)


class KeyColumns(nn.Module):
    """Embeds the key columns of a packed row with a shared table; a multi-valued feature is pooled."""

    unknown: Tensor

    def __init__(
        self, features: Sequence[Feature], unknown_rows: Sequence[int], widths: Sequence[int], extra_columns: int = 0
    ) -> None:
        """`unknown_rows` and `widths`: of each key column. A column narrower than the table reads its first numbers."""
        super().__init__()
        self.singles: list[int] = []
        self.multis: list[tuple[slice, str]] = []
        column = 0
        for feature in features:
            if isinstance(feature, Categorical):
                self.singles.append(column)
                column += 1
            elif isinstance(feature, MultiCategorical):
                self.multis.append((slice(column, column + feature.max_values), feature.pooling))
                column += feature.max_values
        self.singles += range(column, column + extra_columns)
        self.runs = _runs_of_a_width(self.singles, widths)
        self.pieces = len(self.singles) + len(self.multis)
        # The width of each piece, in the order of the vector: single values, then pooled ones.
        firsts = [*self.singles, *(columns.start for columns, _ in self.multis)]
        self.piece_widths = [widths[column] for column in firsts]
        self.register_buffer("unknown", torch.tensor(list(unknown_rows), dtype=torch.int64), persistent=False)

    def forward(self, rows: Tensor, lookup: Lookup, unknown_rate: float) -> Tensor:
        """Rows int64 `[..., K]` -> `[..., sum of the widths]`: single values in column order, then the pooled ones."""
        if self.training and unknown_rate:
            hidden = (torch.rand(rows.shape, device=rows.device) < unknown_rate) & (rows != MISSING_ROW)
            rows = torch.where(hidden, self.unknown, rows)
        embedded = lookup(rows)
        dim = embedded.shape[-1]
        if not self.multis and set(self.piece_widths) == {dim}:
            return embedded.flatten(-2)
        # Slices, because picking columns by index costs the graph two transposes.
        pieces = [_narrow(embedded[..., run, :], width).flatten(-2) for run, width in self.runs]
        for (columns, pooling), width in zip(self.multis, self.piece_widths[len(self.singles) :], strict=True):
            # Missing rows are zero vectors, so no mask is needed.
            total = _sum_of_values(_narrow(embedded[..., columns, :], width))
            if pooling == "mean":
                total = total / (rows[..., columns] > MISSING_ROW).to(total.dtype).sum(-1, keepdim=True).clamp(min=1)
            pieces.append(total)
        return torch.cat(pieces, -1)


def _runs_of_a_width(columns: Sequence[int], widths: Sequence[int]) -> list[tuple[slice, int]]:
    """Group ascending columns into slices of adjacent columns of one width, each with its width."""
    runs: list[tuple[slice, int]] = []
    for column in columns:
        width = widths[column]
        if runs and runs[-1] == (slice(runs[-1][0].start, column), width):
            runs[-1] = (slice(runs[-1][0].start, column + 1), width)
        else:
            runs.append((slice(column, column + 1), width))
    return runs


def _narrow(embedded: Tensor, width: int) -> Tensor:
    """The first `width` numbers of each embedding; a whole one is not cut, which would cost the graph a copy."""
    return embedded if width == embedded.shape[-1] else embedded[..., :width]


def _sum_of_values(embedded: Tensor) -> Tensor:
    """`[..., values, D]` -> `[..., D]`.

    In a graph, short vectors are added by a product with stacked identities, because a sum would cost ten times as
    much.
    """
    values, dim = embedded.shape[-2:]
    if torch.compiler.is_exporting() and values * dim * dim <= _LARGEST_SUM_AS_PRODUCT:
        return embedded.flatten(-2) @ torch.eye(dim, device=embedded.device).repeat(values, 1)
    return embedded.sum(-2)


class GroupEmbedding(nn.Module):
    """One group's vector: its key columns' embeddings, its numerics, its dense vectors, the embeddings of the bins.

    With `piecewise`, a number is embedded by its position in every bin instead of by the bin that it lies in.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        unknown_rows: Sequence[int],
        stats: NumericStats,
        log1p: np.ndarray,
        dim: int,
        widths: Sequence[int] = (),
        extra_columns: int = 0,
        piecewise: bool = False,
    ) -> None:
        super().__init__()
        self.keys = KeyColumns(features, unknown_rows, widths, extra_columns)
        self.plain = PlainColumns(features)
        self.n_numerics = len(stats.mean)
        self.n_binned = len(binned_columns(stats.edges))
        self.numerics: Numerics | None = None
        if self.n_numerics:
            self.numerics = Numerics(stats, log1p)
        self.bins: PiecewiseLinear | NumericBins | None = None
        if self.n_binned:
            self.bins = _bins(stats.edges, dim, piecewise)
        self.vectors: DenseVectors | None = None
        if not self.plain.whole:
            self.vectors = DenseVectors(features)
            self.n_numerics += self.vectors.width
        self.width = sum(self.keys.piece_widths) + self.n_binned * dim + self.n_numerics

    def forward(self, rows: Tensor, raw: Tensor | None, lookup: Lookup, unknown_rate: float) -> Tensor:
        """Rows `[..., K]` and raw numerics `[..., N]` -> `[..., G]`.

        In training, some ids are replaced by unknown ones and some numbers by missing ones.
        """
        keys = []
        if self.keys.pieces:
            keys.append(self.keys(rows, lookup, unknown_rate))
        return self.beside(keys, raw, unknown_rate)

    def beside(self, keys: list[Tensor], raw: Tensor | None, unknown_rate: float) -> Tensor:
        """Concatenate the embeddings of the key columns and those of the numeric columns -> `[..., G]`."""
        parts = list(keys)
        bins: list[Tensor] = []
        if self.numerics is not None and raw is not None:
            numbers = self.plain.of(raw)
            if self.training and unknown_rate:
                numbers = numbers.masked_fill(torch.rand_like(numbers) < unknown_rate, torch.nan)
            parts.append(self.numerics(numbers))
            if self.bins is not None:
                bins.append(self.bins(numbers))
        if self.vectors is not None and raw is not None:
            parts += self.vectors(raw, unknown_rate)
        parts += bins
        if len(parts) == 1:
            return parts[0]  # a concatenation of one vector would cost the graph a copy
        return torch.cat(parts, -1)


def _bins(edges: np.ndarray, dim: int, piecewise: bool) -> PiecewiseLinear | NumericBins:
    if piecewise:
        return PiecewiseLinear(edges, dim)
    return NumericBins(edges, dim)


def numerics_of(features: Sequence[Feature]) -> int:
    """The number of numeric values of these features."""
    return sum(isinstance(f, Numeric) for f in features)


def pieces_of(features: Sequence[Feature]) -> list[str]:
    """The names of the features in the key part of a group's vector, in its order: single values, then pooled ones."""
    kinds: tuple[type, ...] = (Categorical, MultiCategorical)
    return [f.name for kind in kinds for f in features if isinstance(f, kind)]
