"""Owns the one definition of a feature that training, the Redis loader and the service share."""

from features.errors import FeatureError, SchemaError
from features.keys import MISSING_KEY, key_of, keys_of_column
from features.rows import BehaviourLayout, RowLayout
from features.schema import (
    BehaviourSchema,
    Categorical,
    Feature,
    FeatureSchema,
    MultiCategorical,
    Numeric,
)

__all__ = [
    "MISSING_KEY",
    "BehaviourLayout",
    "BehaviourSchema",
    "Categorical",
    "Feature",
    "FeatureError",
    "FeatureSchema",
    "MultiCategorical",
    "Numeric",
    "RowLayout",
    "SchemaError",
    "key_of",
    "keys_of_column",
]
