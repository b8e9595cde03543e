"""Computes a ranking's rows again from the tables that training reads: users, items and behaviours."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from features.keys import keys_of_column
from features.layouts import Layouts
from features.packing.rows import RowLayout
from loop.errors import LogError
from loop.proof.records import Exposure
from service.bundle.loading import Bundle
from tables import Table, TableNames, find_table, packed_rows
from tables.packing import feature_columns, list_columns


@dataclass
class SourceRows:
    """Rows of the tables for the users and items of a sample: packed rows by id, and behaviours by user.

    A behaviour is `(time, item, action key, scene key)`, in order of time.
    """

    layouts: Layouts
    users: dict[str, bytes] = field(default_factory=dict)
    items: dict[str, bytes] = field(default_factory=dict)
    behaviours: dict[str, list[tuple[int, str, int, int]]] = field(default_factory=dict)

    def behaviours_at(self, user_id: str, moment_ms: int, with_present: bool) -> np.ndarray:
        """The behaviour rows that a ranking must have seen as of a time, newest first.

        `with_present`: a request without a timestamp of its own also reads behaviours of its own millisecond.
        """
        is_present_read = with_present and not self.layouts.lag_ms
        return self.behaviours_before(user_id, moment_ms + 1 if is_present_read else moment_ms - self.layouts.lag_ms)

    def behaviours_before(self, user_id: str, before_ms: int) -> np.ndarray:
        """The behaviour rows that a ranking must have seen, newest first, as training gathers them."""
        layout = self.layouts.behaviour
        assert layout is not None
        seen = [each for each in self.behaviours.get(user_id, ()) if each[0] < before_ms]
        newest = seen[-self.layouts.max_behaviours :][::-1]
        rows = layout.empty(len(newest))
        for place, (time_ms, item, action, scene) in enumerate(newest):
            packed = self.items.get(item) or self.layouts.unknown_row("item", item)
            event_row = layout.pack_event(packed, None, None, time_ms)
            rows[place] = np.frombuffer(event_row, layout.dtype)[0]
            rows["keys"][place, layout.item_key_width :] = (action, scene)
        return rows


def read_sources(tables: Path, layouts: Layouts, sample: Sequence[Exposure], names: TableNames) -> SourceRows:
    """Read the rows of the exposures' users and items, and of the items in the users' behaviours.

    `names` are those of the recipe that trained on these tables. Raises TableError, and LogError without
    a table that the recipe names.
    """
    users = {each["user_id"] for each in sample}
    items = {item for each in sample for item in each["item_ids"]}
    rows = SourceRows(layouts)
    schema = layouts.schema
    behaviours = _opened(tables, "behaviours", names)
    if behaviours is not None and schema.behaviour is not None:
        rows.behaviours = _behaviours(behaviours, layouts, users, names)
    items |= {item for events in rows.behaviours.values() for _, item, _, _ in events}
    for role, layout, id_feature, id_column, ids, found_in in (
        ("users", layouts.user, schema.user_id_feature, names.user_id, users, rows.users),
        ("items", layouts.item, schema.item_id_feature, names.item_id, items, rows.items),
    ):
        table = _opened(tables, role, names)
        if table is not None:
            found_in.update(_rows(table, layout, id_feature, id_column, ids))
    return rows


def names_of(sample: Sequence[Exposure], bundles: Mapping[str, Bundle | str]) -> TableNames:
    """The names of tables and columns in the manifest of the exposures' model; the defaults if it has none."""
    for exposure in sample:
        bundle = bundles[f"{exposure['model']}/{exposure['version']}"]
        if isinstance(bundle, Bundle):
            return bundle.manifest.tables or TableNames()
    return TableNames()


def _opened(tables: Path, role: str, names: TableNames) -> Table | None:
    """The table of a role; None if there is none. Raises LogError if the recipe names one."""
    name = names.file_of(role)
    table = find_table(tables, role, name)
    if table is None and name is not None:
        raise LogError(f"{tables} has no {name}, which the recipe names as its {role}")
    return table


def _rows(
    table: Table, layout: RowLayout, id_feature: str | None, id_column: str, ids: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    names = feature_columns(layout, id_feature)
    for batch in table.batches([id_column, *names], list_columns(layout)):
        texts = batch.texts(id_column)
        places = np.array([place for place, text in enumerate(texts) if text in ids], dtype=np.int64)
        if len(places):
            packed = packed_rows(layout, batch.selection(places), id_feature, id_column)
            for place, row in zip(places.tolist(), packed, strict=True):
                yield texts[place], row.tobytes()


def _behaviours(
    table: Table, layouts: Layouts, users: Collection[str], names: TableNames
) -> dict[str, list[tuple[int, str, int, int]]]:
    schema = layouts.schema.behaviour
    assert schema is not None
    by_user: dict[str, list[tuple[int, str, int, int]]] = {}
    for batch in table.batches([names.user_id, names.item_id, names.time_ms, "action", "scene"]):
        texts = batch.texts(names.user_id)
        places = np.array([place for place, text in enumerate(texts) if text in users], dtype=np.int64)
        if not len(places):
            continue
        of_users = batch.selection(places)
        actions = of_users.keys("action", lambda values: keys_of_column(schema.action_vocabulary, values, "action"))
        scenes = of_users.keys("scene", lambda values: keys_of_column(schema.scene_vocabulary, values, "scene"))
        columns = (
            of_users.texts(names.user_id),
            of_users.times(names.time_ms).tolist(),
            of_users.texts(names.item_id),
            actions.tolist(),
            scenes.tolist(),
        )
        for user, *event in zip(*columns, strict=True):
            by_user.setdefault(user, []).append((event[0], event[1], event[2], event[3]))
    # Of equal behaviours one counts, and those of one time keep their order.
    return {user: sorted(dict.fromkeys(events), key=lambda event: event[0]) for user, events in by_user.items()}
