"""Features that only rules read: declared beside a model's schema, so that no model needs to be trained again."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from features.errors import SchemaError
from features.schemas.counter_schema import Counter
from features.schemas.schema import Feature, FeatureSchema, Numeric
from features.schemas.strict_model import SchemaPart, at_default

Features = Annotated[tuple[Feature, ...], Field(exclude_if=at_default)]
Counters = Annotated[tuple[Counter, ...], Field(exclude_if=at_default, max_length=64)]


class RuleFeatures(SchemaPart):
    """Features of items and candidates, and counters, that rules read and the graph does not.

    They stand behind the features of the graph, so that its inputs are the first columns of the rows.
    """

    item: Features = ()
    candidate: Features = ()
    counters: Counters = ()

    @model_validator(mode="after")
    def _check(self) -> "RuleFeatures":
        for feature in self.item:
            if isinstance(feature, Numeric) and feature.within_request:
                raise SchemaError(f"feature '{feature.name}': within_request is an input of the graph", ("item",))
        return self

    def behind(self, schema: FeatureSchema) -> FeatureSchema:
        """Return the schema with these features behind its own. Raises SchemaError for a name that it has already."""
        parts: dict[str, Any] = {name: getattr(schema, name) for name in FeatureSchema.model_fields}
        for group in RuleFeatures.model_fields:
            parts[group] = (*parts[group], *getattr(self, group))
        return FeatureSchema(**parts)
