"""Tests the recalibration of a served version: on a real run, its bundle, and a log of what that bundle scored."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from logged_tables import LOG_SECTION, Rows, Shown
from small_tables import RECIPE, make_tables, merged, write_tables

from features.layouts import Layouts
from funnelrank.main import main
from loop.errors import LogError
from loop.proof.again import open_bundle, scored_again
from loop.quality.maps import applied, fitted, inverted
from loop.quality.recalibrate import RECALIBRATION, recalibrate
from loop.quality.report import measure
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
    registry: Path
    shown: Shown
    rows: Rows
    bundle: Bundle

    def recipe(self) -> Recipe:
        return parse_recipe({**RECIPE, "log": LOG_SECTION}, "test")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("recalibrate")
    tables = make_tables()
    write_tables(folder / "data", tables)
    recipe = merged(RECIPE, {"data.dir": str(folder / "data"), "training.epochs": 4})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = folder / "run"
    cache = ["--cache", str(folder / "cache")]
    assert main(["train", str(folder / "recipe.yaml"), "--out", str(run), *cache]) == 0
    assert main(["export", str(run), "--registry", str(folder / "registry"), *cache]) == 0
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
    return Served(run, folder / "registry", shown, rows, bundle)


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
