"""Packs a batch of a table into rows, for training and for the store."""

from collections.abc import Mapping

import numpy as np

from features import MISSING_KEY, FeatureError, MultiCategorical, Numeric, RowLayout, Vector
from features.schemas.schema import Feature
from tables.batch import Batch
from tables.key64 import is_key64, key_lists, keys_of
from tables.vectors import vectors_of


def list_columns(layout: RowLayout) -> frozenset[str]:
    """Return the columns that hold lists, which a CSV writes as `a|b|c`."""
    return frozenset(f.name for f in layout.features if isinstance(f, MultiCategorical | Vector))


def feature_columns(layout: RowLayout, id_feature: str | None = None) -> tuple[str, ...]:
    """Return the columns that a table of this layout has besides its id."""
    return tuple(f.name for f in layout.features if f.name != id_feature)


def packed_rows(
    layout: RowLayout,
    batch: Batch,
    id_feature: str | None = None,
    id_column: str | None = None,
    *,
    served: bool = False,
) -> np.ndarray:
    """Pack rows `[n]` of a batch that has every feature; `id_feature` is read from `id_column`.

    `served`: the table holds what the service served, so that a required value may be missing.

    The result equals that of `RowLayout.pack` for the same values in JSON, bit for bit. Raises TableError that names
    column and row.
    """
    source = {f.name: f.name for f in layout.features}
    if id_feature is not None and id_column is not None:
        source[id_feature] = id_column
    hashed = [f for f in layout.features if is_key64(batch.rows, source[f.name])]
    columns = {f.name: _values(batch, f, source[f.name]) for f in layout.features if f not in hashed}
    try:
        rows = layout.pack_columns(columns, len(batch))
    except FeatureError as error:
        name = error.field
        values = columns[name]
        raise batch.feature_error(
            source[name], error, lambda i: layout.pack_columns({name: values[i : i + 1]}, 1)
        ) from None
    for feature in hashed:
        _put_keys(rows, layout, feature, batch, source[feature.name])
    # What was served without a required value is what happened, and training takes it so.
    if not served:
        _refuse_missing(layout, rows, batch, source)
    return rows


def _put_keys(rows: np.ndarray, layout: RowLayout, feature: Feature, batch: Batch, column: str) -> None:
    """Copy a column of keys into packed rows unchanged."""
    place = layout.key_columns[feature.name]
    if isinstance(feature, MultiCategorical):
        rows["keys"][:, place] = key_lists(batch.rows, column, feature.max_values)
    else:
        rows["keys"][:, place.start] = keys_of(batch.rows, column)


def _refuse_missing(layout: RowLayout, rows: np.ndarray, batch: Batch, source: Mapping[str, str]) -> None:
    """Raise TableError if a required feature is missing, as a request without it is refused."""
    for feature in layout.features:
        if not feature.required:
            continue
        if isinstance(feature, Numeric):
            missing = np.isnan(rows["numerics"][:, layout.numeric_columns[feature.name]])
        elif isinstance(feature, Vector):
            missing = np.isnan(rows["numerics"][:, layout.vector_columns[feature.name].start])
        else:
            missing = (rows["keys"][:, layout.key_columns[feature.name]] == MISSING_KEY).all(axis=1)
        if missing.any():
            column = source[feature.name]
            raise batch.error(column, f"column {column}: a value is required", int(np.flatnonzero(missing)[0]))


def _values(batch: Batch, feature: Feature, column: str) -> np.ndarray:
    if isinstance(feature, Numeric):
        return batch.numbers(column)
    if isinstance(feature, Vector):
        return vectors_of(batch, feature, column)
    if isinstance(feature, MultiCategorical):
        return batch.lists(column)
    return batch.categories(column)
