"""Tests the join: tables of a log equal those that it was shown from; a fault is counted, never a wrong label."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from logged_tables import LOG_SECTION, Rows, Shown, write_log
from small_disk import files_of_at_most
from small_tables import RECIPE, make_tables, merged, write_tables

from features import FeatureSchema
from features.layouts import Layouts
from funnelrank.main import main
from loop.errors import LogError
from loop.join.join import join
from loop.join.report import JoinReport
from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.recipe import Recipe, load_recipe, parse_recipe
from tables.log_records import LATER_COLUMNS, RecordKind

EXPOSURES, IMPRESSIONS, EVENTS = RecordKind
TABLES = ("impressions", "users", "items", "behaviours")
HOUR = 3_600_000


def recipe_with(folder: Path, **changes: Any) -> Any:
    section = copy.deepcopy(LOG_SECTION)
    changed = merged({**RECIPE, "log": section}, {"data.dir": str(folder), **changes})
    return parse_recipe(changed, "test")


@pytest.fixture(scope="module")
def shown() -> Shown:
    tables = make_tables()
    tables["impressions"] = tables["impressions"].head(300)
    tables["impressions"].loc[:, "time_ms"] = tables["impressions"]["time_ms"].sort_values().to_numpy()
    return Shown(tables, RECIPE["features"])


@pytest.fixture(scope="module")
def rows(shown: Shown) -> Rows:
    """The records, and one late event that closes every window."""
    return closed(shown.rows())


def closed(rows: Rows) -> Rows:
    last = max(record["logged_ms"] for record in rows[EXPOSURES])
    closing = rows[EVENTS][0] | {"event_id": "last", "action": "nothing", "request_id": None, "item_id": "none"}
    rows[EVENTS].append(closing | {"time_ms": last + 3 * HOUR, "logged_ms": last + 3 * HOUR})
    return rows


@pytest.fixture
def joined(tmp_path: Path, shown: Shown, rows: Rows) -> Callable[..., JoinReport]:
    """Join the records after a change, into `tmp_path/data`."""

    def run(change: Callable[[Rows], None] = lambda _: None, model: str | None = None, **changes: Any) -> JoinReport:
        changed = {kind: [dict(record) for record in records] for kind, records in rows.items()}
        change(changed)
        log = shown.write(tmp_path / f"log-{len(list(tmp_path.iterdir()))}", changed)
        return join(log, recipe_with(tmp_path / "original", **changes), tmp_path / "data", model)

    return run


@pytest.mark.parametrize("size", [0, 20_000, 60_000])
def test_a_join_without_room_is_refused_and_leaves_the_tables_of_before(
    tmp_path: Path, shown: Shown, rows: Rows, size: int
) -> None:
    log = shown.write(tmp_path / "log", rows)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "impressions.parquet").write_text("of before")
    with files_of_at_most(size), pytest.raises(LogError, match="the join's database: .*[Ff]ile too large") as refused:
        join(log, recipe_with(tmp_path / "original"), tmp_path / "data")
    assert "\n" not in str(refused.value)
    assert [path.read_text() for path in (tmp_path / "data").iterdir()] == ["of before"]


def labels(folder: Path) -> pd.DataFrame:
    table = pq.read_table(folder / "data" / "impressions.parquet").to_pandas()
    return table.sort_values(["time_ms", "item_id"]).reset_index(drop=True)


def expected(shown: Shown) -> pd.DataFrame:
    table = shown.tables["impressions"].copy()
    table["item_id"] = table["item_id"].astype(str)
    return table.sort_values(["time_ms", "item_id"]).reset_index(drop=True)


def same_labels(folder: Path, shown: Shown) -> None:
    table = labels(folder)
    original = expected(shown)
    assert len(table) == len(original)
    for name in ("click", "like", "long_view"):
        assert table[name].tolist() == original[name].tolist()


def test_what_trains_on_the_log_is_what_was_shown_bit_for_bit(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    report = joined()
    assert report.join_rate == 1.0
    write_tables(tmp_path / "original", shown.tables)
    same_data(tmp_path, recipe_with(tmp_path / "original"))


def test_candidates_own_features_train_as_they_were_served(tmp_path: Path, shown: Shown) -> None:
    """One impression of three candidates was seen: its row has its own candidate's values."""
    features = copy.deepcopy(RECIPE["features"])
    features["candidate"] = [
        {"name": "price_now", "type": "numeric"},
        {"name": "badges", "type": "multi_categorical", "max_values": 2},
    ]
    tables = {name: table.copy() for name, table in shown.tables.items()}
    impressions = tables["impressions"]
    prices = impressions["item_id"] * 1.5 + impressions["battery"]
    impressions["price_now"] = prices.where(impressions["item_id"] % 5 > 0)
    impressions["badges"] = [[n % 3, 7] for n in range(len(impressions))]
    write_tables(tmp_path / "original", tables)
    recipe = recipe_with(tmp_path / "original", features=features)
    logged = Shown(tables, features)
    report = join(logged.write(tmp_path / "log", closed(logged.rows())), recipe, tmp_path / "data")
    assert report.join_rate == 1.0
    same_data(tmp_path, recipe)


def test_vectors_train_as_they_were_served(tmp_path: Path, shown: Shown) -> None:
    """Vectors of users, items, contexts, candidates and behaviours, some of them missing."""
    features = copy.deepcopy(RECIPE["features"])
    rng = np.random.default_rng(2)
    tables = {name: table.copy() for name, table in shown.tables.items()}
    groups = {"user": "users", "item": "items", "context": "impressions", "candidate": "impressions"}
    for group, table in groups.items():
        features.setdefault(group, []).insert(0, {"name": f"{group}_vector", "type": "vector", "width": 3})
        rows = len(tables[table])
        tables[table][f"{group}_vector"] = [
            None if n % 5 == 0 else rng.normal(size=3).astype(np.float32) for n in range(rows)
        ]
    features["behaviour"]["item_features"].insert(1, "item_vector")
    write_tables(tmp_path / "original", tables)
    recipe = recipe_with(tmp_path / "original", features=features)
    logged = Shown(tables, features)
    report = join(logged.write(tmp_path / "log", closed(logged.rows())), recipe, tmp_path / "data")
    assert report.join_rate == 1.0
    same_data(tmp_path, recipe)


def same_data(folder: Path, recipe: Recipe) -> None:
    """Check that a recipe's own tables and the joined ones give the same batches, bit for bit."""
    split = RECIPE["data"]["split"]
    original = open_data(recipe, folder / "cache")
    raw = yaml.safe_load((folder / "data" / "recipe.yaml").read_text())
    raw["data"]["split"] = split
    raw["data"]["request_id"] = None
    served = open_data(parse_recipe(raw, "test"), folder / "cache")
    for part in ("train", "validation", "test"):
        (first,) = ordered_batches(original, part, 10_000)
        (second,) = ordered_batches(served, part, 10_000)
        assert first.keys() == second.keys()
        order = np.argsort(first["request_time"].numpy(), kind="stable")
        other = np.argsort(second["request_time"].numpy(), kind="stable")
        for name, values in first.items():
            assert values.numpy()[order].tobytes() == second[name].numpy()[other].tobytes(), (part, name)
    assert original.encoding.vocabulary.keys.tobytes() == served.encoding.vocabulary.keys.tobytes()
    for group, stats in original.encoding.numerics.items():
        np.testing.assert_allclose(stats.mean, served.encoding.numerics[group].mean, rtol=1e-6)


def test_a_second_run_writes_the_same_bytes(tmp_path: Path, joined: Callable[..., JoinReport]) -> None:
    joined()
    names = [f"{role}.parquet" for role in TABLES] + ["join.json"]
    before = {name: (tmp_path / "data" / name).read_bytes() for name in names}
    joined()
    assert {name: (tmp_path / "data" / name).read_bytes() for name in names} == before


def test_the_recipe_that_is_written_trains_as_it_is(tmp_path: Path, joined: Callable[..., JoinReport]) -> None:
    joined()
    recipe = load_recipe(tmp_path / "data" / "recipe.yaml")
    data = open_data(recipe, tmp_path / "cache")
    assert [len(data.parts[part]) for part in ("train", "validation", "test")] == pytest.approx([240, 30, 30], abs=3)
    assert data.described["users"]["without_row"] == data.described["items"]["without_row"] == 0


def test_a_required_number_of_an_unknown_user_trains_as_it_was_served(tmp_path: Path, shown: Shown) -> None:
    """The user's group has numbers alone, so no column of keys; a user without a row was ranked without the number."""
    features = copy.deepcopy(RECIPE["features"])
    features |= {"user_id_feature": None, "user": [{"name": "fans", "type": "numeric", "required": True}]}
    unknown = {name: table.copy() for name, table in shown.tables.items()}
    unknown["users"].loc[:, "fans"] = unknown["users"]["fans"].fillna(1.0)
    lenient = copy.deepcopy(features)
    lenient["user"][0]["required"] = False
    logged = Shown(unknown, features)
    logged.users[0] = Layouts.of(FeatureSchema.model_validate(lenient)).user.pack({})
    log = logged.write(tmp_path / "log", logged.rows())
    report = join(log, recipe_with(tmp_path / "original", features=features), tmp_path / "data")
    assert report.join_rate == 1.0
    data = open_data(load_recipe(tmp_path / "data" / "recipe.yaml"), tmp_path / "cache")
    (batch,) = ordered_batches(data, "train", 10_000)
    without = np.isnan(batch["user_numerics"].numpy()).sum()
    assert without and without < len(batch["user_numerics"])


def test_what_is_logged_twice_counts_once(tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]) -> None:
    def twice(rows: Rows) -> None:
        for kind in RecordKind:
            rows[kind] += [dict(record) | {"logged_ms": record["logged_ms"] + 1000} for record in rows[kind][:50]]

    report = joined(twice)
    assert (report.exposures_doubled, report.impressions_doubled, report.events_doubled) == (50, 50, 50)
    same_labels(tmp_path, shown)


def test_events_of_different_users_may_have_one_event_id(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    def numbered(rows: Rows) -> None:
        for record in rows[EVENTS]:
            record["event_id"] = record["action"]

    report = joined(numbered)
    assert (report.events_doubled, report.join_rate) == (0, 1.0)
    same_labels(tmp_path, shown)


def page(record: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """A record of some items of a list, as a page that begins after `start` of them."""
    count = len(record["item_ids"])
    part = {"ranked_before": start, "returned": end - start, "logged_ms": record["logged_ms"] + start}
    part |= {name: record[name][start:end] for name in ("item_ids", "places", "scores", "predictions")}
    for name in ("item_keys", "item_numerics"):
        width = len(record[name]) // count
        part[name] = record[name][start * width : end * width]
    return record | part


def test_ranks_go_on_from_page_to_page_of_a_request(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    def paged(rows: Rows) -> None:
        rows[EXPOSURES] = [page(r, *part) for r in rows[EXPOSURES] for part in ((0, 1), (1, len(r["item_ids"])))]

    whole = joined()
    before = {role: pq.read_table(tmp_path / "data" / f"{role}.parquet") for role in TABLES}
    report = joined(paged)
    assert (report.exposures, report.exposures_doubled) == (2 * whole.exposures, 0)
    assert (report.listed, report.events, report.join_rate) == (whole.listed, whole.events, 1.0)
    assert (report.labels, report.completeness) == (whole.labels, whole.completeness)
    assert set(labels(tmp_path)["position"]) == {2}
    assert {role: pq.read_table(tmp_path / "data" / f"{role}.parquet") for role in TABLES} == before
    # Clicks on the second page say that the whole first one was seen.
    clicked = {"log.seen": {"by": "up_to_last_click_plus", "k": 0, "actions": ["click"]}}
    assert joined(paged, **clicked).impressions == joined(**clicked).impressions


@pytest.mark.parametrize("later", [LATER_COLUMNS, frozenset({"candidate_keys", "candidate_numerics"})])
def test_a_log_of_an_earlier_release_is_joined(tmp_path: Path, shown: Shown, rows: Rows, later: frozenset[str]) -> None:
    log = shown.write(tmp_path / "log", rows)
    dropped: set[str] = set()
    for path in (log / "hours").glob("*/*.parquet"):
        names = later.intersection(pq.read_schema(path).names)
        pq.write_table(pq.read_table(path).drop_columns(sorted(names)), path)
        dropped |= names
    assert dropped == later
    join(log, recipe_with(tmp_path), tmp_path / "data")
    same_labels(tmp_path, shown)


def test_a_late_event_changes_its_label_in_the_next_run(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    late: list[dict[str, Any]] = []

    def without(rows: Rows) -> None:
        place = next(i for i, record in enumerate(rows[EVENTS]) if record["action"] == "click")
        late.append(rows[EVENTS].pop(place))

    joined(without)
    assert int(labels(tmp_path)["click"].sum()) == int(expected(shown)["click"].sum()) - 1
    joined(lambda rows: (without(rows), rows[EVENTS].append(late[0] | {"logged_ms": late[0]["logged_ms"] + 2 * HOUR})))
    same_labels(tmp_path, shown)


def test_an_event_after_its_window_is_none_and_an_open_window_is_left_out(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    def after(rows: Rows) -> None:
        for record in rows[EVENTS]:
            if record["action"] == "click":
                record["time_ms"] += HOUR

    report = joined(after)
    assert int(labels(tmp_path)["click"].sum()) == 0
    assert report.labels["click"]["yes"] == 0
    # Without the last record nothing says that the windows of the last two days are over.
    report = joined(lambda rows: rows[EVENTS].pop(), **{"log.labels.click.window_s": 2 * 86_400})
    assert report.labels["click"]["open"] > 0
    assert len(labels(tmp_path)) < 300


def test_an_early_event_of_an_open_window_is_left_out_as_its_neighbours_without_one_are(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    """With the early ones alone, the newest days would have no label but yes."""
    joined(lambda rows: rows[EVENTS].pop(), **{"log.labels.click.window_s": 2 * 86_400})
    table = labels(tmp_path)
    original = expected(shown)
    newest = table["time_ms"].max()
    before = original[original["time_ms"] <= newest]
    assert len(table) == len(before) < len(original)
    assert table["click"].tolist() == before["click"].tolist()


WATCHED = {
    "tasks": [
        {"type": "independent", "name": "pctr", "label": "click"},
        {"type": "independent", "name": "watch_time", "label": "log1p(watched_s)", "kind": "value"},
    ],
    "extra_evaluations": [],
    "training.epochs": 1,
    "log.labels.watched_s": {"actions": ["watch"], "window_s": 1800},
}


@pytest.mark.parametrize(("value", "expected"), [("sum", 12.5), ("max", 10.0)])
def test_a_label_is_the_value_of_the_events_within_its_window(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport], value: str, expected: float
) -> None:
    watched: list[str] = []

    def with_values(rows: Rows) -> None:
        for record in [record for record in rows[EVENTS] if record["action"] == "watch"]:
            watched.append(record["request_id"])
            record["value"] = 10.0
            again = record | {"event_id": f"{record['event_id']}-again", "value": 2.5}
            too_late = again | {"event_id": f"{record['event_id']}-late", "time_ms": record["time_ms"] + HOUR}
            without = again | {"event_id": f"{record['event_id']}-without", "value": None}
            rows[EVENTS] += [again, dict(again), too_late, without]

    changes = WATCHED | {"log.labels.watched_s": WATCHED["log.labels.watched_s"] | {"value": value}}
    report = joined(with_values, **changes)
    table = pq.read_table(tmp_path / "data" / "impressions.parquet").to_pandas()
    assert watched
    assert table["watched_s"].tolist() == [expected if name in watched else 0.0 for name in table["request_id"]]
    assert report.labels["watched_s"]["yes"] == len(watched)
    data = open_data(load_recipe(tmp_path / "data" / "recipe.yaml"), tmp_path / "cache")
    (batch,) = ordered_batches(data, "train", 10_000)
    logarithms = batch["label/log1p(watched_s)"].numpy()
    assert set(np.unique(logarithms)) == {np.float32(0), np.log1p(np.float32(expected))}


def test_a_value_is_asked_for_where_a_task_reads_one_and_refused_elsewhere(joined: Callable[..., JoinReport]) -> None:
    with pytest.raises(LogError, match=r"watched_s is a value to its task: say which by log\.labels\.watched_s\.value"):
        joined(**WATCHED)
    with pytest.raises(LogError, match=r"the label click is 0 or 1: leave out log\.labels\.click\.value"):
        joined(**{"log.labels.click.value": "sum"})


def test_the_rule_of_what_was_seen_is_the_recipes(tmp_path: Path, joined: Callable[..., JoinReport]) -> None:
    returned = joined(**{"log.seen": {"by": "returned"}})
    assert returned.impressions == returned.listed > 600
    clicked = joined(**{"log.seen": {"by": "up_to_last_click_plus", "k": 0, "actions": ["click"]}})
    clicks = clicked.labels["click"]["yes"]
    assert clicked.impressions == 2 * clicks  # the clicked item stands at the second place
    nothing = joined(lambda rows: rows[IMPRESSIONS].__delitem__(slice(100, None)))
    assert nothing.impressions == 100


def test_events_without_a_request_id_belong_to_the_last_ranking_that_showed_the_item(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    report = joined(lambda rows: [record.update(request_id=None) for record in rows[EVENTS]])
    assert report.join_rate == 1.0
    same_labels(tmp_path, shown)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"request_id": "lost"}, "their request ids are those of no exposure, as 'lost'"),
        ({"request_id": None, "item_id": "never"}, "they carry no request_id"),
        ({"item_id": "never"}, "their item was not in the ranking of their request"),
    ],
)
def test_a_join_that_finds_too_little_is_refused_with_its_nearest_cause(
    tmp_path: Path, joined: Callable[..., JoinReport], change: dict[str, Any], cause: str
) -> None:
    with pytest.raises(LogError, match=r"0\.0%.*log\.min_join_rate") as error:
        joined(lambda rows: [record.update(change) for record in rows[EVENTS]])
    assert cause in str(error.value)
    assert not (tmp_path / "data" / "impressions.parquet").exists()


def test_a_clock_that_is_an_hour_off_is_named_and_makes_no_label(
    tmp_path: Path, joined: Callable[..., JoinReport]
) -> None:
    def behind(rows: Rows) -> None:
        for record in rows[EVENTS][:-1]:
            record["time_ms"] -= HOUR

    with pytest.raises(LogError, match=r"their clock is behind: .* by 1\.0 h"):
        joined(behind)
    report = joined(behind, **{"log.min_join_rate": 0.0})
    assert report.unjoined["clock"] == report.events
    assert report.labels["click"]["yes"] == 0
    table = labels(tmp_path)  # an item that was clicked by the wrong clock has no label, rather than a wrong one
    assert len(table) < 300


def test_a_request_of_another_user_makes_no_label(tmp_path: Path, joined: Callable[..., JoinReport]) -> None:
    def swapped(rows: Rows) -> None:
        for record in rows[EVENTS][:20]:
            record["user_id"] = "1" if record["user_id"] != "1" else "2"

    report = joined(swapped)
    assert report.unjoined == {"other_user": 20}


def test_a_log_of_two_models_is_refused_until_one_is_chosen(
    tmp_path: Path, shown: Shown, joined: Callable[..., JoinReport]
) -> None:
    def mixed(rows: Rows) -> None:
        rows[EXPOSURES] += [dict(r) | {"model": "other", "request_id": f"o-{i}"} for i, r in enumerate(rows[EXPOSURES])]

    with pytest.raises(LogError, match=r"several models \(other, tiny\); choose one with --model"):
        joined(mixed)
    with pytest.raises(LogError, match="no exposure of the model 'none'"):
        joined(mixed, "none")
    assert joined(mixed, "tiny").exposures == 300
    same_labels(tmp_path, shown)


def test_exposures_of_a_schema_that_lacks_a_feature_are_left_out_and_counted(
    tmp_path: Path, shown: Shown, rows: Rows
) -> None:
    features = copy.deepcopy(RECIPE["features"])
    features["user"] = [f for f in features["user"] if f["name"] != "city"]
    before = Shown(shown.tables, features)
    mixed = copy.copy(rows)
    mixed[EXPOSURES] = before.rows()[EXPOSURES][:100] + rows[EXPOSURES][100:]
    log = shown.write(before.write(tmp_path / "log", {}), mixed)
    report = join(log, recipe_with(tmp_path), tmp_path / "data")
    assert report.refused_schemas == {"user feature 'city' was not logged": 100}
    assert report.rows["impressions"] == 200


def test_equal_rows_of_two_schemas_are_two_rows(tmp_path: Path) -> None:
    """The schemas have two numbers in another order, and a user has them in that order: the bytes are the same."""
    first, second = ({"name": name, "type": "numeric"} for name in ("fans", "friends"))
    features = merged(RECIPE, {"features.user_id_feature": None, "features.user": [first, second]})["features"]
    swapped = merged({"features": features}, {"features.user": [second, first]})["features"]
    tables = make_tables()
    tables["impressions"] = tables["impressions"].head(1)
    tables["users"]["fans"] = 1.0
    tables["users"]["friends"] = 2.0
    one = Shown(tables, features)
    other = Shown(tables | {"users": tables["users"].assign(fans=2.0, friends=1.0)}, swapped)
    # The later record is newer than every window.
    rows = one.rows()
    rows[EXPOSURES] += [record | {"request_id": "other"} for record in other.rows()[EXPOSURES]]
    rows[EVENTS] = []
    last = rows[IMPRESSIONS][0]
    rows[IMPRESSIONS].append(last | {"impression_id": "last", "logged_ms": last["logged_ms"] + 3 * HOUR})
    log = other.write(one.write(tmp_path / "log", {}), rows)
    join(log, recipe_with(tmp_path, features=features, **{"log.seen": {"by": "returned"}}), tmp_path / "data")
    users = pq.read_table(tmp_path / "data" / "users.parquet").to_pylist()
    assert sorted((user["fans"], user["friends"]) for user in users) == [(1.0, 2.0), (2.0, 1.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log": None}, "no section 'log'"),
        ({"log.labels": {"click": {"actions": ["click"], "window_s": 60}}}, "log.labels lacks like, long_view"),
        ({"data.weight": "batery"}, r"'batery' \(data.weight or data.task_weights\) .*did you mean 'battery'"),
        (
            {"position": {"head": "pctr", "column": "place", "max_position": 20, "cross": ["device"]}},
            r"'device' \(position.cross\) is none",
        ),
    ],
)
def test_a_recipe_that_does_not_say_enough_is_refused(
    joined: Callable[..., JoinReport], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LogError, match=message):
        joined(**changes)


def test_the_report_says_how_late_events_come_and_how_complete_labels_are(
    tmp_path: Path, joined: Callable[..., JoinReport]
) -> None:
    windows = {f"log.labels.{name}.window_s": 2 * 86_400 for name in ("click", "like", "long_view")}

    def slower(rows: Rows) -> None:
        clicks = [record for record in rows[EVENTS] if record["action"] == "click"]
        for place, record in enumerate(clicks):
            record["time_ms"] += (0, 2, 8, 30)[place % 4] * HOUR
        rows[EVENTS][-1]["logged_ms"] += 5 * 24 * HOUR

    report = joined(slower, **windows)
    assert report.lateness_s["max"] == 1.0 or report.lateness_s["p50"] <= 1.0
    curve = report.completeness["click"]
    assert list(curve) == ["1 h", "6 h", "1 d"]
    assert [round(share, 1) for share in curve.values()] == [0.2, 0.5, 0.7] or curve["1 d"] == pytest.approx(
        0.75, abs=0.03
    )
    written = json.loads((tmp_path / "data" / "join.json").read_text())
    assert written["join_rate"] == 1.0


def test_an_empty_log_is_refused(tmp_path: Path, shown: Shown, capsys: pytest.CaptureFixture[str]) -> None:
    shown.write(tmp_path / "log", {})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "log": LOG_SECTION}))
    assert main(["join", "--log", str(tmp_path / "log"), "--recipe", str(recipe), "--out", str(tmp_path / "o")]) == 1
    assert "run `funnelrank compact" in capsys.readouterr().err


@pytest.mark.slow
def test_a_log_that_is_larger_than_the_memory_limit_is_joined(tmp_path: Path, shown: Shown, rows: Rows) -> None:
    """The sort by time does not fit: DuckDB spills to its folder."""
    many = {kind: list(records) for kind, records in rows.items()}
    generator = np.random.default_rng(1)
    for copy_number in range(6):
        for record in rows[EXPOSURES]:
            filler = generator.bytes(25_000).hex()
            many[EXPOSURES].append(record | {"request_id": f"{copy_number}-{record['request_id']}", "profile": filler})
    log = write_log(shown.write(tmp_path / "log", {}), many)
    (path,) = (log / "hours").glob("*/exposures.parquet")
    size = sum(group.total_byte_size for group in map(pq.ParquetFile(path).metadata.row_group, range(1)))
    assert size > 64 << 20
    returned = {"log.seen": {"by": "returned"}, "log.min_join_rate": 0.0}
    report = join(log, recipe_with(tmp_path, **returned), tmp_path / "data", memory_mb=64)
    assert report.exposures == 7 * len(rows[EXPOSURES])
    assert report.rows["impressions"] > 6 * 600
