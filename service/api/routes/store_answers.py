"""Defines the answers of `GET /store/...`, and makes them from packed rows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AwareDatetime, Field

from features import MISSING_KEY, RowLayout
from features.layouts import EVENT_KEY_BYTES, Entity, Layouts, rows_of
from features.schemas.schema import Numeric, Vector
from features.schemas.strict_model import at_default
from service.api.fields import ResponseBody
from service.store.base import Lifetimes
from service.store.entity_rows import DecodedValue, PackedEntity, decoded_values, texts_of

# Names that are tried for hashed actions.
_ACTIONS = (
    "click", "view", "impression", "like", "follow", "comment", "share", "forward", "long_view", "play", "hate",
    "buy", "purchase", "order", "cart", "fav", "favorite", "pv", "search", "rate",
)  # fmt: skip
# The keys of values, by vocabulary.
Vocabularies = Mapping[str, Mapping[int, str]]


class DecodedBehaviour(NamedTuple):
    """One behaviour of a user: its item's features, its action and its scene."""

    features: Mapping[str, DecodedValue]
    action: DecodedValue
    scene: DecodedValue


class StoredValue(ResponseBody):
    """A value of a stored row. Categories are stored as hashes: their text is null where it could not be found.

    A missing value has neither keys, a number nor a vector.
    """

    keys: Annotated[tuple[str, ...], Field(description="the hashes, in hexadecimal")] = ()
    values: Annotated[tuple[str | None, ...], Field(description="the text of each key")] = ()
    number: float | None = None
    vector: Annotated[tuple[float, ...] | None, Field(exclude_if=at_default)] = None


class StoredRow(ResponseBody):
    """A row of a user or an item. `written_s_ago` is known only where rows expire."""

    bytes: int
    expires_in_s: float | None
    written_s_ago: float | None
    problem: str | None = None
    features: dict[str, StoredValue] = Field(default_factory=dict)


class StoredBehaviour(ResponseBody):
    """One behaviour of a user. A problem means that it does not fit the schema; `at` is null if its time is no date."""

    at: AwareDatetime | None
    action: StoredValue | None = None
    scene: StoredValue | None = None
    features: dict[str, StoredValue] = Field(default_factory=dict)
    problem: str | None = None


class StoredSequence(ResponseBody):
    """The behaviours of a user: `n` stored ones, of which a ranking reads `read`; the newest first."""

    n: int
    read: int
    newest_at: AwareDatetime | None
    oldest_at: AwareDatetime | None
    expires_in_s: float | None
    newest: tuple[StoredBehaviour, ...]


class StoredSchema(ResponseBody):
    """What the store has under one schema. `in_use`: a version that this worker has loaded reads it."""

    fingerprint: str
    in_use: bool
    loaded_at: Annotated[str | None, Field(description="null until the first load is complete")]
    row: StoredRow | None
    behaviours: Annotated[StoredSequence | None, Field(description="null for items, and without a sequence")]


class StoredEntity(ResponseBody):
    """What the store has for a user or an item."""

    entity: Literal["user", "item"]
    id: str
    schemas: tuple[StoredSchema, ...]


def answer(
    entity: Entity,
    entity_id: str,
    packed: Sequence[PackedEntity],
    in_use: set[str],
    known: Iterable[str],
    lifetimes: Lifetimes,
    behaviours: int,
) -> StoredEntity:
    """Decode packed rows, with the newest `behaviours`; `known` are texts that hashed values may have."""
    texts = [*known, *_ACTIONS]
    schemas = tuple(
        _schema(of_schema, entity, of_schema.layouts.fingerprint in in_use, texts, lifetimes, behaviours)
        for of_schema in packed
    )
    return StoredEntity(entity=entity, id=entity_id, schemas=schemas)


def _schema(
    packed: PackedEntity, entity: Entity, in_use: bool, known: list[str], lifetimes: Lifetimes, behaviours: int
) -> StoredSchema:
    layouts = packed.layouts
    layout = layouts.layout(entity)
    # Decode the row and the behaviours.
    row = None
    row_values: Mapping[str, DecodedValue] = {}
    if packed.row is not None and len(packed.row) == layout.dtype.itemsize:
        row = rows_of(layout, packed.row, 1)[0]
        row_values = decoded_values(layout, row)
    newest = [_decoded_behaviour(layouts, member) for _, member in packed.behaviours[:behaviours]]
    # Find the texts of all keys of a vocabulary at once.
    keys: dict[str, set[int]] = defaultdict(set)
    _collect(keys, layout, row_values)
    for behaviour in newest:
        if behaviour is not None:
            _collect_of_behaviour(keys, layouts, behaviour)
    texts = {vocabulary: texts_of(vocabulary, of_vocabulary, known) for vocabulary, of_vocabulary in keys.items()}
    # Write the answer.
    sequence = None
    if entity == "user" and layouts.behaviour is not None:
        times = [_time(time_ms) for time_ms, _ in packed.behaviours]
        shown = [_behaviour(layouts, at, behaviour, texts) for at, behaviour in zip(times, newest, strict=False)]
        sequence = StoredSequence(
            n=len(times),
            read=min(len(times), layouts.max_behaviours),
            newest_at=times[0] if times else None,
            oldest_at=times[-1] if times else None,
            expires_in_s=_seconds(packed.behaviours_expire_ms),
            newest=tuple(shown),
        )
    stored = None
    if packed.row is not None:
        lifetime_ms = lifetimes.user_ms if entity == "user" else 0
        stored = StoredRow(
            bytes=len(packed.row),
            expires_in_s=_seconds(packed.row_expires_ms),
            written_s_ago=_age(lifetime_ms, packed.row_expires_ms),
            problem=None if row is not None else f"corrupt: the schema's rows have {layout.dtype.itemsize} bytes",
            features={name: _value(value, _vocabulary(layout, name), texts) for name, value in row_values.items()},
        )
    return StoredSchema(
        fingerprint=layouts.fingerprint, in_use=in_use, loaded_at=packed.loaded_at, row=stored, behaviours=sequence
    )


def _decoded_behaviour(layouts: Layouts, member: bytes) -> DecodedBehaviour | None:
    """The values of a behaviour; None if it does not fit the schema."""
    layout = layouts.behaviour
    assert layout is not None
    content = member[EVENT_KEY_BYTES:]
    if len(content) != layout.dtype.itemsize:
        return None
    row = np.frombuffer(content, dtype=layout.dtype)[0]
    action, scene = (DecodedValue(keys=(int(key),) if key != MISSING_KEY else ()) for key in row["keys"][-2:])
    return DecodedBehaviour(decoded_values(layout, row), action, scene)


def _collect(keys: dict[str, set[int]], layout: RowLayout, values: Mapping[str, DecodedValue]) -> None:
    for name, value in values.items():
        if value.keys:
            keys[_vocabulary(layout, name)].update(value.keys)


def _collect_of_behaviour(keys: dict[str, set[int]], layouts: Layouts, behaviour: DecodedBehaviour) -> None:
    schema = layouts.schema.behaviour
    assert schema is not None
    _collect(keys, layouts.item, behaviour.features)
    keys[schema.action_vocabulary].update(behaviour.action.keys)
    keys[schema.scene_vocabulary].update(behaviour.scene.keys)


def _vocabulary(layout: RowLayout, name: str) -> str:
    feature = layout.feature(name)
    return name if isinstance(feature, Numeric | Vector) else feature.vocabulary_name


def _behaviour(
    layouts: Layouts, at: datetime | None, decoded: DecodedBehaviour | None, texts: Vocabularies
) -> StoredBehaviour:
    if decoded is None:
        return StoredBehaviour(at=at, problem="corrupt: it does not fit the schema")
    schema = layouts.schema.behaviour
    assert schema is not None
    return StoredBehaviour(
        at=at,
        action=_value(decoded.action, schema.action_vocabulary, texts),
        scene=_value(decoded.scene, schema.scene_vocabulary, texts),
        features={
            name: _value(value, _vocabulary(layouts.item, name), texts) for name, value in decoded.features.items()
        },
    )


def _value(value: DecodedValue, vocabulary: str, texts: Vocabularies) -> StoredValue:
    of_vocabulary = texts.get(vocabulary, {})
    return StoredValue(
        keys=tuple(f"{key & (2**64 - 1):016x}" for key in value.keys),
        values=tuple(of_vocabulary.get(key) for key in value.keys),
        number=value.number,
        vector=value.vector,
    )


def _time(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _age(lifetime_ms: int, expires_ms: int | None) -> float | None:
    """Seconds since the last write, which a lifetime counts from."""
    return (lifetime_ms - expires_ms) / 1000 if lifetime_ms and expires_ms is not None else None
