"""Tests times in tables: any unit and zone become milliseconds, and times outside the bounds are refused."""

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pytest
from table_files import csv, only, parquet

from tables import TableError

START_MS = 1_651_334_400_000

TIMES = {
    "int64": pa.array([START_MS, START_MS + 1]),
    "float64": pa.array([float(START_MS), START_MS + 1.0]),
    "uint64": pa.array([START_MS, START_MS + 1], pa.uint64()),
    "text of integers": None,
    "ms": pa.array([START_MS, START_MS + 1], pa.timestamp("ms")),
    "us": pa.array([START_MS * 1000 + 999, (START_MS + 1) * 1000], pa.timestamp("us")),
    "ns": pa.array([START_MS * 10**6 + 1, (START_MS + 1) * 10**6], pa.timestamp("ns")),
    "us with a zone": pa.array([START_MS * 1000, (START_MS + 1) * 1000], pa.timestamp("us", "Asia/Shanghai")),
    "decimal": pa.array([decimal.Decimal(START_MS), decimal.Decimal(START_MS + 1)]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_time_of_any_unit_and_zone_becomes_milliseconds(tmp_path: Path, kind: str) -> None:
    column = TIMES[kind]
    table = csv(tmp_path, f"at\n{START_MS}\n{START_MS + 1}\n") if column is None else parquet(tmp_path, {"at": column})
    assert only(table).times("at").tolist() == [START_MS, START_MS + 1]


def test_timestamps_in_seconds_and_dates_become_milliseconds_too(tmp_path: Path) -> None:
    seconds = pa.array([START_MS // 1000], pa.timestamp("s"))
    assert only(parquet(tmp_path, {"at": seconds})).times("at").tolist() == [START_MS]
    day = pa.array([datetime.date(2022, 5, 1)])
    assert only(parquet(tmp_path, {"at": day})).times("at").tolist() == [1_651_363_200_000]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            pa.array([START_MS, 1_651_334_400]),
            "holds 1651334400, which is 1970-01-20; did you mean seconds",
        ),
        (pa.array([START_MS, START_MS * 1000]), "did you mean microseconds"),
        (pa.array([START_MS, START_MS * 10**6]), "did you mean nanoseconds"),
        (pa.array([START_MS, 90_421_625_369]), "which is 1972-11-12; times are milliseconds since 1970 and lie"),
        (pa.array([START_MS, -5]), "lie between 1973-03-03 and 9999-12-31"),
        (pa.array([START_MS, None]), "has no time in 1 of 2 rows"),
        (pa.array([START_MS, float("inf")]), "must hold whole milliseconds since 1970, not inf"),
        (pa.array([START_MS, START_MS + 0.5]), "must hold whole milliseconds since 1970, not 1651334400000.5"),
        (pa.array([str(START_MS), "2022-05-01"]), "must hold whole milliseconds since 1970, not '2022-05-01'"),
        (
            pa.array(["2022-05-01 08:00:00+02:00"]),
            r"not '2022-05-01 08:00:00\+02:00'; write such a time as an integer, or as a timestamp in Parquet",
        ),
        (pa.array([1.0, 2.0], pa.float32()), "is float32, which does not hold milliseconds"),
        (pa.array([True, False]), "must hold whole milliseconds since 1970, not bool"),
    ],
)
def test_a_time_outside_its_bounds_is_refused_with_the_unit_it_may_be_in(
    tmp_path: Path, value: pa.Array, message: str
) -> None:
    with pytest.raises(TableError, match=message) as refused:
        only(parquet(tmp_path, {"at": value})).times("at")
    assert refused.value.column == "at" and refused.value.row in (len(value), None)
