"""Separates the dense vectors in rows, such as embeddings of texts or images, from the single numbers beside them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from features import Feature, RowLayout, Vector

# Shape legend: ... any leading axes, N columns of a row's numerics, W width of a vector.


class PlainColumns:
    """The columns of single numbers in a row's numerics, beside those of vectors."""

    def __init__(self, features: Sequence[Feature]) -> None:
        layout = RowLayout(features)
        columns = list(layout.numeric_columns.values())
        self.whole = not layout.vector_columns
        self.runs = runs_of(columns)
        # The place of each column of a row among the single numbers; 0 for the columns of vectors.
        self.places = [columns.index(i) if i in columns else 0 for i in range(layout.numeric_width)]

    def of(self, raw: Tensor) -> Tensor:
        """Numerics `[..., N]` -> the single numbers alone, in their order."""
        if self.whole:
            return raw
        if len(self.runs) == 1:
            return raw[..., self.runs[0]]
        return torch.cat([raw[..., run] for run in self.runs], -1)

    def put_back(self, numbers: Tensor) -> Tensor:
        """Single numbers -> `[..., N]` with each in its column; what stands in a vector's columns has no meaning."""
        return numbers if self.whole else numbers[..., self.places]


class DenseVectors(nn.Module):
    """[x, 1] for each vector x of a row, or [0, 0] if it is missing; with `project`, W [x, 1] or 0."""

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        vectors = [feature for feature in features if isinstance(feature, Vector)]
        columns = RowLayout(features).vector_columns
        self.columns = [columns[feature.name] for feature in vectors]
        self.projections = nn.ModuleList(
            nn.Linear(v.width + 1, v.project, bias=False) if v.project else nn.Identity() for v in vectors
        )
        self.width = sum(v.project or v.width + 1 for v in vectors)

    def forward(self, raw: Tensor, unknown_rate: float) -> list[Tensor]:
        """Numerics `[..., N]` -> a piece `[..., width + 1]` or `[..., project]` per vector.

        In training, a share `unknown_rate` of the vectors is hidden.
        """
        pieces = []
        for columns, projection in zip(self.columns, self.projections, strict=True):
            vector = raw[..., columns]
            missing = torch.isnan(vector[..., :1])
            if self.training and unknown_rate:
                missing = missing | (torch.rand_like(vector[..., :1]) < unknown_rate)
            present = (~missing).to(vector.dtype)
            pieces.append(projection(torch.cat([torch.where(missing, 0, vector), present], -1)))
        return pieces


def runs_of(columns: Sequence[int]) -> list[slice]:
    """Group ascending column numbers into slices of adjacent columns."""
    runs: list[slice] = []
    for column in columns:
        if runs and runs[-1].stop == column:
            runs[-1] = slice(runs[-1].start, column + 1)
        else:
            runs.append(slice(column, column + 1))
    return runs
