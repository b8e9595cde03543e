"""Tests the labels of delayed conversions: a join writes what each correction reads, and it trains on that."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from logged_tables import LOG_SECTION, Rows, Shown
from small_tables import RECIPE, make_tables, merged

from loop.errors import LogError
from loop.join.join import join
from models.recipe import load_recipe, parse_recipe
from models.train import train
from tables.log_records import RecordKind

EXPOSURES, IMPRESSIONS, EVENTS = RecordKind
MINUTE = 60_000
WINDOW_S = 7200.0
LATENESS_S = 60.0
BY_AGE = {"age": "age_s", "delay": "delay_s"}
CORRECTIONS: dict[str, dict[str, Any]] = {
    "delayed_feedback": {"type": "delayed_feedback", **BY_AGE},
    "elapsed_weights": {"type": "elapsed_weights", **BY_AGE},
    "fake_negatives": {"type": "fake_negatives", "late": "late"},
}


def recipe_with(correction: dict[str, Any], **label: Any) -> Any:
    section = copy.deepcopy(LOG_SECTION) | {"lateness_s": LATENESS_S}
    section["labels"] = {
        "click": {"actions": ["click"], "window_s": 60},
        "like": {"actions": ["like"], "window_s": WINDOW_S} | label,
    }
    task = {"type": "esmm", "click": "click", "conversion": "like", "delay": correction}
    changes = {"tasks": [task], "training.epochs": 1, "extra_evaluations": []}
    return parse_recipe(merged({**RECIPE, "log": section}, changes), "test")


@pytest.fixture(scope="module")
def shown() -> Shown:
    """Impressions a minute apart, over five hours."""
    tables = make_tables()
    impressions = tables["impressions"].head(300).copy()
    first = int(impressions["time_ms"].min())
    impressions["time_ms"] = first + MINUTE * pd.RangeIndex(len(impressions)).to_numpy()
    tables["impressions"] = impressions
    return Shown(tables, RECIPE["features"])


@pytest.fixture
def rows(shown: Shown) -> Rows:
    """The records of a log that ends with the last impression; likes come 1, 21, 41 ... 101 minutes later."""
    rows = shown.rows()
    shown_at = {record["request_id"]: record["time_ms"] for record in rows[EXPOSURES]}
    likes = [event for event in rows[EVENTS] if event["action"] == "like"]
    for n, event in enumerate(likes):
        event["time_ms"] = shown_at[event["request_id"]] + (1 + 20 * (n % 6)) * MINUTE
        event["logged_ms"] = event["time_ms"] + 1000
    end = max(shown_at.values()) + 2 * MINUTE
    rows[EVENTS] = [event for event in rows[EVENTS] if event["logged_ms"] <= end]
    rows[EVENTS].append(rows[EVENTS][0] | {"event_id": "last", "action": "nothing", "logged_ms": end})
    return rows


@pytest.fixture
def joined(tmp_path: Path, shown: Shown, rows: Rows) -> Callable[[Any], pd.DataFrame]:
    """Join the log for a recipe; return the impressions with the delay in minutes of each like, NaN without one."""

    def run(recipe: Any) -> pd.DataFrame:
        join(shown.write(tmp_path / "log", rows), recipe, tmp_path / "data")
        table = pq.read_table(tmp_path / "data" / "impressions.parquet").to_pandas()
        shown_at = {record["request_id"]: record["time_ms"] for record in rows[EXPOSURES]}
        delays = {
            event["request_id"]: (event["time_ms"] - shown_at[event["request_id"]]) / MINUTE
            for event in rows[EVENTS]
            if event["action"] == "like"
        }
        table["minutes"] = table["request_id"].map(delays)
        return table

    return run


def end_ms(rows: Rows) -> float:
    return max(record["logged_ms"] for record in rows[EVENTS]) - LATENESS_S * 1000


def test_newer_rows_have_the_conversions_so_far_with_age_and_delay(
    joined: Callable[[Any], pd.DataFrame], rows: Rows
) -> None:
    table = joined(recipe_with(CORRECTIONS["delayed_feedback"]))
    age_s = (end_ms(rows) - table["time_ms"]) / 1000
    assert table["age_s"].tolist() == age_s.tolist()
    arrived = table["minutes"] * 60 <= age_s
    assert table["like"].tolist() == arrived.astype(int).tolist()
    assert table["delay_s"].tolist() == (table["minutes"] * 60).where(arrived, 0.0).tolist()
    # Rows of every age are there, and some likes have come, some will.
    assert len(table) == 300
    is_open = table["age_s"] < WINDOW_S
    assert is_open.sum() > 100
    assert table["like"][is_open].sum() > 0
    assert (table["joined_part"][is_open] == "train").all()
    parts = table[~is_open].groupby("joined_part")["time_ms"]
    assert parts.max()["train"] < parts.min()["validation"] <= parts.max()["validation"] < parts.min()["test"]


def test_early_labels_are_repeated_when_the_conversion_comes(joined: Callable[[Any], pd.DataFrame], rows: Rows) -> None:
    table = joined(recipe_with(CORRECTIONS["fake_negatives"], first_after_s=1800))
    age = (end_ms(rows) - table["time_ms"]) / MINUTE
    trained = table["joined_part"] == "train"
    first = table[trained & (table["late"] == 0)]
    assert (age[first.index] >= 30).all()
    assert first["like"].tolist() == (first["minutes"] <= 30).astype(int).tolist()
    again = table[table["late"] == 1]
    assert len(again)
    assert (again["joined_part"] == "train").all() and (again["like"] == 1).all()
    # Every conversion that came after the first half hour, and before the end, repeats its impression once.
    late = first[(first["minutes"] > 30) & (first["minutes"] <= age[first.index])]
    assert sorted(again["request_id"]) == sorted(late["request_id"])
    # What validates and tests has the label of its whole window.
    closed = table[~trained]
    assert closed["like"].tolist() == closed["minutes"].notna().astype(int).tolist()


def test_a_conversion_after_the_window_is_none(joined: Callable[[Any], pd.DataFrame], rows: Rows) -> None:
    table = joined(recipe_with(CORRECTIONS["delayed_feedback"], window_s=3600))
    age_s = (end_ms(rows) - table["time_ms"]) / 1000
    in_window = (table["minutes"] <= 60) & (table["minutes"] * 60 <= age_s)
    assert ((table["minutes"] > 60) & (table["minutes"] * 60 <= age_s)).sum() > 10
    assert table["like"].tolist() == in_window.astype(int).tolist()
    assert table["delay_s"].tolist() == (table["minutes"] * 60).where(in_window, 0.0).tolist()


def test_a_conversion_before_its_impression_leaves_the_impression_out(
    joined: Callable[[Any], pd.DataFrame], rows: Rows
) -> None:
    shown_at = {record["request_id"]: record["time_ms"] for record in rows[EXPOSURES]}
    misdated = next(event for event in rows[EVENTS] if event["action"] == "like")
    misdated["time_ms"] = shown_at[misdated["request_id"]] - 60 * MINUTE
    table = joined(recipe_with(CORRECTIONS["delayed_feedback"]))
    assert len(table) == 299
    assert misdated["request_id"] not in set(table["request_id"])


@pytest.mark.parametrize("name", CORRECTIONS)
def test_each_correction_trains_on_the_joined_tables(
    tmp_path: Path, joined: Callable[[Any], pd.DataFrame], name: str
) -> None:
    joined(recipe_with(CORRECTIONS[name], **({"first_after_s": 1800} if name == "fake_negatives" else {})))
    recipe = load_recipe(tmp_path / "data" / "recipe.yaml")
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert "pctcvr" in metrics["parts"]["test"]["outputs"]


def test_a_second_run_writes_the_same_bytes(tmp_path: Path, joined: Callable[[Any], pd.DataFrame]) -> None:
    recipe = recipe_with(CORRECTIONS["fake_negatives"], first_after_s=1800)
    joined(recipe)
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    join(tmp_path / "log", recipe, tmp_path / "data")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_what_a_correction_needs_is_named(joined: Callable[[Any], pd.DataFrame]) -> None:
    with pytest.raises(LogError, match=r"log\.labels\.like needs first_after_s"):
        joined(recipe_with(CORRECTIONS["fake_negatives"]))
    with pytest.raises(LogError, match="no impression has a closed window of 'like'"):
        joined(recipe_with(CORRECTIONS["delayed_feedback"], window_s=1e6))
    raw = recipe_with(CORRECTIONS["fake_negatives"], first_after_s=1800).model_dump(mode="json")
    raw["tasks"].append({"type": "independent", "name": "plong_view", "label": "long_view"})
    with pytest.raises(LogError, match="repeats impressions, which the other tasks would count twice"):
        joined(parse_recipe(raw, "test"))
