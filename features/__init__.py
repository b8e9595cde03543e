"""The one definition of a feature, shared by training, export, the Redis load and the service."""

from features.errors import FeatureError, SchemaError
from features.keys import MISSING_KEY, key_of, keys_of_column
from features.packing.behaviours import BehaviourLayout
from features.packing.rows import RowLayout
from features.schemas.schema import (
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
