"""Packs a batch of a table into rows, for training and for the store."""

from collections.abc import Mapping

import numpy as np

from features import MISSING_KEY, FeatureError, MultiCategorical, Numeric, RowLayout
from features.schema import Feature
from tables.batch import Batch


def list_columns(layout: RowLayout) -> frozenset[str]:
    """Return the columns that hold lists, which a CSV writes as `a|b|c`."""
    return frozenset(f.name for f in layout.features if isinstance(f, MultiCategorical))


def feature_columns(layout: RowLayout, id_feature: str | None = None) -> tuple[str, ...]:
    """Return the columns that a table of this layout has besides its id."""
    return tuple(f.name for f in layout.features if f.name != id_feature)


def packed_rows(
    layout: RowLayout, batch: Batch, id_feature: str | None = None, id_column: str | None = None
) -> np.ndarray:
    """Pack rows `[n]` of a batch that has every feature; `id_feature` is read from `id_column`.

    The result equals that of `RowLayout.pack` for the same values in JSON, bit for bit. Raises TableError that names
    column and row.
    """
    source = {f.name: f.name for f in layout.features}
    if id_feature is not None and id_column is not None:
        source[id_feature] = id_column
    columns = {f.name: _values(batch, f, source[f.name]) for f in layout.features}
    try:
        rows = layout.pack_columns(columns, len(batch))
    except FeatureError as error:
        name = error.field
        values = columns[name]
        raise batch.feature_error(
            source[name], error, lambda i: layout.pack_columns({name: values[i : i + 1]}, 1)
        ) from None
    _refuse_missing(layout, rows, batch, source)
    return rows


def _refuse_missing(layout: RowLayout, rows: np.ndarray, batch: Batch, source: Mapping[str, str]) -> None:
    """Raise TableError if a required feature is missing, as a request without it is refused."""
    for feature in layout.features:
        if not feature.required:
            continue
        if isinstance(feature, Numeric):
            missing = np.isnan(rows["numerics"][:, layout.numeric_columns[feature.name]])
        else:
            missing = (rows["keys"][:, layout.key_columns[feature.name]] == MISSING_KEY).all(axis=1)
        if missing.any():
            column = source[feature.name]
            raise batch.error(column, f"column {column}: a value is required", int(np.flatnonzero(missing)[0]))


def _values(batch: Batch, feature: Feature, column: str) -> np.ndarray:
    if isinstance(feature, Numeric):
        return batch.numbers(column)
    if isinstance(feature, MultiCategorical):
        return batch.lists(column)
    return batch.categories(column)
