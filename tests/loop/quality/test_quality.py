"""Tests the quality report: its figures against sklearn and numpy, on a small log with known predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from log_files import write
from logged_tables import LOG_SECTION, Rows, Shown
from prometheus_client.parser import text_string_to_metric_families
from sklearn.metrics import log_loss, roc_auc_score
from small_tables import DAY_MS, RECIPE, make_tables

from funnelrank.main import main
from loop.errors import LogError
from loop.log.tombstones import add_tombstone, hash_of
from loop.quality.reports.report import measure
from models.recipe import Recipe, parse_recipe
from service.exposures.folder import keep_schema
from tables.log_records import RecordKind

EXPOSURES, IMPRESSIONS, EVENTS = RecordKind
TASKS = ["pctr", "pcvr", "pctcvr", "plong_view"]
HOUR = 3_600_000


def recipe_with(**log: Any) -> Recipe:
    return parse_recipe({**RECIPE, "log": {**LOG_SECTION, **log}}, "test")


@pytest.fixture(scope="module")
def shown() -> Shown:
    tables = make_tables()
    tables["impressions"] = tables["impressions"].head(400)
    tables["impressions"].loc[:, "time_ms"] = tables["impressions"]["time_ms"].sort_values().to_numpy()
    return Shown(tables, RECIPE["features"])


def predicted_rows(shown: Shown) -> Rows:
    """The records of two versions in two scenes, with scores of every task that know something about the labels."""
    rows = shown.rows()
    rng = np.random.default_rng(5)
    labels = shown.tables["impressions"].sort_values("time_ms", kind="stable")
    for n, (record, (_, shown_row)) in enumerate(zip(rows[EXPOSURES], labels.iterrows(), strict=True)):
        count = len(record["item_ids"])
        clicks = np.clip(rng.normal(0.3 + 0.2 * shown_row["click"], 0.1, size=count), 0.01, 0.99)
        likes = np.clip(rng.normal(0.4 + 0.2 * shown_row["like"], 0.1, size=count), 0.01, 0.99)
        views = np.clip(rng.normal(0.5, 0.1, size=count), 0.01, 0.99)
        record["tasks"] = TASKS
        record["predictions"] = np.concatenate([clicks, likes, clicks * likes, views]).astype(np.float32)
        record |= {"version": "12"[n % 2], "scene": "ab"[n % 4 // 2]}
    last = max(record["logged_ms"] for record in rows[EXPOSURES])
    closing = rows[EVENTS][0] | {"event_id": "last", "action": "nothing", "request_id": None, "item_id": "none"}
    rows[EVENTS].append(closing | {"time_ms": last + 3 * HOUR, "logged_ms": last + 3 * HOUR})
    return rows


def expected(shown: Shown, rows: Rows, task: str) -> dict[str, np.ndarray]:
    """What was shown at the second position of each list: its labels and the task's score, by numpy alone."""
    table = shown.tables["impressions"].sort_values("time_ms", kind="stable")
    task_place = TASKS.index(task)
    return {
        "click": table["click"].to_numpy(),
        "like": table["like"].to_numpy(),
        "user": table["user_id"].astype(str).to_numpy(),
        "version": np.array([record["version"] for record in rows[EXPOSURES]]),
        "scene": np.array([record["scene"] for record in rows[EXPOSURES]]),
        "score": np.array([float(r["predictions"].reshape(4, -1)[task_place, 1]) for r in rows[EXPOSURES]]),
    }


def cell(document: dict[str, Any], **of: str) -> dict[str, Any]:
    (one,) = [c for c in document["cells"] if all(c[name] == value for name, value in of.items())]
    return dict(one)


@pytest.fixture(scope="module")
def rows(shown: Shown) -> Rows:
    return predicted_rows(shown)


@pytest.fixture(scope="module")
def document(shown: Shown, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measure(shown.write(tmp_path_factory.mktemp("quality") / "log", rows), recipe_with())


def test_figures_are_those_of_sklearn_and_numpy(shown: Shown, rows: Rows, document: dict[str, Any]) -> None:
    known = expected(shown, rows, "pctr")
    for version, scene in (("1", "*"), ("2", "a")):
        chosen = (known["version"] == version) & ((known["scene"] == scene) | (scene == "*"))
        label = known["click"][chosen]
        score = known["score"][chosen]
        own = cell(document, version=version, task="pctr", scene=scene)
        assert (own["impressions"], own["positives"], own["open"]) == (chosen.sum(), label.sum(), 0)
        assert own["auc"] == pytest.approx(roc_auc_score(label, score))
        assert own["log_loss"] == pytest.approx(log_loss(label, score))
        assert own["copc"] == pytest.approx(label.mean() / score.mean())
        assert (own["observed"], own["predicted"]) == pytest.approx((label.mean(), score.mean()))
        assert own["ece"] == pytest.approx(ece_of(label, score))
        # GAUC weights the users' AUC by their impressions; a user whose labels are all alike does not count.
        users = [known["user"][chosen] == user for user in np.unique(known["user"][chosen])]
        both = [u for u in users if 0 < label[u].mean() < 1]
        areas = [roc_auc_score(label[u], score[u]) for u in both]
        assert own["gauc"] == pytest.approx(np.average(areas, weights=[u.sum() for u in both]))
        assert (own["gauc_users"], own["users"]) == (len(both), len(users))


def test_rankings_that_a_failed_model_did_not_score_count_alone(
    shown: Shown, rows: Rows, document: dict[str, Any], tmp_path: Path
) -> None:
    failed = {n for n, record in enumerate(rows[EXPOSURES]) if record["version"] == "1" and n % 10 == 0}
    broken = [
        record | {"predictions": np.full_like(record["predictions"], np.nan)} if n in failed else record
        for n, record in enumerate(rows[EXPOSURES])
    ]
    measured = measure(shown.write(tmp_path / "log", {**rows, EXPOSURES: broken}), recipe_with())
    json.dumps(measured, allow_nan=False)
    known = expected(shown, rows, "pctr")
    chosen = (known["version"] == "1") & ~np.isin(np.arange(len(broken)), list(failed))
    own = cell(measured, version="1", task="pctr", scene="*")
    assert (own["unscored"], own["impressions"]) == (len(failed), chosen.sum())
    assert own["auc"] == pytest.approx(roc_auc_score(known["click"][chosen], known["score"][chosen]))
    assert own["observed"] == pytest.approx(known["click"][chosen].mean())
    assert cell(document, version="1", task="pctr", scene="*")["unscored"] == 0


def test_a_live_log_is_measured_as_a_compacted_one(
    shown: Shown, rows: Rows, document: dict[str, Any], tmp_path: Path
) -> None:
    """Some records are in an hour, some in the spool, some in both as while a compaction runs, some in a file that a
    worker writes. Nothing of the log changes.
    """
    parts = {kind: np.array_split(np.array(records, dtype=object), 4) for kind, records in rows.items()}
    log = shown.write(tmp_path / "log", {kind: [*part[0], *part[1]] for kind, part in parts.items()})
    for kind, part in parts.items():
        write(log, *part[1], *part[2], kind=kind)
        path = write(log, *part[3], kind=kind, batches=2)
        path.rename(path.with_name(f"{path.name}.open"))
    files = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    assert measure(log, recipe_with()) == document
    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == files


def test_a_live_log_without_any_hour_leaves_forgotten_users_out(shown: Shown, rows: Rows, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for kind, records in rows.items():
        write(log, *records, kind=kind)
    keep_schema(log, shown.schema, shown.document)
    users = {record["user_id"] for record in rows[EXPOSURES]}
    forgotten = min(users)
    requests = {hash_of(r["request_id"]) for r in rows[EXPOSURES] if r["user_id"] == forgotten}
    add_tombstone(log, hash_of(forgotten), max(r["logged_ms"] for r in rows[EVENTS]), requests)
    counted = measure(log, recipe_with())["impressions"]
    assert counted == len(rows[EXPOSURES]) - len(requests)


def ece_of(label: np.ndarray, score: np.ndarray, bins: int = 15) -> float:
    """The mean distance of prediction and share of positives over bins of equal size; scores are all different."""
    order = np.argsort(score)
    parts = np.split(order, np.linspace(0, len(order), bins + 1).round().astype(int)[1:-1])
    return float(sum(abs(score[part].sum() - label[part].sum()) for part in parts) / len(label))


def test_a_task_of_clicks_is_measured_on_clicks(shown: Shown, rows: Rows, document: dict[str, Any]) -> None:
    known = expected(shown, rows, "pcvr")
    chosen = (known["version"] == "1") & (known["click"] == 1)
    own = cell(document, version="1", task="pcvr", scene="*")
    assert own["impressions"] == chosen.sum()
    assert own["outside"] == (known["version"] == "1").sum() - chosen.sum()
    assert own["observed"] == pytest.approx(known["like"][chosen].mean())
    assert own["auc"] == pytest.approx(roc_auc_score(known["like"][chosen], known["score"][chosen]))


def test_intervals_contain_the_figure_and_shrink_with_more_users(document: dict[str, Any]) -> None:
    whole = cell(document, version="1", task="pctr", scene="*")
    part = cell(document, version="1", task="pctr", scene="a")
    for name in ("predicted", "observed", "copc", "auc", "gauc", "log_loss"):
        low, high = whole["intervals"][name]
        assert low <= whole[name] <= high
    widths = [high - low for low, high in (c["intervals"]["copc"] for c in (whole, part))]
    assert widths[0] < widths[1]


def test_young_impressions_do_not_count_whatever_their_label_is(shown: Shown, rows: Rows, tmp_path: Path) -> None:
    """Clicks of the last hours are known before their absence is: counting them would raise the rate."""
    window_s = 3 * 24 * 3600
    labels = {**LOG_SECTION["labels"], "click": {"actions": ["click"], "window_s": window_s}}
    log = shown.write(tmp_path / "log", rows)
    document = measure(log, recipe_with(labels=labels))
    known = expected(shown, rows, "pctr")
    times = shown.tables["impressions"]["time_ms"].sort_values().to_numpy()
    watermark = max(record["logged_ms"] for record in rows[EVENTS])
    matured = (times + (window_s + 60) * 1000 <= watermark) & (known["version"] == "1")
    own = cell(document, version="1", task="pctr", scene="*")
    assert own["impressions"] == matured.sum() and own["open"] == (known["version"] == "1").sum() - matured.sum()
    assert own["observed"] == pytest.approx(known["click"][matured].mean())
    assert cell(document, version="1", task="plong_view", scene="*")["open"] == 0


def test_a_task_without_a_matured_label_says_so(shown: Shown, rows: Rows, tmp_path: Path) -> None:
    labels = {**LOG_SECTION["labels"], "like": {"actions": ["like"], "window_s": 90 * 24 * 3600}}
    document = measure(shown.write(tmp_path / "log", rows), recipe_with(labels=labels))
    own = cell(document, version="1", task="pcvr", scene="*")
    assert own["why"] == "no matured label" and own["auc"] is None and own["open"] > 0


def test_an_empty_day_is_named_and_days_add_up(shown: Shown, rows: Rows, tmp_path: Path) -> None:
    start = min(record["time_ms"] for record in rows[EXPOSURES]) // DAY_MS + 2
    without = {kind: list(records) for kind, records in rows.items()}
    without[EXPOSURES] = [record for record in rows[EXPOSURES] if record["time_ms"] // DAY_MS != start]
    document = measure(shown.write(tmp_path / "log", without), recipe_with(min_join_rate=0.1))
    assert document["empty_days"] == [str(np.datetime64(start, "D"))]
    days = [d for d in document["by_day"] if (d["version"], d["task"]) == ("1", "pctr")]
    assert sum(d["impressions"] for d in days) == cell(document, version="1", task="pctr", scene="*")["impressions"]
    assert document["empty_days"][0] not in [d["day"] for d in days]


def test_positions_and_invariants(shown: Shown, rows: Rows, document: dict[str, Any], tmp_path: Path) -> None:
    known = expected(shown, rows, "pctr")
    (second,) = [p for p in document["by_position"] if (p["version"], p["task"]) == ("1", "pctr")]
    assert second["position"] == 2
    assert second["observed"] == pytest.approx(known["click"][known["version"] == "1"].mean())
    broken = {rule["rule"]: rule["broken"] for rule in document["invariants"]}
    without_click = (known["like"] == 1) & (known["click"] == 0)
    assert broken == {"pctcvr <= pctr": 0, "like only after click": without_click.sum()}
    # One score is raised above the click's.
    raised = {kind: [dict(record) for record in records] for kind, records in rows.items()}
    scores = raised[EXPOSURES][7]["predictions"].reshape(4, -1).copy()
    scores[2, 1] = scores[0, 1] + 0.1
    raised[EXPOSURES][7]["predictions"] = scores.ravel()
    changed = measure(shown.write(tmp_path / "log", raised), recipe_with())
    (rule,) = [rule for rule in changed["invariants"] if rule["rule"] == "pctcvr <= pctr"]
    assert (rule["broken"], rule["impressions"]) == (1, 400)


def test_two_services_in_one_log_are_refused_until_one_is_chosen(shown: Shown, rows: Rows, tmp_path: Path) -> None:
    mixed = {kind: [dict(record) for record in records] for kind, records in rows.items()}
    for record in mixed[EXPOSURES][::2]:
        record["model"] = "other"
    log = shown.write(tmp_path / "log", mixed)
    with pytest.raises(LogError, match=r"several models \(other, tiny\); choose one with --model"):
        measure(log, recipe_with(min_join_rate=0.1))
    document = measure(log, recipe_with(min_join_rate=0.1), model="tiny")
    assert {c["version"] for c in document["cells"]} == {"2"}


def test_a_task_that_no_version_has_is_named(shown: Shown, tmp_path: Path) -> None:
    rows = predicted_rows(shown)
    for record in rows[EXPOSURES]:
        record["tasks"] = TASKS[:3]
        record["predictions"] = record["predictions"].reshape(4, -1)[:3].ravel()
    document = measure(shown.write(tmp_path / "log", rows), recipe_with())
    assert document["not_logged"] == ["plong_view"]
    assert {c["task"] for c in document["cells"]} == set(TASKS[:3])
    json.dumps(document, allow_nan=False)


def test_the_command_writes_a_page_a_document_and_gauges(
    shown: Shown, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = shown.write(tmp_path / "log", rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "log": LOG_SECTION}))
    out = tmp_path / "quality.html"
    assert main(["quality", "--log", str(log), "--recipe", str(recipe), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 pctr: 200 matured" in printed
    document = json.loads(out.with_suffix(".json").read_text())
    page = out.read_text()
    assert page.count("<svg") == 4 + 1 + 1  # a row per task by day, calibration, position
    assert "http" not in page.replace("http://www.w3.org", "")  # loads nothing
    gauges = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(out.with_suffix(".prom").read_text())
        for sample in family.samples
    }
    labels = (("model", "tiny"), ("version", "1"), ("task", "pctr"), ("scene", "*"), ("arm", "*"))
    copc = gauges["funnelrank_quality_copc", labels]
    assert copc == pytest.approx(cell(document, version="1", task="pctr", scene="*")["copc"])


def test_an_empty_log_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="run `funnelrank compact"):
        measure(tmp_path, recipe_with())
