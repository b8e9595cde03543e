"""Ranks with a user's features and behaviours from the request, in place of the stored ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.keys import text_of
from features.layouts import EVENT_KEY_BYTES, Layouts
from service.errors import invalid
from service.ranking.inputs.assemble import item_rows, pack_raw
from service.ranking.query import InlineBehaviour, Query
from service.store.base import StoredRows
from service.store.item_rows import ItemRows

_NO_EVENT = bytes(EVENT_KEY_BYTES)  # a stored behaviour has the key of its event before the row


@dataclass(frozen=True, eq=False)
class PackedUser:
    """A user from a request: the packed row, the behaviours that count, newest first (each None if it is not given),
    and the items to read: the candidates, then the other items of the behaviours.
    """

    row: bytes | None
    behaviours: Sequence[InlineBehaviour] | None
    item_ids: Sequence[str]


def packed_user(layouts: Layouts, query: Query, before: int) -> PackedUser | None:
    """The user given in a request; None if there is none. Behaviours count if they are older than `before`
    (milliseconds).

    Raises InvalidRequest for a feature that does not fit, a required one that is left out, and behaviours that the
    model does not read.
    """
    user = query.inline_user
    if user is None:
        return None
    behaviours: list[InlineBehaviour] | None = None
    item_ids = query.item_ids
    if user.behaviours is not None:
        if layouts.behaviour is None:
            raise invalid("behaviours", "the model reads no behaviour sequence")
        behaviours = _counted(user.behaviours, before, layouts.max_behaviours)
        item_ids = list(dict.fromkeys([*item_ids, *(behaviour.item_id for behaviour in behaviours)]))
    row = None if user.features is None else _packed_row(layouts, query.user_id, user.features)
    return PackedUser(row, behaviours, item_ids)


def with_packed_user(layouts: Layouts, user: PackedUser, candidates: int, stored: StoredRows | None) -> StoredRows:
    """What the store gave for the user's `item_ids` (None if it is away), with the user in it.

    Of the items the `candidates` first ones stay.
    """
    every = item_rows(layouts, stored, user.item_ids)
    items = ItemRows(every.keys[:candidates], every.numerics[:candidates], every.states[:candidates])
    if stored is None:
        # The answer says that the store is away; its items do not count as unknown besides.
        items.states[:] = 0
        stored = StoredRows(None, [], items, {})
    row = stored.user if user.row is None else user.row
    members = stored.behaviours if user.behaviours is None else _members(layouts, user, every)
    counters = stored.counters
    if counters is not None:
        counters = replace(counters, items=counters.items[:candidates])
    return StoredRows(row, members, items, stored.corrupt, stored.unread, stored.shown, counters)


def _packed_row(layouts: Layouts, user_id: str, values: Mapping[str, object]) -> bytes:
    for feature in layouts.user.features:
        if feature.required and feature.name not in values and feature.name != layouts.schema.user_id_feature:
            raise invalid(f"user_features.{feature.name}", "a value is required")
    return pack_raw(layouts.user, values, "user_features", onto=layouts.unknown_row("user", user_id))


def _counted(behaviours: Sequence[InlineBehaviour], before: int, most: int) -> list[InlineBehaviour]:
    """The behaviours that count, as stored ones would: each once, the newest `most` before a time, newest first."""
    # Of one time, a later behaviour of the list counts as newer; a repeated behaviour keeps its first position.
    distinct = {(b.item_id, text_of(b.action, "action"), text_of(b.scene, "scene"), b.time_ms): b for b in behaviours}
    newest_first = list(distinct.values())[::-1]
    newest_first.sort(key=lambda behaviour: -behaviour.time_ms)
    return [behaviour for behaviour in newest_first if behaviour.time_ms < before][:most]


def _members(layouts: Layouts, user: PackedUser, rows: ItemRows) -> list[bytes]:
    """Behaviours as the store has them; each carries its item's features."""
    assert layouts.behaviour is not None
    behaviours = user.behaviours or ()
    place_of = {item_id: place for place, item_id in enumerate(user.item_ids)}
    places = [place_of[behaviour.item_id] for behaviour in behaviours]
    items = layouts.item.empty(len(places))
    items["keys"] = rows.keys[places]
    items["numerics"] = rows.numerics[places]
    packed = layouts.behaviour.of_items(
        items,
        np.array([behaviour.action for behaviour in behaviours], dtype=object),
        np.array([behaviour.scene for behaviour in behaviours], dtype=object),
        np.array([behaviour.time_ms for behaviour in behaviours], dtype=np.int64),
    )
    return [_NO_EVENT + row.tobytes() for row in packed]
