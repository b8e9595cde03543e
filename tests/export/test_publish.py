"""Tests publishing: a bundle is published whole or not at all, and never over another one."""

import hashlib
import json
import subprocess
import sys

import pytest
from small_rankers import small

from export.graph import graph_inputs
from export.publish import PublishError, next_version, publish, sha256_of, staging
from export.sign import signer
from service.bundle.manifest import FORMAT, Manifest, Parity
from service.bundle.verify import read_manifest

FILES = {"model.onnx": b"graph", "golden.npz": b"golden", "report.html": b"<html>"}


def manifest(version="1", name="small"):
    schema = small("esmm").encoding.schema
    return Manifest(
        format=FORMAT,
        name=name,
        version=version,
        created_at="2026-01-01T00:00:00+00:00",
        architecture="esmm",
        composition={},
        feature_schema=schema,
        fingerprint=schema.fingerprint,
        inputs=graph_inputs(schema),
        tasks=({"name": "pctr", "kind": "probability", "label": "click", "space": "impression"},),
        metrics={},
        parity=Parity(candidates=(1,), behaviours=(0,), tolerance=1e-5, max_abs_difference=0.0),
        provenance={},
        files={n: sha256_of(c) for n, c in FILES.items()},
    )


def test_a_published_bundle_has_every_file_and_its_hash(tmp_path):
    folder = publish(tmp_path, manifest(), FILES)
    assert folder == tmp_path / "small" / "1"
    written = json.loads((folder / "manifest.json").read_text())
    assert Manifest.model_validate(written) == manifest()
    for name, digest in written["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert [p.name for p in (tmp_path / "small").iterdir()] == ["1"]


def test_a_published_version_is_never_overwritten(tmp_path):
    publish(tmp_path, manifest(), FILES)
    with pytest.raises(PublishError, match="never overwritten"):
        publish(tmp_path, manifest(), FILES | {"model.onnx": b"other"})
    assert (tmp_path / "small" / "1" / "model.onnx").read_bytes() == b"graph"


def test_of_two_publishers_of_a_version_the_slower_one_is_told_and_leaves_nothing(tmp_path):
    tables = tmp_path / "small" / "tables.bin"
    tables.parent.mkdir()
    tables.write_bytes(b"rows")

    def publish_the_same_meanwhile(_said):
        """Both have seen that the version is free."""
        publish(tmp_path, manifest(), FILES | {"model.onnx": b"first"})
        return b"signature"

    with pytest.raises(PublishError, match=r"small/1 is published already; .* pass another --version"):
        publish(tmp_path, manifest(), FILES, publish_the_same_meanwhile, (tables,))
    assert (tmp_path / "small" / "1" / "model.onnx").read_bytes() == b"first"
    assert [p.name for p in (tmp_path / "small").iterdir()] == ["1"]


def test_a_signed_bundle_appears_with_its_signature_in_the_same_step(tmp_path):
    key = tmp_path / "key.pem"
    trusted = tmp_path / "trusted.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", trusted], check=True)
    signed = publish(tmp_path, manifest(), FILES, signer(key))
    plain = publish(tmp_path, manifest("2"), FILES)
    assert read_manifest(signed, trusted) == manifest()
    assert {p.name for p in signed.iterdir()} - {p.name for p in plain.iterdir()} == {"manifest.sig"}


def test_versions_count_up_from_the_highest_number(tmp_path):
    assert next_version(tmp_path, "small") == "1"
    for version in ("1", "9", "10", "canary"):
        publish(tmp_path, manifest(version), FILES)
    assert next_version(tmp_path, "small") == "11"


def test_a_full_disk_publishes_nothing(tmp_path):
    """A file-size limit of the process simulates the full disk: the write itself fails half-way."""
    script = (
        "import resource, signal, sys; sys.path[:0] = ['.', 'tests/kit', 'tests/export']; from pathlib import Path\n"
        "from test_publish import FILES, manifest, publish, PublishError\n"
        "m = manifest(); signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: publish(Path(sys.argv[1]), m, FILES | {'model.onnx': b'x' * 100000})\n"
        "except PublishError as e: print('refused:', e)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "nothing was published" in done.stdout
    assert list((tmp_path / "small").iterdir()) == []


def test_what_a_killed_publisher_left_is_removed_by_the_next_one(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from export.publish import staging\n"
        "with staging(Path(sys.argv[1]), 'small') as aside:\n"
        "    (aside / 'model.onnx').touch(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list((tmp_path / "small").iterdir())) == 1
    with staging(tmp_path, "small"):  # of a publisher that goes on
        publish(tmp_path, manifest(), FILES)
        assert len(list((tmp_path / "small").iterdir())) == 2
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["1"]
