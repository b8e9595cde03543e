"""The one definition of a feature, shared by training, export, the Redis load and the service."""

from features.behaviours import BehaviourLayout
from features.errors import FeatureError, SchemaError
from features.keys import MISSING_KEY, key_of, keys_of_column
from features.rows import RowLayout
from features.schema import (
    BehaviourSchema,
    Categorical,
    Feature,
    FeatureSchema,
    MultiCategorical,
    Numeric,
    Vector,
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
    "Vector",
    "key_of",
    "keys_of_column",
]
