"""Tests bundles whose tables lie beside the graph: they score bit for bit as the same bundle in one file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from small_rankers import Small, raw_inputs, score, small
from torch import nn

from export.bundle import Published, publish_run
from export.exported import exported
from export.external.tensors import write_tensors
from export.publish import PublishError
from funnelrank.commands.exporting import _summary
from loop.quality.drift import known_keys
from models.catalogue import CATALOGUE
from models.training.run import Run
from service.bundle.loading import load_bundle, open_session
from service.bundle.manifest import Manifest
from service.bundle.verify import read_manifest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bundle-format-2" / "registry"
MODEL_KEYS = len(small("mmoe").encoding.vocabulary.keys)


def run_of(model: Small) -> Run:
    """A finished run of a small model, in memory."""
    pool = [raw_inputs(model, 1, 4, seed=i) for i in range(20)]
    rows = {name: np.concatenate([one[name] for one in pool]) for name in pool[0]}
    provenance = {"data": {"hash": "abc"}, "seed": 1}
    return Run(model.recipe, model.encoding, model.ranker.eval(), rows, {}, provenance, b"<!doctype html>")


def size_of_table(model: Small) -> int:
    return max(module.weight.nbytes for module in model.ranker.modules() if isinstance(module, nn.Embedding))


@pytest.fixture(scope="module")
def model() -> Small:
    return small("mmoe", "din+pooling", position=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, model: Small) -> tuple[Path, Path]:
    """The same run as a bundle in one file, and as one with tables beside the graph."""
    registry = tmp_path_factory.mktemp("registry")
    run = run_of(model)
    whole = publish_run(run, registry, "whole").folder
    return whole, publish_run(run, registry, "apart", external_bytes=size_of_table(model)).folder


def test_the_scores_are_equal_bit_for_bit_at_every_size(folders: tuple[Path, Path], model: Small) -> None:
    whole, apart = (load_bundle(folder, 1, 100) for folder in folders)
    for candidates, behaviours in ((1, 0), (7, 2), (64, 17), (257, 50)):
        inputs = raw_inputs(model, candidates, behaviours, seed=candidates)
        assert np.array_equal(whole.score(inputs), apart.score(inputs))


def test_the_manifest_has_a_format_of_its_own_and_the_small_one_is_as_before(folders: tuple[Path, Path]) -> None:
    whole, apart = (json.loads((folder / "manifest.json").read_text()) for folder in folders)
    assert (
        whole["format"] == 1
        and "external" not in whole
        and set(whole["files"])
        == {
            "model.onnx",
            "golden.npz",
            "report.html",
        }
    )
    assert apart["format"] == 2
    content = (folders[1] / "tables.bin").read_bytes()
    assert apart["files"]["tables.bin"] == hashlib.sha256(content).hexdigest()
    names = [tensor["name"] for tensor in apart["external"]]
    assert names == ["ranker.inputs.table.weight", "lookup_pilots", "lookup_pairs"]


def test_the_graph_holds_neither_the_table_nor_the_keys(folders: tuple[Path, Path], model: Small) -> None:
    graph = onnx.load(folders[1] / "model.onnx", load_external_data=False).graph
    assert not [node for node in graph.node if node.op_type == "LabelEncoder"]
    inside = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert not [t.name for t in inside if model.encoding.vocabulary.n_rows in t.dims]


def test_other_programs_load_the_graph_by_its_path(folders: tuple[Path, Path], model: Small) -> None:
    session = ort.InferenceSession(folders[1] / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = raw_inputs(model, 5, 3)
    bundle = load_bundle(folders[1], 1, 100)
    assert np.array_equal(np.stack(session.run(bundle.tasks, inputs)), bundle.score(inputs))


def test_the_quality_report_reads_the_keys_of_both_forms(folders: tuple[Path, Path]) -> None:
    whole, apart = (known_keys(folder, read_manifest(folder)) for folder in folders)
    assert whole is not None and apart is not None
    assert np.array_equal(np.unique(whole), np.unique(apart))


def test_a_large_bundle_of_the_version_before_scores_as_it_did() -> None:
    """Its keys are found by bisection (`lookup_starts`), where bundles of today have a perfect hash."""
    folder = FIXTURE / "small-mmoe" / "1"
    bundle = load_bundle(folder, 1, 100)  # its scores agree with those that torch computed then
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    recorded = dict(bundle.golden)
    assert np.array_equal(np.stack(session.run(bundle.tasks, recorded)), bundle.score(recorded))
    keys = known_keys(folder, bundle.manifest)
    assert keys is not None and len(np.unique(keys)) == 1 + MODEL_KEYS


@pytest.fixture(scope="module")
def run(model: Small) -> Run:
    return run_of(model)


def test_a_reduced_precision_of_large_tables_is_refused_and_nothing_is_published(
    run: Run, model: Small, tmp_path: Path
) -> None:
    with pytest.raises(PublishError, match="so large that they lie beside the graph, where int8 cannot be"):
        publish_run(run, tmp_path, "1", "int8", external_bytes=size_of_table(model))
    assert not list(tmp_path.glob("*/*")), "a hidden folder stayed behind"


def test_a_version_that_is_taken_is_refused_before_a_table_is_written(
    run: Run, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.bundle.exported", None)  # it would be called
    registry = folders[1].parents[1]
    with pytest.raises(PublishError, match="published already"):
        publish_run(run, registry, "apart", external_bytes=1)
    assert sorted(path.name for path in registry.glob("*/*")) == ["apart", "whole"]


@pytest.mark.parametrize("name", ["star", "dupn", "nfwfm"])  # tables of domains, many structures, products of pieces
def test_other_architectures_score_as_torch_does(name: str, tmp_path: Path) -> None:
    model = small(name, CATALOGUE[name].encoder.type)
    inputs = raw_inputs(model, 9, 3)
    with exported(model.graph, model.encoding, tmp_path, "model", size_of_table(model)) as graph:
        session = open_session(graph.content, 1, graph.tables)
        names = [output.name for output in session.get_outputs()]
        scores = dict(zip(names, session.run(names, inputs), strict=True))
    for output, values in score(model, inputs).items():
        np.testing.assert_allclose(scores[output], values, atol=1e-5, rtol=0)


def test_tensors_are_written_at_pages_and_their_hash_is_that_of_the_file(tmp_path: Path) -> None:
    tensors = {"a": np.arange(10, dtype=np.int32), "b": np.ones((3, 5), np.float32)}
    written = write_tensors(tmp_path / "t.bin", tensors)
    content = (tmp_path / "t.bin").read_bytes()
    assert written.digest == hashlib.sha256(content).hexdigest()
    assert [(t.name, t.dtype, t.shape, t.offset) for t in written.tensors] == [
        ("a", "int32", (10,), 0),
        ("b", "float32", (3, 5), 4096),
    ]
    assert content[4096:] == tensors["b"].tobytes()


def test_an_older_service_refuses_the_bundle_by_its_format(folders: tuple[Path, Path]) -> None:
    """A manifest of a format that this version does not know either: the refusal names it first."""
    manifest = json.loads((folders[1] / "manifest.json").read_text()) | {"format": 3, "unheard_of": 1}
    with pytest.raises(ValueError, match="format\n  Input should be 1 or 2"):
        Manifest.model_validate(manifest)


def test_the_command_says_how_large_the_tables_are(folders: tuple[Path, Path]) -> None:
    manifest = read_manifest(folders[1])
    lines = list(_summary(Published(folders[1], manifest, 1000), False))
    assert any(line.startswith("tables      0.0") and line.endswith("share them") for line in lines)
