"""Tests graphs in reduced precision: they can be served, and their loss is measured on labels, reported and limited."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from small_rankers import small
from small_tables import RECIPE, make_tables, merged, write_tables

from export.graph import to_onnx
from export.reduced.judged import Impressions, Judged, impressions_of, keys_of_rows
from export.reduced.precision import ReductionError, reduced
from export.reduced.reduction import judge
from funnelrank.main import main
from models.kinds import PROBABILITY
from models.kinds.value import Value
from models.recipe import parse_recipe
from models.train import train
from models.training.run import open_run
from service.bundle.loading import load_bundle
from service.bundle.manifest import Manifest

VALUE = {"type": "independent", "name": "place", "label": "log1p(place)", "kind": "value"}
MODELS: dict[str, dict[str, Any]] = {
    "esmm": {"model.architecture": "esmm", "model.encoders": [{"type": "pooling"}], "tasks": RECIPE["tasks"][:1]},
    "mmoe": {"tasks": [*RECIPE["tasks"], VALUE]},
    "dupn": {
        "model.architecture": "dupn",
        "model.encoders": [{"type": "dupn", "hidden": 16}],
        "tasks": [{"type": "independent", "name": "pctr", "label": "click"}, *RECIPE["tasks"][1:]],
        "extra_evaluations": [],
    },
}


@dataclass(frozen=True)
class Trained:
    run: Path
    cache: Path
    registry: Path
    tested: dict[str, Any]

    def export(self, precision: str, version: str, *more: str, registry: Path | None = None) -> int:
        arguments = [
            str(self.run),
            "--registry",
            str(registry or self.registry),
            "--version",
            version,
            "--cache",
            str(self.cache),
        ]
        return main(["export", *arguments, "--precision", precision, *more])

    def folder(self, version: str) -> Path:
        return self.registry / self.run.name / version


@pytest.fixture(
    scope="module", params=["mmoe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("esmm", "dupn"))]
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A ranker trained on small tables, exported in all three precisions."""
    folder = tmp_path_factory.mktemp("precision")
    name = request.param
    changes = {
        "name": name,
        "data.dir": str(write_tables(folder / "data", make_tables())),
        "training.epochs": 1,
    } | MODELS[name]
    measured = train(
        parse_recipe(merged(RECIPE, changes), "the test"),
        folder / name,
        cache=folder / "cache",
        reading_steps=0,
        quiet=True,
    )
    made = Trained(folder / name, folder / "cache", folder / "registry", measured["parts"]["test"]["outputs"])
    for precision in ("float32", "int8", "float16"):
        assert made.export(precision, precision, "--max-auc-loss", "0.2") == 0
    return made


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


def impressions(trained: Trained) -> Impressions:
    return impressions_of(open_run(trained.run), trained.cache)


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_service_loads_a_reduced_bundle_and_ranks_with_its_own_scores(trained: Trained, precision: str) -> None:
    bundle = load_bundle(trained.folder(precision), threads=1, largest=50)
    inputs = next(impressions(trained).requests(seed=5))
    full = load_bundle(trained.folder("float32"), threads=1, largest=50).score(inputs)
    scores = bundle.score(inputs)
    assert scores.shape == full.shape == (len(bundle.tasks), 64)
    assert 0 < np.abs(scores - full).max() < 0.05
    with (
        np.load(trained.folder(precision) / "golden.npz") as own,
        np.load(trained.folder("float32") / "golden.npz") as other,
    ):
        assert any(not np.array_equal(own[f"outputs/{task}"], other[f"outputs/{task}"]) for task in bundle.tasks)


def test_float32_measures_nothing_and_says_nothing_of_it(trained: Trained) -> None:
    assert manifest_of(trained.folder("float32")).reduction is None
    assert b"Reduced precision" not in (trained.folder("float32") / "report.html").read_bytes()


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_the_auc_that_is_shown_is_that_of_both_graphs(trained: Trained, precision: str) -> None:
    """In float32 it is training's own test AUC; the other is computed here again, pair by pair."""
    shown = manifest_of(trained.folder(precision)).reduction
    of = impressions(trained)
    assert (
        shown is not None and shown.part == "test" and shown.impressions == len(of.picked) == len(of.data.parts["test"])
    )
    sessions = [ort.InferenceSession(trained.folder(p) / "model.onnx") for p in ("float32", precision)]
    names = list(shown.outputs)
    requests = list(of.requests(open_run(trained.run).recipe.training.seed))
    scores = np.array([[np.stack(session.run(names, inputs)) for inputs in requests] for session in sessions])
    for i, (name, output) in enumerate(shown.outputs.items()):
        by = of.judged[name]
        own = scores[:, :, i, 0][:, by.inside]
        assert output.float32 is not None and output.reduced is not None and output.loss is not None
        if output.measure == "AUC":
            assert output.float32 == pytest.approx(
                trained.tested[name]["auc"], abs=1e-4
            )  # float32 sums in another order may swap a pair
            assert output.reduced == pytest.approx(pairwise_auc(by.label[by.inside], own[1]), abs=1e-9)
            assert output.loss == pytest.approx(output.float32 - output.reduced, abs=1e-12)
        else:
            assert output.float32 == pytest.approx(trained.tested[name]["rmse"], abs=1e-5)
            assert output.loss == pytest.approx(output.reduced / output.float32 - 1)
        assert output.max_abs_difference == pytest.approx(np.abs(scores[1, :, i] - scores[0, :, i]).max())
        assert output.mean_abs_difference == pytest.approx(np.abs(scores[1, :, i] - scores[0, :, i]).mean(), rel=1e-3)


def pairwise_auc(label: np.ndarray, score: np.ndarray) -> float:
    difference = score[label > 0][:, None] - score[label == 0]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_the_report_shows_speed_size_and_loss(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    measured = manifest_of(trained.folder("float16")).reduction
    assert measured is not None and measured.cpu_ms > 0 and measured.float32_cpu_ms > 0
    assert measured.graph_bytes == (trained.folder("float16") / "model.onnx").stat().st_size < measured.float32_bytes
    page = (trained.folder("float16") / "report.html").read_text()
    section = page[page.index("<h2>Reduced precision</h2>") :]
    assert all(f"<td>{name}<td>" in section for name in measured.outputs) and section.endswith(
        "</main></body></html>\n"
    )
    assert f"{measured.cpu_ms:.3f} ms of CPU" in section


def test_a_loss_above_the_limit_publishes_nothing_and_names_the_output_and_its_numbers(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit demands an improvement that no reduction gives; the error names the measured loss."""
    first = next(iter(manifest_of(trained.folder("int8")).reduction.outputs.values()))  # type: ignore[union-attr]
    assert trained.export("int8", "1", "--max-auc-loss", "-0.5", registry=tmp_path / "registry") == 1
    stderr = capsys.readouterr().err
    assert f"pctr: AUC {first.float32:.5f} in float32 and {first.reduced:.5f} in int8" in stderr
    assert f"a loss of {first.loss:.5f}, -0.5 is allowed" in stderr and "--max-auc-loss" in stderr
    assert not (tmp_path / "registry").exists()


def test_tables_that_changed_since_training_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(open_run(trained.run).recipe.data.dir)
    content = (data / "users.parquet").read_bytes()
    write_tables(data, {"users": make_tables(seed=4)["users"]})
    try:
        assert trained.export("float16", "1", registry=tmp_path / "registry") == 1
    finally:
        (data / "users.parquet").write_bytes(content)
    assert "is not what the run was trained on" in capsys.readouterr().err
    assert not (tmp_path / "registry").exists()


def test_every_row_has_a_key_that_leads_back_to_it() -> None:
    vocabulary = small("esmm").encoding.vocabulary
    keys = keys_of_rows(vocabulary)
    for name, unknown in vocabulary.unknown_rows.items():
        known = [
            row for row in range(vocabulary.n_rows) if row == unknown or row not in vocabulary.unknown_rows.values()
        ]
        assert vocabulary.rows_of(keys[known], np.array([unknown], np.int32)).tolist() == known, name


def test_a_model_without_a_large_product_is_not_worth_int8() -> None:
    model = small("esmm", "pooling", trunk={"type": "separate", "hidden": [8]})
    with pytest.raises(ReductionError, match="no layer has 4,096 weights or more"):
        reduced(to_onnx(model.graph, model.encoding), "int8")


def test_a_table_beyond_half_precision_is_refused_by_name() -> None:
    model = small("esmm")
    model.ranker.inputs.table.weight.data[3, 1] = 1e6
    with pytest.raises(ReductionError, match="table.weight' holds a number beyond 65504"):
        reduced(to_onnx(model.graph, model.encoding), "float16")


def test_reducing_leaves_the_float32_graph_as_it_is_and_gives_the_same_bytes_again() -> None:
    model = small("mmoe", "din")
    graph = to_onnx(model.graph, model.encoding)
    before = graph.SerializeToString()
    for precision in ("int8", "float16"):
        first, second = (reduced(graph, precision).SerializeToString() for _ in range(2))  # type: ignore[arg-type]
        assert first == second != before
        onnx.checker.check_model(onnx.load_from_string(first))
    assert graph.SerializeToString() == before


def test_an_output_without_labels_is_shown_without_a_loss() -> None:
    by = Judged(np.zeros(4, np.float32), np.ones(4, bool))
    scores = np.linspace(0.1, 0.4, 4, dtype=np.float32)
    assert judge(by, PROBABILITY, scores, scores, 0.0, 0.0).loss is None
    assert judge(by._replace(inside=~by.inside), Value(), scores, scores, 0.0, 0.0).loss is None


def test_the_help_names_the_precisions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    assert "{float32,int8,float16}" in capsys.readouterr().out


def test_the_manifest_is_plain_json_with_the_reduction_in_it(trained: Trained) -> None:
    written = json.loads((trained.folder("int8") / "manifest.json").read_text())
    assert written["reduction"]["precision"] == "int8" and written["reduction"]["max_loss"] == 0.2
    assert written["parity"]["max_abs_difference"] <= 1e-5  # torch against the float32 graph, as ever
