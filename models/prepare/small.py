"""Cuts prepared tables to small data: 20,000 training impressions in lists, with a column `request_id`.

KuaiRand has no lists in its log, so a list is the impressions of one user on one day, three or more. Census has no
lists at all: ten people drawn at random form one, so that ranking metrics are defined; nothing can be learned from the
composition of these lists.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from models.prepare.write import write_table
from tables import open_table

SEED = 7
CENSUS_LIST = 10
SHORTEST_LIST = 3
# The largest number of impressions of each part; the first two parts are for training and selection.
ROWS = {"train": 16_000, "validation": 4_000, "test": 20_000}
KUAIRAND_DAYS = {
    "train": (20220501, 20220504),
    "validation": (20220505, 20220505),
    "test": (20220506, 20220508),
}
KUAIRAND_COLUMNS = ["user_id", "item_id", "time_ms", "request_id", "part", "tab", "hour", "is_click", "long_view"]
CENSUS_COLUMNS = ["user_id", "item_id", "time_ms", "request_id", "part", "income_50k", "never_married"]


def small_tables(source: Path, out: Path) -> dict[str, int]:
    """Write the small tables of a prepared folder, KuaiRand's or Census's; return the number of rows of each.

    Raises FileNotFoundError or TableError if the folder does not have these tables.
    """
    impressions = _read(source, "impressions")
    cut = kuairand_lists if "long_view" in impressions.columns else census_lists
    lists = _cut(impressions, cut)
    tables = {"impressions": lists}
    for name, key in (("users", "user_id"), ("items", "item_id")):
        if (source / f"{name}.parquet").is_file():
            rows = _read(source, name)
            tables[name] = rows[rows[key].isin(lists[key])]
    for name, rows in tables.items():
        write_table(pa.Table.from_pandas(rows, preserve_index=False), out / f"{name}.parquet")
    # Files that are not tables, such as a licence, are copied whole.
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".parquet":
            shutil.copyfile(path, out / path.name)
    return {name: len(rows) for name, rows in tables.items()}


def _read(source: Path, name: str) -> pd.DataFrame:
    path = source / f"{name}.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; run `funnelrank prepare kuairand` or `census` first")
    return open_table(path, name).as_stored(()).to_pandas()


def _cut(impressions: pd.DataFrame, lists: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Draw whole lists of each part by the seed, until there are enough impressions; they keep the order of
    the table.
    """
    rows = lists(impressions)
    rng = np.random.default_rng(SEED)
    picked = []
    for part, most in ROWS.items():
        of_part = rows[rows["part"] == part]
        requests, place = np.unique(of_part["request_id"].to_numpy(), return_inverse=True)
        order = rng.permutation(len(requests))
        sizes = np.bincount(place, minlength=len(requests))[order]
        chosen = np.zeros(len(requests), dtype=bool)
        chosen[order[np.cumsum(sizes) <= most]] = True
        picked.append(of_part[chosen[place]])
    return pd.concat(picked)


def kuairand_lists(impressions: pd.DataFrame) -> pd.DataFrame:
    """Return the impressions of the lists that are long enough, with `request_id` (user and day) and `part`."""
    rows = impressions.assign(part="")
    for part, (first, last) in KUAIRAND_DAYS.items():
        rows.loc[rows["date"].between(first, last), "part"] = part
    rows["request_id"] = rows["user_id"].astype(str) + "-" + rows["date"].astype(str)
    rows = rows.drop_duplicates(["request_id", "item_id"])  # a list shows a video once
    length = rows.groupby("request_id")["item_id"].transform("size")
    return rows.loc[(length >= SHORTEST_LIST) & (rows["part"] != ""), KUAIRAND_COLUMNS]


def census_lists(impressions: pd.DataFrame) -> pd.DataFrame:
    """Return the impressions of every part in random lists of ten, without the remainder."""
    rng = np.random.default_rng(SEED)
    rows = impressions.assign(request_id="")
    for part, of_part in rows.groupby("part"):
        places = rng.permutation(of_part.index.to_numpy())
        places = places[: len(places) // CENSUS_LIST * CENSUS_LIST]
        rows.loc[places, "request_id"] = [f"{part}-{i // CENSUS_LIST}" for i in range(len(places))]
    return rows.loc[rows["request_id"] != "", CENSUS_COLUMNS].sort_values("request_id", kind="stable")
