"""Tests `funnelrank export`: a finished run becomes a bundle that the service accepts; a faulty run is not
published.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from small_rankers import Small, raw_inputs, score, small

from features.table_names import TableNames
from funnelrank.main import main
from models.training.checkpoint import WEIGHTS_FILE, save_weights
from models.training.outcome import ENCODING_FILE, KEPT_FILE, METRICS_FILE, RECIPE_FILE, REPORT_FILE
from service.bundle.loading import load_bundle
from service.bundle.manifest import Manifest


def finished_run(folder: Path, model: Small) -> Path:
    """A folder as training leaves it."""
    folder.mkdir()
    (folder / RECIPE_FILE).write_text(yaml.safe_dump(model.recipe.model_dump(mode="json")))
    model.encoding.save(folder / ENCODING_FILE)
    pool = [raw_inputs(model, 1, 4, seed=i) for i in range(20)]
    np.savez(folder / KEPT_FILE, **{name: np.concatenate([one[name] for one in pool]) for name in pool[0]})
    save_weights(model.ranker.state_dict(), 3 if model.ranker.position else 0, 10, folder / WEIGHTS_FILE)
    test = {"outputs": {o.name: {"auc": 0.7} for o in model.ranker.outputs}, "extra": []}
    measured = {
        "parts": {"test": test},
        "data": {"hash": "abc"},
        "versions": {"torch": torch.__version__},
        "best": {"step": 10},
        "calibration": None,
    }
    (folder / METRICS_FILE).write_text(json.dumps(measured))
    (folder / REPORT_FILE).write_text("<!doctype html><title>report</title>")
    return folder


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def model() -> Small:
    return small("mmoe", "din+pooling", position=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model: Small) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert export(finished_run(folder / "run", model), "--registry", folder / "registry") == 0
    return folder / "registry" / "small-mmoe" / "1"


def test_the_recipes_names_of_tables_and_columns_travel_in_the_manifest(
    tmp_path: Path, model: Small, exported: Path
) -> None:
    assert "tables" not in json.loads((exported / "manifest.json").read_text()), "older services read it as before"
    run = finished_run(tmp_path / "run", model)
    recipe = yaml.safe_load((run / RECIPE_FILE).read_text())
    recipe["data"] |= {"user_id": "uid", "time_ms": "ts", "users": "people.csv", "items": "items.csv"}
    (run / RECIPE_FILE).write_text(yaml.safe_dump(recipe))
    assert export(run, "--registry", tmp_path / "registry") == 0
    written = (tmp_path / "registry" / "small-mmoe" / "1" / "manifest.json").read_text()
    names = TableNames(user_id="uid", time_ms="ts", users="people.csv")
    assert Manifest.model_validate_json(written).tables == names


def test_a_key_that_cannot_sign_is_told_before_the_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        export(
            tmp_path / "no-run",
            "--registry",
            tmp_path / "registry",
            "--sign-with",
            tmp_path / "no-key.pem",
        )
        == 1
    )
    assert "no-key.pem: No such file" in capsys.readouterr().err


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


def test_the_golden_request_holds_what_torch_scores(exported: Path, model: Small) -> None:
    with np.load(exported / "golden.npz", allow_pickle=False) as golden:
        inputs = {n.removeprefix("inputs/"): golden[n] for n in golden.files if n.startswith("inputs/")}
        assert inputs["item_keys"].shape[0] == 64
        for name, values in score(model, inputs).items():
            np.testing.assert_array_equal(golden[f"outputs/{name}"], values)


def test_a_tower_of_several_heads_and_columns_is_left_out_and_asks_for_no_input(tmp_path: Path) -> None:
    section = {"head": ["pctr", "plike"], "cross": ["device", "scene"]}
    run = finished_run(tmp_path / "run", small("mmoe", position=section))
    assert export(run, "--registry", tmp_path / "registry") == 0
    folder = tmp_path / "registry" / "small-mmoe" / "1"
    manifest = manifest_of(folder)
    (part,) = manifest.left_out
    assert part.columns == ("position", "device", "scene")
    assert part.note.count("stays as a constant") == 2 and "'pctr'" in part.note and "'plike'" in part.note
    graph = onnx.load(folder / "model.onnx").graph
    names = [tensor.name for tensor in [*graph.input, *graph.initializer]] + [i.name for i in manifest.inputs]
    assert not [name for name in names if "position" in name or "device" in name or "scene" in name]


def test_the_manifest_says_what_was_left_out_and_what_was_measured(exported: Path) -> None:
    manifest = manifest_of(exported)
    (part,) = manifest.left_out
    assert part.part == "position_tower" and part.columns == ("position", "device")
    assert not [i for i in manifest.inputs if "position" in i.name]
    assert manifest.parity.max_abs_difference <= manifest.parity.tolerance == 1e-5
    assert manifest.parity.candidates == (1, 2, 7, 64, 257, 1000) and manifest.parity.behaviours == (0, 1, 2, 17, 50)
    assert manifest.metrics["pctr"]["auc"] == 0.7
    assert manifest.provenance["data"] == {"hash": "abc"} and manifest.provenance["seed"] == 1


def test_the_service_accepts_the_bundle(exported: Path) -> None:
    bundle = load_bundle(exported, threads=1, largest=100)
    assert bundle.manifest == manifest_of(exported)


def broken(change: str, folder: Path, model: Small) -> Path:
    run = finished_run(folder / "run", model)
    if change == "no weights":
        (run / WEIGHTS_FILE).unlink()
    elif change == "weights of another model":
        save_weights(small("esmm").ranker.state_dict(), 0, 10, run / WEIGHTS_FILE)
    elif change == "a weight that is no number":
        weights: dict[str, Any] = dict(model.ranker.state_dict())
        weights["towers.layers.0.bias"] = torch.full_like(weights["towers.layers.0.bias"], torch.nan)
        save_weights(weights, 3, 10, run / WEIGHTS_FILE)
    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no weights", "has no checkpoint.pt"),
        ("weights of another model", "Missing key"),
        ("a weight that is no number", "a score is not finite"),
    ],
)
def test_a_doubtful_run_publishes_nothing_and_exits_non_zero(
    change: str,
    message: str,
    tmp_path: Path,
    model: Small,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(broken(change, tmp_path, model), "--registry", tmp_path / "registry") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("registry/*/*"))


def test_a_graph_that_differs_from_torch_is_not_published(
    tmp_path: Path, model: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tolerance is set to an unreachable value; the difference itself is real."""
    monkeypatch.setattr("export.parity.TOLERANCE", -1.0)
    assert export(finished_run(tmp_path / "run", model), "--registry", tmp_path / "registry") == 1
    assert "torch and ONNX Runtime differ" in capsys.readouterr().err
    assert not list(tmp_path.glob("registry/*/*"))


def test_vectors_stand_beside_the_tasks_and_are_replayed_at_the_load(tmp_path: Path) -> None:
    with_vectors = small("mmoe", "dupn", outputs=["user_representation", "item_vector"])
    assert export(finished_run(tmp_path / "run", with_vectors), "--registry", tmp_path / "registry") == 0
    folder = tmp_path / "registry" / "small-mmoe" / "1"
    manifest = manifest_of(folder)
    written = json.loads((folder / "manifest.json").read_text())["outputs"]
    width = with_vectors.ranker.vector_shapes["user_representation"][0]
    assert written == [
        {"name": "user_representation", "shape": [width]},
        {"name": "item_vector", "shape": ["C", 18]},
    ]
    assert manifest.task_names == with_vectors.ranker.score_names
    bundle = load_bundle(folder, threads=1, largest=100)
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        _, (user, items) = bundle.score_with(dict(bundle.golden), ["user_representation", "item_vector"])
        np.testing.assert_allclose(user, golden["outputs/user_representation"], atol=1e-4)
        np.testing.assert_allclose(items, golden["outputs/item_vector"], atol=1e-4)


def test_features_for_rules_are_in_the_schema_and_not_in_the_graph(
    model: Small, exported: Path, tmp_path: Path
) -> None:
    run = finished_run(tmp_path / "run", model)
    recipe = yaml.safe_load((run / RECIPE_FILE).read_text())
    recipe["rule_features"] = {"item": [{"name": "stock", "type": "numeric"}]}
    (run / RECIPE_FILE).write_text(yaml.safe_dump(recipe))
    assert export(run, "--registry", tmp_path / "registry") == 0
    bundle = load_bundle(tmp_path / "registry" / "small-mmoe" / "1", 1, 64)
    alone = load_bundle(exported, 1, 64).manifest
    assert bundle.manifest.inputs == alone.inputs
    assert bundle.manifest.feature_schema.item[:-1] == alone.feature_schema.item
    assert bundle.manifest.feature_schema.item[-1].name == "stock"
    assert bundle.narrowed == {"item_numerics": bundle.layouts.item.numeric_width - 1}


def test_the_command_declares_features_for_a_published_bundle(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = tmp_path / "features.yaml"
    features.write_text("candidate: [{name: margin, type: numeric}]")
    arguments = ["declare", str(exported), str(features), "--registry", str(tmp_path / "registry"), "--version", "b"]
    assert main(arguments) == 0
    assert f"published   {tmp_path / 'registry' / 'small-mmoe' / 'b'}" in capsys.readouterr().out
    assert (
        load_bundle(tmp_path / "registry" / "small-mmoe" / "b", 1, 64).manifest.provenance["graph_of"] == "small-mmoe/1"
    )
    assert main(arguments) == 1, "a version is never replaced"
    features.write_text("candidates: []")
    assert main([*arguments[:-1], "c"]) == 1
    assert "candidates" in capsys.readouterr().err
