"""Tests the comparison of served features with those of training, by numpy and on a log whose bundle knows its part."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from logged_tables import LOG_SECTION, Rows, Shown
from small_tables import RECIPE, make_tables, write_tables
from synthetic_bundle import publish

from loop.quality.drift import compared
from loop.quality.reports.page import remarks
from loop.quality.reports.report import measure
from models.data.cache import open_data
from models.recipe import parse_recipe
from models.training.diagnostics.histograms import key_counts, number_counts, training_histograms
from tables.log_records import RecordKind


def psi_by_hand(training: list[float], served: list[float]) -> float:
    p, q = (np.array([(c + 0.5) / (sum(counts) + 0.5 * len(counts)) for c in counts]) for counts in (training, served))
    return float(((q - p) * np.log(q / p)).sum())


def test_numbers_and_ids_are_compared_bin_by_bin() -> None:
    numbers = np.array([0.5, 1.5, 1.5, 9.0, np.nan])
    assert number_counts(numbers, np.array([1.0, 2.0])).tolist() == [1, 2, 1, 1]
    own = compared(numbers, {"impressions": 10, "borders": [1.0, 2.0], "counts": [4, 3, 1, 2]}, None)
    assert own["psi"] == pytest.approx(psi_by_hand([4, 3, 1, 2], [1, 2, 1, 1]))
    assert (own["missing"], own["missing_training"], own["unknown"]) == (0.2, 0.2, None)
    keys = np.array([[7, 0], [7, 9], [0, 0], [-3, 0]])
    assert key_counts(keys, np.array([-3, 7])).tolist() == [1, 2, 1, 1]
    own = compared(keys, {"impressions": 8, "keys": [-3, 7], "counts": [2, 4, 1, 2]}, np.array([-3, 0, 7]))
    assert own["psi"] == pytest.approx(psi_by_hand([2, 4, 1, 2], [1, 2, 1, 1]))
    assert (own["missing"], own["missing_training"], own["unknown"]) == (0.25, 0.25, 0.25)


def test_a_feature_that_changed_its_type_has_no_psi() -> None:
    own = compared(np.zeros(3), {"impressions": 1, "keys": [1], "counts": [1, 0, 0]}, None)
    assert own["psi"] is None


@pytest.fixture(scope="module")
def shown() -> Shown:
    """The impressions of the training part."""
    tables = make_tables()
    first, last = (pd.Timestamp(time).value // 1_000_000 for time in RECIPE["data"]["split"]["train"])
    impressions = tables["impressions"]
    trained = impressions[(impressions["time_ms"] >= first) & (impressions["time_ms"] < last)]
    return Shown({**tables, "impressions": trained}, RECIPE["features"])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 knows the histograms of the tables, version 2 is of an earlier release; there is no version 3."""
    folder = tmp_path_factory.mktemp("drift")
    write_tables(folder / "data", make_tables())
    recipe = parse_recipe({**RECIPE, "data": {**RECIPE["data"], "dir": str(folder / "data")}}, "test")
    histograms = training_histograms(open_data(recipe, folder / "cache"), 0)
    publish(folder / "registry", "2", name="tiny", schema=RECIPE["features"])
    publish(
        folder / "registry",
        "1",
        name="tiny",
        schema=RECIPE["features"],
        change=lambda manifest: manifest["provenance"].update(feature_histograms=histograms),
    )
    return folder / "registry"


def measured(shown: Shown, rows: Rows, registry: Path, folder: Path) -> dict[str, Any]:
    recipe = parse_recipe({**RECIPE, "log": LOG_SECTION}, "test")
    return measure(shown.write(folder / "log", rows), recipe, registry)


def test_what_was_trained_on_has_no_drift_and_a_planted_one_is_named(
    shown: Shown, registry: Path, tmp_path: Path
) -> None:
    rows = shown.rows()
    document = measured(shown, rows, registry, tmp_path / "same")
    psi = {(f["group"], f["feature"]): f["psi"] for f in document["drift"]}
    assert set(psi) == {
        *(("user", name) for name in ("user_id", "city", "fans")),
        *(("item", name) for name in ("item_id", "tags", "length")),
        *(("context", name) for name in ("tab", "battery")),
        ("behaviours", "length"),
    }
    assert max(psi.values()) < 0.02
    missing = {f["feature"]: f["missing"] for f in document["drift"]}
    cities = shown.tables["impressions"].merge(shown.tables["users"], on="user_id")["city"]
    assert missing["city"] == pytest.approx(cities.isna().mean())
    # The battery is low, and the tab is not sent.
    for record in rows[RecordKind.EXPOSURES]:
        record["context_numerics"] = np.array([0.05], "<f4").tobytes()
        record["context_keys"] = np.array([0], "<i8").tobytes()
    document = measured(shown, rows, registry, tmp_path / "other")
    drifted = {f["feature"]: f for f in document["drift"] if f["psi"] > 0.25}
    assert set(drifted) == {"battery", "tab"}
    assert (drifted["tab"]["missing"], drifted["tab"]["missing_training"]) == (1.0, 0.0)
    assert "1: context feature 'battery' has drifted" in list(remarks(document))


def test_a_bundle_without_histograms_says_so_and_one_that_is_not_there(
    shown: Shown, registry: Path, tmp_path: Path
) -> None:
    rows = shown.rows()
    for n, record in enumerate(rows[RecordKind.EXPOSURES]):
        record["version"] = "23"[n % 2]
    document = measured(shown, rows, registry, tmp_path)
    assert {f["psi"] for f in document["drift"]} == {None}
    old, absent = document["drift_notes"]
    assert old.startswith("version 2: its bundle has no histograms of training (it is of an earlier release)")
    assert absent.startswith("version 3: its bundle cannot be read")


def test_ids_without_rows_of_their_own_are_never_unknown(shown: Shown, tmp_path: Path) -> None:
    hashed = {**RECIPE, "model": {**RECIPE["model"], "embedding": {"hash_buckets": {"item_id": 10}}}}
    recipe = parse_recipe(hashed, "test").model_dump(mode="json")
    of_rules = recipe["features"] | {"user": [f for f in recipe["features"]["user"] if f["name"] != "city"]}
    bundle = publish(
        tmp_path / "registry",
        "1",
        name="tiny",
        schema=RECIPE["features"],
        change=lambda manifest: manifest["provenance"].update(recipe=recipe | {"features": of_rules}),
    )
    # A graph that has a row for the missing key alone.
    lookup = onnx.helper.make_node("LabelEncoder", ["keys"], ["rows"], domain="ai.onnx.ml")
    keys = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "keys")
    lookup.attribute.append(onnx.helper.make_attribute("keys_tensor", keys))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([lookup], "lookup", [], [])), bundle / "model.onnx")
    document = measured(shown, shown.rows(), tmp_path / "registry", tmp_path)
    unknown = {f["feature"]: f["unknown"] for f in document["drift"]}
    assert (unknown["tab"], unknown["user_id"], unknown["tags"]) == (1.0, 1.0, 1.0)
    assert (unknown["item_id"], unknown["city"]) == (None, None)
