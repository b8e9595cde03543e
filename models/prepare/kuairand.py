"""Converts the original files of KuaiRand-Pure to the canonical tables.

Source: Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022; CC
BY-SA 4.0. Feature columns use no data after 30 April, so the tables suit any split whose training part starts on 1 May
or later. Days are those of the log's column `date`, by which the recipes split as well: in 1 % of the rows, it is the
day after the date of the timestamp, and counting by timestamp put labels of training rows into their own features.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from models.prepare.original import read_original
from models.prepare.statistics import Rates, smoothed_rates
from models.prepare.write import write_table

LOG = "log_standard_0425_0508.parquet"
USERS = "user_features_pure.parquet"
HISTORY = "user_history_0408_0424.parquet"
ITEMS = "video_features_basic_pure.parquet"
LICENCE = "LICENSE.KuaiRand.CC-BY-SA-4.0.txt"
HOUR_MS = 3_600_000
UTC_OFFSET_MS = 8 * HOUR_MS
STATISTICS_END = 20220501  # the first `date` that is not counted
HISTORY_START = pd.Timestamp("2022-04-08", tz="Asia/Shanghai")
ACTIONS = ("exposure", "click", "long_view", "like")  # weakest first; a behaviour carries the strongest
SEEN = "seen"  # an exposure that may have been clicked or not
LABELS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "is_profile_enter")

DELTA = {"impressions": ("user_id", "time_ms"), "behaviours": ("user_id",)}  # sorted within a row group

_LOG_LABELS = {"click": "is_click", "long_view": "long_view", "like": "is_like"}
_HISTORY_LABELS = {"long_view": "long_view", "like": "is_like"}

# The statistics columns: edit them here, and name the columns in the recipe.
LOG_RATES = (
    Rates("user", "user_id", _LOG_LABELS, {"click": 5, "long_view": 5, "like": 20}),
    Rates("item", "item_id", _LOG_LABELS, {"click": 20, "long_view": 20, "like": 60}),
    Rates("author", "author_id", _LOG_LABELS, {"click": 20, "long_view": 20, "like": 60}),
)
HISTORY_RATES = (
    Rates("user_history", "user_id", _HISTORY_LABELS, {"long_view": 5, "like": 20}),
    Rates("item_history", "item_id", _HISTORY_LABELS, {"long_view": 20, "like": 60}),
    Rates("author_history", "author_id", _HISTORY_LABELS, {"long_view": 20, "like": 60}),
)


def prepare_kuairand(source: Path, out: Path) -> dict[str, int]:
    """Write users, items, behaviours and impressions under `out`; return the number of rows of each. Raises
    TableError.
    """
    log = read_log(source / LOG)
    items = read_items(source / ITEMS)
    history = read_history(source / HISTORY)
    authors = items.set_index("item_id")["author_id"]
    users = read_users(source / USERS)
    # Count by the column that the recipes split by, so that no impression is both counted and trained on.
    early = log[log["date"] < STATISTICS_END]
    for counted, all_rates in ((early, LOG_RATES), (history, HISTORY_RATES)):
        rows = counted.assign(author_id=counted["item_id"].map(authors))
        for rates in all_rates:
            if rates.key == "user_id":
                users = users.join(smoothed_rates(rows, rates), on="user_id")
            else:
                items = items.join(smoothed_rates(rows, rates), on=rates.key)
    behaviours = pd.concat([history, behaviours_of(log)])
    tables = {
        "users": pa.Table.from_pandas(users, preserve_index=False),
        "items": pa.Table.from_pandas(items, preserve_index=False),
        "behaviours": pa.Table.from_pandas(
            behaviours[["user_id", "item_id", "action", "scene", "time_ms"]], preserve_index=False
        ),
        "impressions": pa.Table.from_pandas(log, preserve_index=False),
    }
    for name, table in tables.items():
        write_table(table, out / f"{name}.parquet", delta=DELTA.get(name, ()), row_group=len(history))
    shutil.copyfile(source / LICENCE, out / LICENCE)
    return {name: table.num_rows for name, table in tables.items()}


def read_log(path: Path) -> pd.DataFrame:
    """Read the impressions by user and time, without rows that are equal in all columns. The hour is local (UTC+8).

    `date` is the log's own partition, which assigns some minutes before midnight to the next day.
    """
    needed = ("user_id", "video_id", "time_ms", "date", "tab", *LABELS, "play_time_ms")
    raw = read_original(path, needed).drop_duplicates().sort_values(["user_id", "time_ms"], kind="stable")
    rows = raw.rename(columns={"video_id": "item_id"})
    rows["hour"] = ((rows["time_ms"] + UTC_OFFSET_MS) // HOUR_MS % 24).astype(np.int8)
    return rows[["user_id", "item_id", "time_ms", "date", "tab", "hour", *LABELS, "play_time_ms"]].reset_index(
        drop=True
    )


def read_items(path: Path) -> pd.DataFrame:
    """Read one row per video; tags `a,b` become lists; the duration also becomes a bucket, three per doubling."""
    needed = ("video_id", "author_id", "tag", "video_duration", "music_type", "server_width", "server_height")
    raw = read_original(path, (*needed, "visible_status"))
    raw = raw.rename(columns={"video_id": "item_id"}).drop(columns="visible_status")
    raw["tag"] = [[int(t) for t in tags.split(",") if t] if isinstance(tags, str) else [] for tags in raw["tag"]]
    seconds = np.maximum(raw["video_duration"] / 1000, 0.5)
    raw["duration_bucket"] = np.floor(np.log2(seconds) * 3).astype("Int8")
    raw["music_type"] = raw["music_type"].astype("Int8")
    for name in ("video_duration", "server_width", "server_height"):
        raw[name] = raw[name].astype(np.float32)
    return raw


def read_users(path: Path) -> pd.DataFrame:
    """Read one row per user; anonymised categories with gaps stay integers; the constant column is left out."""
    users = read_original(path, ("user_id", "is_lowactive_period")).drop(columns="is_lowactive_period")
    for name in users.columns:
        if users[name].dtype.kind == "f":
            users[name] = users[name].astype("Int16")
    return users


def read_history(path: Path) -> pd.DataFrame:
    """Read the exposures of 8 to 24 April as behaviours, newest last.

    The file gives only the time of the newest one. The older ones are spread evenly between 8 April and that time, all
    on whole hours (rounded down), as an approximation of their age. Exposures whose video is among the user's liked or
    long-viewed ones get that action. The file does not say which were clicked, so the rest is `seen`, not `exposure`,
    and it gives no scene. Lists are read oldest first, the order in which they grow.
    """
    # One row per exposure, counted back from the newest one.
    raw = read_original(path, ("user_id", "last_time_ms", "watch_seq", "like_seq", "long_watch_seq"))
    lengths = raw["watch_seq"].map(len).to_numpy()
    n = int(lengths.sum())
    owner = np.repeat(np.arange(len(raw)), lengths)
    age_rank = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(n)  # 0 for a user's newest
    newest = raw["last_time_ms"].to_numpy()[owner]
    start = HISTORY_START.value // 1_000_000
    step = np.maximum(newest - start, 0) / lengths[owner]
    items = np.concatenate(raw["watch_seq"].to_numpy()).astype(np.int32)
    rows = pd.DataFrame({"user_id": raw["user_id"].to_numpy()[owner].astype(np.int32), "item_id": items})
    rows["is_like"], rows["long_view"] = (
        _among(owner, items, raw[c]).astype(np.int8) for c in ("like_seq", "long_watch_seq")
    )
    rows["time_ms"] = ((newest - age_rank * step) // HOUR_MS * HOUR_MS).astype(np.int64)
    rows["action"] = _strongest(np.zeros(n, bool), rows["long_view"], rows["is_like"]).rename_categories(
        {ACTIONS[0]: SEEN}
    )
    rows["scene"] = pd.array([pd.NA] * n, dtype="Int8")
    return rows


def _among(owner: np.ndarray, items: np.ndarray, lists: pd.Series) -> np.ndarray:
    """Return whether each (owner, item) is in that owner's list, bool `[n]`."""
    listed = np.concatenate([np.asarray(v, dtype=np.int64) for v in lists])
    listed_owner = np.repeat(np.arange(len(lists)), lists.map(len).to_numpy())
    return np.isin(owner.astype(np.int64) << 32 | items.astype(np.int64), listed_owner.astype(np.int64) << 32 | listed)


def behaviours_of(log: pd.DataFrame) -> pd.DataFrame:
    """Every impression of the log as a behaviour; the tab is the scene."""
    rows = log[["user_id", "item_id", "time_ms"]].copy()
    rows["action"] = _strongest(log["is_click"], log["long_view"], log["is_like"])
    rows["scene"] = log["tab"].astype("Int8")
    return rows


def _strongest(click: object, long_view: object, like: object) -> pd.Categorical:
    level = np.select([np.asarray(like) > 0, np.asarray(long_view) > 0, np.asarray(click) > 0], [3, 2, 1], 0)
    return pd.Categorical.from_codes(level, categories=list(ACTIONS))
