"""The log that a service would have written, had it shown the impressions of the small tables."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features import FeatureSchema
from features.layouts import Layouts
from loop.log.hours import HOUR_MS, add_to_hour, hour_file
from service.exposures.folder import keep_schema, prepare
from tables.log_records import RecordKind, batch_of

Rows = dict[RecordKind, list[dict[str, Any]]]
ACTIONS = {"click": "click", "long_view": "watch", "like": "like"}
LOG_SECTION: dict[str, Any] = {
    "seen": {"by": "explicit"},
    "labels": {label: {"actions": [action], "window_s": 1800} for label, action in ACTIONS.items()},
    "lateness_s": 60,
}


def raw(value: Any) -> Any:
    """A value of pandas as JSON has it."""
    if isinstance(value, list | np.ndarray):
        return np.asarray(value).tolist()
    if value is None or value is pd.NA or value != value:
        return None
    return value.item() if isinstance(value, np.generic) else value


class Shown:
    """What a service knew of the users and items of tables, and the records of showing their impressions."""

    def __init__(self, tables: dict[str, pd.DataFrame], features: dict[str, Any]) -> None:
        self.layouts = Layouts.of(FeatureSchema.model_validate(features))
        self.document = self.layouts.schema.model_dump_json().encode()
        self.schema = hashlib.sha256(self.document).hexdigest()[:16]
        self.tables = tables
        self.users = self._packed(tables["users"], self.layouts.user, "user_id")
        self.items = self._packed(tables["items"], self.layouts.item, "item_id")

    @staticmethod
    def _packed(table: pd.DataFrame, layout: Any, key: str) -> dict[int, bytes]:
        names = [feature.name for feature in layout.features]
        return {row[key]: layout.pack({n: raw(row[n]) for n in names}) for row in table.to_dict("records")}

    def rows(self) -> Rows:
        """The records: a list of three items per impression, of which the second came into view, and its events."""
        rows: Rows = {kind: [] for kind in RecordKind}
        shown = self.tables["impressions"].sort_values("time_ms", kind="stable").to_dict("records")
        others = sorted(self.items)
        for n, row in enumerate(shown):
            request = f"r-{n}"
            near = [item for item in (others[n % len(others)], others[(n + 7) % len(others)]) if item != row["item_id"]]
            ids = [near[0], row["item_id"], *near[1:]]
            rows[RecordKind.EXPOSURES].append(self._exposure(request, row, ids))
            at = row["time_ms"]
            about = {"request_id": request, "item_id": str(row["item_id"]), "position": 2}
            rows[RecordKind.IMPRESSIONS].append(
                about | {"impression_id": f"i-{n}", "time_ms": at + 500, "logged_ms": at + 900}
            )
            for label, action in ACTIONS.items():
                if row[label]:
                    event = {"event_id": f"e-{n}-{label}", "user_id": str(row["user_id"]), "action": action}
                    rows[RecordKind.EVENTS].append(about | event | {"time_ms": at + 5000, "logged_ms": at + 6000})
        return rows

    def _exposure(self, request: str, row: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        layouts = self.layouts
        user = layouts.user.rows(self.users[row["user_id"]])
        items = layouts.item.rows(b"".join(self.items[item] for item in ids))
        of_shown = {feature.name: raw(row[feature.name]) for feature in layouts.candidate.features}
        packed = layouts.candidate.pack(of_shown)
        blank = layouts.candidate.default_row
        own = [packed if item == row["item_id"] else blank for item in ids]
        candidates = layouts.candidate.rows(b"".join(own)) if packed else layouts.candidate.empty(len(ids))
        context = layouts.context.rows(
            layouts.context.pack({f.name: raw(row[f.name]) for f in layouts.context.features})
        )
        behaviours = self._behaviours(row["user_id"], row["time_ms"])
        count = len(ids)
        named = self._named(user, items, context, behaviours, candidates)
        return {
            "request_id": request,
            "logged_ms": row["time_ms"] + 20,
            "time_ms": row["time_ms"],
            "user_id": str(row["user_id"]),
            "model": "tiny",
            "version": "1",
            "role": "stable",
            "schema": self.schema,
            "fingerprint": layouts.fingerprint,
            "profile": "default",
            "fusion": '{"kind":"weighted_sum","weights":{"pctr":1.0}}',
            "fusion_revision": 0,
            "degraded": [],
            "requested": count,
            "returned": count,
            "chunk": 500,
            "tasks": ["pctr"],
            "item_ids": [str(item) for item in ids],
            "places": np.arange(count, dtype=np.int32),
            "scores": np.linspace(1, 0, count),
            "predictions": np.linspace(1, 0, count).astype(np.float32),
            "propensity": 1.0,
            **{f"{name}_keys": rows["keys"].tobytes() for name, rows in named},
            **{f"{name}_numerics": rows["numerics"].tobytes() for name, rows in named},
            "behaviour_times": behaviours["time"].tobytes(),
        }

    @staticmethod
    def _named(*rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
        return list(zip(("user", "item", "context", "behaviour", "candidate"), rows, strict=True))

    def _behaviours(self, user: int, before: int) -> np.ndarray:
        """The newest behaviours that are older than a time, newest first, as the store gives them."""
        assert self.layouts.behaviour is not None
        table = self.tables["behaviours"]
        seen = table[(table["user_id"] == user) & (table["time_ms"] < before)].sort_values("time_ms", kind="stable")
        seen = seen.drop_duplicates().tail(self.layouts.max_behaviours).iloc[::-1]
        items = self.layouts.item.rows(b"".join(self.items[item] for item in seen["item_id"]))
        return self.layouts.behaviour.of_items(
            items,
            seen["action"].to_numpy(object),
            np.array([raw(value) for value in seen["scene"]], dtype=object),
            seen["time_ms"].to_numpy(np.int64),
        )

    def write(self, log: Path, rows: Rows) -> Path:
        """Write records as a compacted log."""
        prepare(log)
        keep_schema(log, self.schema, self.document)
        return write_log(log, rows)


def write_log(log: Path, rows: Rows) -> Path:
    """Write records into the files of one hour, whenever they were logged: the join reads all hours."""
    for kind, records in rows.items():
        if records:
            batch = batch_of(kind, records)
            hour = records[0]["logged_ms"] // HOUR_MS
            add_to_hour(hour_file(log, hour, kind), kind, ["made"], lambda batch=batch: [batch])
    return log
