"""Tests loading a bundle: it is verified, or rejected with a code and a reason."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.bundle.loading import load_bundle
from service.bundle.verify import BundleRejected


def load(folder: Path) -> Any:
    return load_bundle(folder, threads=1, largest=50)


def rejection(folder: Path) -> BundleRejected:
    with pytest.raises(BundleRejected) as error:
        load(folder)
    return error.value


def test_a_loaded_bundle_scores_as_the_trainer_did(tmp_path: Path, kit: SimpleNamespace) -> None:
    bundle = load(kit.publish(tmp_path, "1"))
    inputs = kit.golden_inputs(bundle.layouts, candidates=7, behaviours=0)
    expected = kit.scores_by_hand(inputs)
    assert bundle.tasks == kit.TASKS
    assert np.allclose(bundle.score(inputs), np.stack([expected[t] for t in bundle.tasks]), atol=1e-5)


def test_a_schema_without_behaviours_context_or_user_features_is_served(tmp_path: Path, kit: SimpleNamespace) -> None:
    schema = {"item": [{"name": "price", "type": "numeric"}]}
    bundle = load(kit.publish(tmp_path, "1", schema=schema))
    assert set(bundle.inputs) == {"item_numerics"}


def test_a_missing_bundle_is_rejected(tmp_path: Path) -> None:
    assert rejection(tmp_path / "synthetic" / "9").code == "bundle_missing"


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "report.html"])
def test_a_changed_file_is_rejected_by_its_hash(tmp_path: Path, kit: SimpleNamespace, file: str) -> None:
    folder = kit.publish(tmp_path, "1")
    (folder / file).write_bytes((folder / file).read_bytes() + b" ")
    error = rejection(folder)
    assert error.code == "hash_mismatch"
    assert file in error.detail


def test_a_truncated_graph_is_rejected(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.publish(tmp_path, "1")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:200])
    assert rejection(folder).code == "hash_mismatch"


def test_a_missing_file_is_rejected(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.publish(tmp_path, "1")
    (folder / "golden.npz").unlink()
    assert rejection(folder).code == "bundle_incomplete"


def test_a_truncated_manifest_is_rejected(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.publish(tmp_path, "1")
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:300])
    assert rejection(folder).code == "manifest_invalid"


def test_golden_scores_that_differ_are_rejected_with_the_difference(tmp_path: Path, kit: SimpleNamespace) -> None:
    error = rejection(kit.publish(tmp_path, "1", golden_bias=0.01))
    assert error.code == "golden_mismatch"
    assert "pct" in error.detail


def test_golden_nan_is_rejected(tmp_path: Path, kit: SimpleNamespace) -> None:
    assert rejection(kit.publish(tmp_path, "1", golden_nan=True)).code == "golden_not_finite"


def test_a_graph_that_gives_nan_is_rejected(tmp_path: Path, kit: SimpleNamespace) -> None:
    assert rejection(kit.publish(tmp_path, "1", nan_above=-100.0)).code == "golden_not_finite"


def _other_width(manifest: dict[str, Any]) -> None:
    next(i for i in manifest["inputs"] if i["name"] == "item_keys")["shape"] = ["C", 99]


def _other_schema(manifest: dict[str, Any]) -> None:
    manifest["feature_schema"]["item"][1]["name"] = "brand"
    manifest["feature_schema"]["behaviour"]["item_features"] = ["item_id"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_other_width, "inputs_mismatch"),
        (_other_schema, "manifest_invalid"),
        (lambda m: m["inputs"].pop(), "inputs_mismatch"),
        (lambda m: m["inputs"][0].update(name="position"), "inputs_mismatch"),
        (lambda m: m["inputs"][0].update(dtype="float32"), "inputs_mismatch"),
        (lambda m: m["inputs"].append(m["inputs"][0]), "manifest_invalid"),
        (lambda m: m["tasks"].pop(), "outputs_mismatch"),
        (lambda m: m["tasks"][0].update(name="plike"), "outputs_mismatch"),
        (lambda m: m.update(version="2"), "manifest_invalid"),
        (lambda m: m.update(format=2), "manifest_invalid"),
        (lambda m: m["files"].update({"../../../etc/hostname": "0" * 64}), "manifest_invalid"),
        (lambda m: m["files"].pop("golden.npz"), "manifest_invalid"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graph_is_rejected(
    tmp_path: Path, kit: SimpleNamespace, change: Any, code: str
) -> None:
    assert rejection(kit.publish(tmp_path, "1", change=change)).code == code


def test_pickles_are_never_read(tmp_path: Path, kit: SimpleNamespace) -> None:
    def with_pickle(manifest: dict[str, Any]) -> None:
        import hashlib

        file = tmp_path / "synthetic" / "1" / "golden.npz"
        np.savez(file, **{"inputs/item_keys": np.array([{"code": "evil"}], dtype=object)})
        manifest["files"]["golden.npz"] = hashlib.sha256(file.read_bytes()).hexdigest()

    assert rejection(kit.publish(tmp_path, "1", change=with_pickle)).code == "golden_unreadable"


def test_a_session_goes_with_its_last_reference(tmp_path: Path, kit: SimpleNamespace) -> None:
    bundle = load(kit.publish(tmp_path, "1"))
    session = weakref.ref(bundle.session)
    del bundle
    gc.collect()
    assert session() is None
