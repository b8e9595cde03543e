"""Converts the original file of Taobao's UserBehavior to the canonical tables.

Source: Alibaba Tianchi, data set 649, "User Behavior Data from Taobao for Recommendation": page views (pv), carts,
wishes (fav) and purchases (buy) of 25 November to 3 December 2017. Its terms allow non-commercial research and no
passing on, so none of it is part of this project.

The log has no impressions: it does not list items that were shown and not clicked, and a pv is a click. So a pv is
used as an impression whose label `click` is 1, and ESM2's chain continues from it: click -> cart or wish -> purchase.
A model of these tables predicts what users do with an item that they look at, not whether they look at it.

A label says what the same user does within WINDOW after the pv. So the last WINDOW of the log has no impressions, and
a recipe leaves a gap of WINDOW between its parts. Counts are from 25 and 26 November, and impressions start on the
27th, so no feature contains a label. Only the first USERS users of the file are read, without the last one, whose
events may be incomplete.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from models.prepare.original import as_table_error, read_original
from models.prepare.write import write_table

EXTRACT = "first_815_users_20171125_1203.parquet"
ORIGINAL = "UserBehavior.csv"
COLUMNS = ("user_id", "item_id", "category_id", "behavior", "timestamp")
KINDS = ("pv", "cart", "fav", "buy")
ACTIONS = ("cart", "fav")  # ESM2's deterministic actions
USERS = 815
HOUR_MS = 3_600_000
UTC_OFFSET_MS = 8 * HOUR_MS
WINDOW_MS = 6 * HOUR_MS  # 85 % of the purchases that follow within a day
LOG_START, STATISTICS_END, LOG_END = (
    int(pd.Timestamp(day, tz="Asia/Shanghai").value // 1_000_000) for day in ("2017-11-25", "2017-11-27", "2017-12-04")
)
LABELS = {
    "action": ("item_id", ACTIONS),
    "buy": ("item_id", ("buy",)),
    "action_in_category": ("category_id", ACTIONS),
    "buy_in_category": ("category_id", ("buy",)),
}


def prepare_taobao(source: Path, out: Path) -> dict[str, int]:
    """Write users, items, behaviours and impressions under `out`; return the number of rows of each.

    Raises FileNotFoundError, TableError and other ValueErrors.
    """
    log = read_log(source)
    # Counts come from the days before the first impression.
    early = log[log["time_ms"] < STATISTICS_END]
    items = log[["item_id", "category_id"]].drop_duplicates("item_id").sort_values("item_id")
    items = items.join(counts(early, "item_id", "item"), on="item_id").join(
        counts(early, "category_id", "category"), on="category_id"
    )
    users = (
        log[["user_id"]].drop_duplicates().sort_values("user_id").join(counts(early, "user_id", "user"), on="user_id")
    )
    behaviours = log[["user_id", "item_id", "action", "time_ms"]].assign(
        scene=pd.array([pd.NA] * len(log), dtype="Int8")
    )
    tables = {
        "users": users.fillna(0),
        "items": items.fillna(0),
        "behaviours": behaviours,
        "impressions": impressions_of(log),
    }
    for name, table in tables.items():
        write_table(pa.Table.from_pandas(table, preserve_index=False), out / f"{name}.parquet")
    return {name: len(table) for name, table in tables.items()}


def read_log(source: Path) -> pd.DataFrame:
    """Read the events of all users but the last, inside the log's nine days, without duplicate rows.

    They are ordered by user and time; events of the same time keep the file's order.

    Raises FileNotFoundError if neither the download nor the extract exists, ValueError for a behaviour type that the
    log does not have.
    """
    if (source / EXTRACT).is_file():
        raw = read_original(source / EXTRACT, COLUMNS)[list(COLUMNS)]
    elif (source / ORIGINAL).is_file():
        raw = _first_users(source / ORIGINAL)
    else:
        raise FileNotFoundError(
            f"{source}: found neither {ORIGINAL} nor {EXTRACT}; download UserBehavior.csv.zip from "
            "https://tianchi.aliyun.com/dataset/649 (an account is needed, its terms are non-commercial) and unpack it "
            "there"
        )
    unknown = sorted(set(raw["behavior"].unique()) - set(KINDS))
    if unknown:
        raise ValueError(f"{source}: behaviour type {unknown[0]!r}; the log's are {', '.join(KINDS)}")
    # The file may have been cut inside its last user.
    whole = raw[raw["user_id"] != raw["user_id"].iloc[-1]].drop_duplicates()
    log = whole.assign(time_ms=whole["timestamp"] * 1000, action=pd.Categorical(whole["behavior"], categories=KINDS))
    log = log[log["time_ms"].between(LOG_START, LOG_END, inclusive="left")].sort_values(
        ["user_id", "time_ms"], kind="stable"
    )
    return log[["user_id", "item_id", "category_id", "action", "time_ms"]].reset_index(drop=True)


def _first_users(path: Path) -> pd.DataFrame:
    """Read the rows of the first USERS users of the download (3.7 GB, no header, ordered by user).

    The rest of the file is not read.
    """
    read: list[pd.DataFrame] = []
    seen: set[int] = set()
    with as_table_error(path), pd.read_csv(path, header=None, names=list(COLUMNS), chunksize=100_000) as chunks:
        for chunk in chunks:
            read.append(chunk)
            seen |= set(chunk["user_id"])
            if len(seen) > USERS:
                break
    rows = pd.concat(read, ignore_index=True)
    return rows[rows["user_id"].isin(rows["user_id"].unique()[:USERS])]


def counts(events: pd.DataFrame, key: str, prefix: str) -> pd.DataFrame:
    """Count events by kind, in columns `<prefix>_<kind>`; the key is the index."""
    table = pd.crosstab(events[key], events["action"].astype(str)).reindex(columns=list(KINDS), fill_value=0)
    return table.astype(np.float32).rename(columns=lambda kind: f"{prefix}_{kind}")


def impressions_of(log: pd.DataFrame) -> pd.DataFrame:
    """Return every pv between the counted days and the last WINDOW of the log, with its labels; the hour is local
    (UTC+8).
    """
    views = log[(log["action"] == "pv") & (log["time_ms"] >= STATISTICS_END) & (log["time_ms"] < LOG_END - WINDOW_MS)]
    rows = views.sort_values("time_ms", kind="stable").drop(columns="action")
    rows["hour"] = ((rows["time_ms"] + UTC_OFFSET_MS) // HOUR_MS % 24).astype(np.int8)
    rows["click"] = np.int8(1)
    for label, (key, kinds) in LABELS.items():
        rows[label] = _followed(rows, log[log["action"].isin(kinds)], key)
    return rows.drop(columns="category_id").sort_values(["user_id", "time_ms"], kind="stable").reset_index(drop=True)


def _followed(views: pd.DataFrame, acts: pd.DataFrame, key: str) -> np.ndarray:
    """Return whether the user of each view acts on the same item (or category) later and within WINDOW, int8 `[n]`.

    `views` are ordered by time.
    """
    acts = acts[["user_id", key, "time_ms"]].assign(next_ms=acts["time_ms"]).sort_values("time_ms", kind="stable")
    next_act = pd.merge_asof(
        views[["user_id", key, "time_ms"]],
        acts,
        on="time_ms",
        by=["user_id", key],
        direction="forward",
        allow_exact_matches=False,
    )["next_ms"]
    return np.asarray((next_act - views["time_ms"].to_numpy()) <= WINDOW_MS, dtype=np.int8)
