"""Reads the list of feature schemas that a store has rows of, and checks whether a model's schema is listed."""

from dataclasses import dataclass

import orjson

from features import FeatureSchema
from features.layouts import Layouts
from service.store.base import FeatureStore, StoreDown


def is_loaded(document: str | bytes) -> bool:
    """Return whether an entry's first load is complete. An unreadable entry counts as loaded."""
    try:
        return orjson.loads(document)["loaded_at"] is not None
    except (ValueError, KeyError, TypeError):
        return True


def schema_of(document: str | bytes) -> FeatureSchema:
    """Return an entry's schema. Raises ValueError if it cannot be read."""
    try:
        return FeatureSchema.model_validate(orjson.loads(document)["schema"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"no schema in it: {error}") from None


def loaded_at_of(document: str | bytes) -> str | None:
    """Return when an entry's first load was complete; None before that. Raises ValueError if it cannot be read."""
    entry = orjson.loads(document)
    loaded_at = entry.get("loaded_at") if isinstance(entry, dict) else None
    return loaded_at if isinstance(loaded_at, str) else None


@dataclass(frozen=True)
class SchemaCheck:
    """Whether the store has rows of a model's schema. `problem` is None if the model can rank.

    A store that is not `reachable` has no problem and does not fit either, because nothing is known about it.
    """

    reachable: bool
    loaded: frozenset[str]
    problem: str | None


async def check_schema(store: FeatureStore, layouts: Layouts) -> SchemaCheck:
    """Look for the schema of `layouts`. If the store only has rows of other schemas, a ranking would use
    defaults only.
    """
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
    detail = f"Redis was loaded with {known}; the model needs {needed}; {advice}"
    return SchemaCheck(reachable=True, loaded=loaded, problem=detail)


def _described(document: str) -> str:
    try:
        schema = orjson.loads(document)["schema"]
        return f"{len(schema['user'])} user and {len(schema['item'])} item features"
    except (ValueError, KeyError, TypeError):
        return "unreadable description"
