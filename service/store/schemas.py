"""The list of feature schemas that a store holds rows of: its entries, and whether a model's schema is among them."""

from dataclasses import dataclass

import orjson

from features import FeatureSchema
from features.layouts import Layouts
from service.store.base import FeatureStore, StoreDown


def is_loaded(document: str | bytes) -> bool:
    """Whether an entry's first load is complete. One that cannot be read counts as loaded."""
    try:
        return orjson.loads(document)["loaded_at"] is not None
    except (ValueError, KeyError, TypeError):
        return True


def schema_of(document: str | bytes) -> FeatureSchema:
    """An entry's schema. Raises ValueError if it cannot be read."""
    try:
        return FeatureSchema.model_validate(orjson.loads(document)["schema"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"no schema in it: {error}") from None


@dataclass(frozen=True)
class SchemaCheck:
    """Whether the store holds rows of a model's schema. `problem` is None if ranking makes sense.

    A store that is not `reachable` has no problem and does not fit either: nothing is known of it.
    """

    reachable: bool
    loaded: frozenset[str]
    problem: str | None


async def check_schema(store: FeatureStore, layouts: Layouts) -> SchemaCheck:
    """Look for the schema of `layouts`. A store with rows of other schemas alone would give defaults for everything."""
    try:
        schemas = await store.schemas()
    except StoreDown:
        return SchemaCheck(reachable=False, loaded=frozenset(), problem=None)
    loaded = frozenset(f for f, document in schemas.items() if is_loaded(document))
    if not loaded or layouts.fingerprint in loaded:
        return SchemaCheck(reachable=True, loaded=loaded, problem=None)
    known = ", ".join(f"{f} ({_described(schemas[f])})" for f in sorted(loaded))
    needed = f"{layouts.fingerprint} ({len(layouts.schema.user)} user and {len(layouts.schema.item)} item features)"
    advice = "run: python -m service load DIR --registry REGISTRY"
    detail = f"Redis was loaded with {known}; the model wants {needed}; {advice}"
    return SchemaCheck(reachable=True, loaded=loaded, problem=detail)


def _described(document: str) -> str:
    try:
        schema = orjson.loads(document)["schema"]
        return f"{len(schema['user'])} user and {len(schema['item'])} item features"
    except (ValueError, KeyError, TypeError):
        return "unreadable description"
