"""Tests the recalibration of a served version: on a real run, its bundle, and a log of what that bundle scored."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from logged_tables import LOG_SECTION, Rows, Shown
from small_tables import RECIPE, make_tables, merged, write_tables

from export.declare import declare
from features.layouts import Layouts
from funnelrank.main import main
from loop.errors import LogError
from loop.proof.again import open_bundle, scored_again
from loop.quality.maps import applied, fitted, inverted
from loop.quality.recalibrate import RECALIBRATION, recalibrate
from loop.quality.reports.report import measure
from models.recipe import Recipe, parse_recipe
from service.bundle.loading import Bundle
from service.bundle.verify import read_manifest
from tables.log_records import RecordKind

EXPOSURES, _, EVENTS = RecordKind
HOUR = 3_600_000


@dataclass(frozen=True)
class Served:
    """A run, the registry with its bundle, and the log of impressions whose clicks are half as frequent as trained."""

    run: Path
    cache: Path
    registry: Path
    shown: Shown
    rows: Rows
    bundle: Bundle

    def recipe(self) -> Recipe:
        return parse_recipe({**RECIPE, "log": LOG_SECTION}, "test")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served_in(tmp_path_factory.mktemp("recalibrate"), {"training.epochs": 4})


@pytest.fixture(scope="module")
def served_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Two networks together, in half precision."""
    settings = {"training.epochs": 3, "training.ensemble": 2}
    return served_in(tmp_path_factory.mktemp("ensemble"), settings, "--precision", "float16", "--max-auc-loss", "0.1")


def served_in(folder: Path, settings: dict[str, Any], *options: str) -> Served:
    """Train a run, export it with these options, and log what the bundle scores."""
    tables = make_tables()
    write_tables(folder / "data", tables)
    recipe = merged(RECIPE, {"data.dir": str(folder / "data"), **settings})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = folder / "run"
    cache = ["--cache", str(folder / "cache")]
    assert main(["train", str(folder / "recipe.yaml"), "--out", str(run), *cache]) == 0
    assert main(["export", str(run), "--registry", str(folder / "registry"), *cache, *options]) == 0
    # Fewer clicks than in training.
    impressions = tables["impressions"]
    dropped = np.random.default_rng(1).random(len(impressions)) < 0.5
    for name in ("click", "like"):
        impressions[name] = impressions[name].where(~dropped, 0)
    shown = Shown(tables, RECIPE["features"])
    bundle = open_bundle(folder / "registry", "tiny", "1")
    rows = shown.rows()
    for record in rows[EXPOSURES]:
        record["tasks"] = list(bundle.tasks)
        record["item_within"] = None
        record["predictions"] = scored_again(record, shown.layouts, bundle).predictions.ravel()
    last = max(record["logged_ms"] for record in rows[EXPOSURES])
    closing = rows[EVENTS][0] | {"event_id": "last", "action": "nothing", "request_id": None, "item_id": "none"}
    rows[EVENTS].append(closing | {"time_ms": last + 3 * HOUR, "logged_ms": last + 3 * HOUR})
    return Served(run, folder / "cache", folder / "registry", shown, rows, bundle)


def with_scores(served: Served, bundle: Bundle) -> list[dict[str, Any]]:
    """The records as if this bundle had ranked them."""
    again = [scored_again(record, served.shown.layouts, bundle) for record in served.rows[EXPOSURES]]
    pairs = zip(served.rows[EXPOSURES], again, strict=True)
    return [record | {"predictions": scored.predictions.ravel()} for record, scored in pairs]


def scores(served: Served, bundle: Bundle) -> dict[str, np.ndarray]:
    """The scores of the seen items."""
    layouts: Layouts = served.shown.layouts
    again = np.stack([scored_again(r, layouts, bundle).predictions[:, 1] for r in served.rows[EXPOSURES]])
    return {task: again[:, place].astype(np.float64) for place, task in enumerate(bundle.tasks)}


@pytest.mark.slow  # exports a run
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_new_version_predicts_the_rate_that_was_observed(served: Served, tmp_path: Path, method: str) -> None:
    log = served.shown.write(tmp_path / "log", served.rows)
    before = measure(log, served.recipe(), served.registry)
    copc = {c["task"]: c["copc"] for c in before["cells"]}
    assert copc["pctr"] < 0.75
    assert all(f["psi"] is not None for f in before["drift"])
    assert {f["unknown"] for f in before["drift"] if f["feature"] == "tab"} == {0.0}
    words = ["recalibrate", str(served.run), "--log", str(log), "--registry", str(served.registry), "--of", "1"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "log": LOG_SECTION}))
    words += ["--recipe", str(recipe), "--method", method, "--version", method, "--min-labels", "100"]
    assert main(words) == 0
    bundle = open_bundle(served.registry, "tiny", method)
    old = scores(served, served.bundle)
    new = scores(served, bundle)
    clicks = served.shown.tables["impressions"].sort_values("time_ms", kind="stable")["click"].to_numpy()
    assert clicks.sum() / new["pctr"].sum() == pytest.approx(1, abs=0.03)
    # The order of a factor stays, and so does the chain.
    order = np.argsort(old["pctr"], kind="stable")
    assert (np.diff(new["pctr"][order]) >= -1e-6).all()
    np.testing.assert_allclose(new["pctcvr"], new["pctr"] * new["pcvr"], rtol=1e-5)
    provenance = read_manifest(served.registry / "tiny" / method).provenance[RECALIBRATION]
    assert provenance["of"] == "tiny/1"
    for name, factor in provenance["factors"].items():
        if "kept_because" in factor:
            np.testing.assert_allclose(new[name], old[name], atol=1e-6)
    assert not (served.registry / "rollout.json").exists()


@pytest.mark.slow  # exports a run
def test_an_ensemble_in_half_precision_stays_one(served_ensemble: Served, tmp_path: Path) -> None:
    served = served_ensemble
    log = served.shown.write(tmp_path / "log", served.rows)
    done = recalibrate(
        served.run, log, served.recipe(), served.registry, "1", fewest=100, version="again", cache=served.cache
    )
    assert done.published is not None
    manifest = done.published.manifest
    assert manifest.reduction is not None
    assert (manifest.reduction.precision, manifest.reduction.max_loss) == ("float16", 0.1)
    assert manifest.composition["members"] == "2"
    bundle = open_bundle(served.registry, "tiny", "again")
    clicks = served.shown.tables["impressions"].sort_values("time_ms", kind="stable")["click"].to_numpy()
    before = clicks.sum() / scores(served, served.bundle)["pctr"].sum()
    assert before < 0.75
    assert clicks.sum() / scores(served, bundle)["pctr"].sum() == pytest.approx(1, abs=0.03)
    # The maps of the served version are those of its manifest, not those of the run.
    copc = done.factors["pctr"]["before"]["copc"]
    later = [record | {"version": "again"} for record in with_scores(served, bundle)]
    log = served.shown.write(tmp_path / "later", {**served.rows, EXPOSURES: later})
    with pytest.raises(LogError, match="nothing is published"):
        recalibrate(served.run, log, served.recipe(), served.registry, "again", fewest=5000, cache=served.cache)
    assert copc < 0.8


@pytest.mark.slow  # exports a run
def test_features_that_were_declared_for_rules_stay(served: Served, tmp_path: Path) -> None:
    (tmp_path / "features.yaml").write_text("item: [{name: stock, type: numeric}]")
    registry = tmp_path / "registry"
    shutil.copytree(served.registry / "tiny" / "1", registry / "tiny" / "1")
    assert declare(registry / "tiny" / "1", tmp_path / "features.yaml", registry).version == "2"
    records = [record | {"version": "2"} for record in served.rows[EXPOSURES]]
    log = served.shown.write(tmp_path / "log", {**served.rows, EXPOSURES: records})
    done = recalibrate(served.run, log, served.recipe(), registry, "2", fewest=100)
    assert done.published is not None
    schema = done.published.manifest.feature_schema
    assert schema == read_manifest(registry / "tiny" / "2").feature_schema
    assert schema.item[-1].name == "stock"


@pytest.mark.slow  # exports a run
def test_too_few_labels_or_another_run_publish_nothing(served: Served, tmp_path: Path) -> None:
    log = served.shown.write(tmp_path / "log", served.rows)
    published = sorted(path.name for path in (served.registry / "tiny").iterdir())
    with pytest.raises(LogError, match=r"nothing is published.*pctr: \d+ positives and .*fewer than 5,000"):
        recalibrate(served.run, log, served.recipe(), served.registry, "1", fewest=5000)
    folder = served.registry / "tiny" / "1"
    with np.load(folder / "golden.npz") as golden:
        arrays = {name: golden[name] for name in golden.files}
    arrays["outputs/pctr"] = arrays["outputs/pctr"] + 0.01
    spoiled = tmp_path / "registry" / "tiny" / "1"
    spoiled.mkdir(parents=True)
    (spoiled / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    np.savez(spoiled / "golden.npz", **arrays)
    with pytest.raises(LogError, match="the run is not that of tiny/1"):
        recalibrate(served.run, log, served.recipe(), tmp_path / "registry", "1")
    assert sorted(path.name for path in (served.registry / "tiny").iterdir()) == published


def test_maps_are_inverted_exactly() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=2000)
    label = (rng.random(2000) < 1 / (1 + np.exp(-(2 * logit - 1)))).astype(float)
    for method in ("platt", "isotonic"):
        chosen = fitted(method, label, logit)
        wide = np.linspace(-9, 9, 101)
        np.testing.assert_allclose(inverted(chosen, applied(chosen, wide)), wide, atol=1e-9)
