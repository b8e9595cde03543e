"""Tests republishing: it makes a second version with the same content, and replaces no existing version."""

import json
from pathlib import Path

import pytest

from loadtest.swaps.republish import republish


def test_the_copy_differs_in_its_version_alone(tmp_path: Path) -> None:
    bundle = tmp_path / "m" / "1"
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(b"graph")
    (bundle / "manifest.json").write_text(json.dumps({"name": "m", "version": "1", "files": {"model.onnx": "digest"}}))
    copy = republish(bundle, "2")
    assert copy == tmp_path / "m" / "2"
    assert (copy / "model.onnx").read_bytes() == b"graph"
    assert json.loads((copy / "manifest.json").read_text()) == {
        "name": "m",
        "version": "2",
        "files": {"model.onnx": "digest"},
    }
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2"]
    with pytest.raises(FileExistsError):
        republish(bundle, "2")
