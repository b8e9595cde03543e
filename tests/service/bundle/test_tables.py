"""Tests the tables beside a graph: what was verified is what scores, it is hashed once, and processes share it."""

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from child_process import child
from large_tables import table_of, with_tables

from export.declare import declare
from features import FeatureSchema
from features.layouts import Layouts
from service.bundle import hashes, loading
from service.bundle.hashes import HashRecords
from service.bundle.loading import load_bundle
from service.bundle.verify import BundleRejected
from service.files import exclusive_lock

TABLE = "tables.bin"


@pytest.fixture
def folder(tmp_path: Path, kit: SimpleNamespace) -> Path:
    return with_tables(kit.publish(tmp_path, "1"))


def assert_scores(bundle: loading.Bundle, kit: SimpleNamespace) -> None:
    """The scores are those of the table of ones."""
    inputs = kit.golden_inputs(Layouts.of(FeatureSchema.model_validate(kit.SCHEMA)), candidates=30)
    expected = kit.scores_by_hand(inputs)
    for task, scores in zip(bundle.tasks, bundle.score(inputs), strict=True):
        np.testing.assert_allclose(scores, expected[task], atol=1e-5)


def write_over(path: Path, content: bytes, place: int = 0) -> None:
    """Write into an existing file, and set its time of modification back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_table_beside_the_graph_scores(folder: Path, kit: SimpleNamespace) -> None:
    bundle = load_bundle(folder, 1, 50)
    assert bundle.tables is not None and not bundle.tables.touched
    assert_scores(bundle, kit)


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (lambda path: path.unlink(), "bundle_incomplete", "No such file"),
    "shortened": (lambda path: os.truncate(path, 4096), "hash_mismatch", "the manifest says"),
    "empty": (lambda path: os.truncate(path, 0), "hash_mismatch", "the manifest says"),
    "longer": (lambda path: write_over(path, b"x", path.stat().st_size), "hash_mismatch", "the manifest says"),
    "changed": (lambda path: write_over(path, b"\1", 5000), "hash_mismatch", "the manifest says"),
    "swapped": (lambda path: path.write_bytes(table_of(0.5, 1000).tobytes()), "hash_mismatch", "the manifest says"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "bundle_incomplete", "not a regular file"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "bundle_incomplete", "not a regular file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_a_refusal_that_names_it(folder: Path, fault: str) -> None:
    spoil, code, words = FAULTS[fault]
    spoil(folder / TABLE)
    with pytest.raises(BundleRejected) as refusal:
        load_bundle(folder, 1, 50)
    assert refusal.value.code == code
    assert TABLE in refusal.value.detail and words in refusal.value.detail


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda m: m.update(format=1), "manifest_invalid", "format 2 has tensors beside the graph"),
        (lambda m: m.pop("external"), "manifest_invalid", "format 2 has tensors beside the graph"),
        (lambda m: m["files"].pop(TABLE), "manifest_invalid", "no SHA-256 for tables.bin"),
        (lambda m: m["external"].append(m["external"][0]), "manifest_invalid", "a name occurs twice"),
        (lambda m: m["external"][0].update(offset=63), "manifest_invalid", "multiple of 64"),
        (lambda m: m["external"][0].update(offset=64), "bundle_incomplete", "tensor 'table' of the manifest ends at"),
        (lambda m: m["external"][0].update(dtype="int64"), "bundle_incomplete", "of the manifest ends at 256000"),
        (lambda m: m["external"][0].update(name="other"), "graph_unreadable", "model.onnx"),
        (lambda m: m.update(format=3), "manifest_invalid", "format"),
    ],
)
def test_a_manifest_that_does_not_fit_the_file_is_a_refusal(
    folder: Path, change: Callable[[dict[str, Any]], object], code: str, words: str
) -> None:
    edited(folder, change)
    with pytest.raises(BundleRejected) as refusal:
        load_bundle(folder, 1, 50)
    assert refusal.value.code == code
    assert words in refusal.value.detail


def before_the_session(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something between the verification of the files and the opening of the session."""
    opened = loading.open_session

    def open_later(*arguments: Any) -> Any:
        act()
        return opened(*arguments)

    monkeypatch.setattr("service.bundle.loading.open_session", open_later)


def test_a_file_exchanged_after_its_verification_is_not_read(
    folder: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder / "other.bin"
    other.write_bytes(table_of(0.5, 1000).tobytes())
    before_the_session(monkeypatch, lambda: other.rename(folder / TABLE))
    bundle = load_bundle(folder, 1, 50)
    assert_scores(bundle, kit)
    # The next load sees the other file.
    monkeypatch.undo()
    with pytest.raises(BundleRejected, match="hash_mismatch"):
        load_bundle(folder, 1, 50)


@pytest.mark.parametrize("place", [0, 100_000])
def test_a_file_written_to_after_its_verification_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    before_the_session(monkeypatch, lambda: write_over(folder / TABLE, np.float32(1.5).tobytes(), place))
    with pytest.raises(BundleRejected, match=r"tables_changed: .*tables.bin was changed after it was verified"):
        load_bundle(folder, 1, 50)


def test_the_same_bytes_written_again_are_no_change(
    folder: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_session(monkeypatch, lambda: write_over(folder / TABLE, np.float32(1).tobytes()))
    assert_scores(load_bundle(folder, 1, 50), kit)


class Count:
    """Counts the files that are read to be hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = 0
        hashed = hashes._hashed

        def counted(*arguments: Any) -> str:
            self.files += 1
            return hashed(*arguments)

        monkeypatch.setattr("service.bundle.hashes._hashed", counted)


def test_a_host_hashes_a_table_once_and_again_after_a_write(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Count(monkeypatch)
    runtime = tmp_path / "runtime"
    for _worker in range(3):
        load_bundle(folder, 1, 50, hashes=HashRecords(runtime))
    assert count.files == 1
    content = (folder / TABLE).read_bytes()
    write_over(folder / TABLE, content)  # the same bytes at the same time of modification
    load_bundle(folder, 1, 50, hashes=HashRecords(runtime))
    assert count.files == 2
    write_over(folder / TABLE, b"\1")
    with pytest.raises(BundleRejected, match="hash_mismatch"):
        load_bundle(folder, 1, 50, hashes=HashRecords(runtime))


def test_a_process_without_a_folder_hashes_once_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Count(monkeypatch)
    records = HashRecords()
    for _load in range(2):
        load_bundle(folder, 1, 50, hashes=records)
    assert count.files == 1


def spoiled_record(runtime: Path) -> None:
    (record,) = runtime.glob("hash-*.sha256")
    record.write_bytes(b"\xff cut")


def a_file_in_its_place(runtime: Path) -> None:
    shutil.rmtree(runtime)
    runtime.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoiled_record, a_file_in_its_place, shutil.rmtree])
def test_a_runtime_folder_that_is_spoiled_costs_no_bundle(
    folder: Path, kit: SimpleNamespace, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    runtime = tmp_path / "runtime"
    load_bundle(folder, 1, 50, hashes=HashRecords(runtime))
    spoil(runtime)
    assert_scores(load_bundle(folder, 1, 50, hashes=HashRecords(runtime)), kit)
    write_over(folder / TABLE, b"\1")
    with pytest.raises(BundleRejected, match="hash_mismatch"):
        load_bundle(folder, 1, 50, hashes=HashRecords(runtime))


def test_a_full_runtime_folder_and_a_stopped_worker_cost_no_bundle(
    folder: Path, kit: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setattr("service.bundle.hashes._TURN_SECONDS", 0.05)

    def full(path: Path, *_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    # Another worker was stopped while it hashed, and the disk has no room for a record.
    with exclusive_lock(runtime / "hashes.lock", 1.0), monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert_scores(load_bundle(folder, 1, 50, hashes=HashRecords(runtime)), kit)
    assert [path.name for path in runtime.iterdir()] == ["hashes.lock"]


def test_a_bundle_is_loaded_without_a_temporary_folder(
    folder: Path, kit: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert_scores(load_bundle(folder, 1, 50), kit)


@pytest.mark.parametrize(("changes", "reads"), [(1, 2), (9, 5)])
def test_another_name_during_a_read_is_no_change_unless_it_never_ends(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int, reads: int
) -> None:
    """As `declare` and backups give it, while a service verifies the file that it serves."""
    hashed = hashes._hashed
    names: list[Path] = []

    def renamed_meanwhile(*arguments: Any) -> str:
        digest = hashed(*arguments)
        names.append(tmp_path / f"backup-{len(names)}")
        if len(names) <= changes:
            os.link(folder / TABLE, names[-1])
        return digest

    bundle = load_bundle(folder, 1, 50)
    assert bundle.tables is not None
    os.link(folder / TABLE, tmp_path / "first")
    monkeypatch.setattr("service.bundle.hashes._hashed", renamed_meanwhile)
    if changes < reads:
        records = HashRecords()
        bundle.tables.verify_again(records)
        bundle.tables.verify_again(records)
        assert not bundle.tables.touched
    else:
        with pytest.raises(BundleRejected, match="was changed after it was verified"):
            bundle.tables.verify_again(HashRecords())
    assert len(names) == reads


def test_a_write_during_a_read_is_a_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = hashes._hashed

    def written_meanwhile(*arguments: Any) -> str:
        digest = hashed(*arguments)
        with (folder / TABLE).open("r+b") as file:
            file.write(b"\1")
        return digest

    monkeypatch.setattr("service.bundle.hashes._hashed", written_meanwhile)
    with pytest.raises(BundleRejected, match="it was changed while it was read"):
        load_bundle(folder, 1, 50)


def mapped_here() -> bool:
    """Whether this process has a mapping of a table."""
    return any(line.endswith(TABLE) for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_mapping_is_given_up_in_pieces_after_the_last_reference(
    folder: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up: list[tuple[int, int]] = []

    class Mapping(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            given_up.append((start, length))
            super().madvise(option, start, length)

    monkeypatch.setattr("service.bundle.tables.mmap.mmap", Mapping)
    monkeypatch.setattr("service.bundle.tables._UNMAPPED_AT_ONCE", 4 * mmap.PAGESIZE)
    bundle = load_bundle(folder, 1, 50)
    assert_scores(bundle, kit)
    assert mapped_here() and not given_up
    del bundle
    kit.wait_until(lambda: not mapped_here())
    size = (folder / TABLE).stat().st_size
    assert sum(length for _start, length in given_up) == size
    assert max(length for _start, length in given_up) == 4 * mmap.PAGESIZE
    assert [start for start, _length in given_up] == list(range(0, size, 4 * mmap.PAGESIZE))


WORKER = """
import sys
from pathlib import Path
from service.bundle.loading import load_bundle
bundle = load_bundle(Path(sys.argv[1]), 1, 10)
print("loaded", flush=True)
sys.stdin.read()
"""


def memory_of_table(pid: int) -> dict[str, int]:
    """Resident, proportional and anonymous KiB of the mapped table of a process."""
    sizes: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = line.endswith(TABLE)
        elif inside and name in ("Rss:", "Pss:", "Anonymous:"):
            sizes[name[:-1]] = sizes.get(name[:-1], 0) + int(rest[0])
    return sizes


def test_the_workers_of_a_host_share_the_table(tmp_path: Path, kit: SimpleNamespace) -> None:
    rows = 200_000
    folder = with_tables(kit.publish(tmp_path, "1"), rows=rows)
    table_kib = rows * 32 * 4 // 1024
    command = [sys.executable, "-c", WORKER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with child(command, **pipes) as first, child(command, **pipes) as second:
        workers = (first, second)
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == b"loaded\n"
        for worker in workers:
            memory = memory_of_table(worker.pid)
            assert memory["Rss"] >= table_kib
            assert memory["Pss"] <= 0.55 * table_kib, "each of two processes accounts for half"
            assert memory["Anonymous"] == 0, "nothing of it was copied"


def test_a_version_declared_again_has_the_same_table(folder: Path, kit: SimpleNamespace, tmp_path: Path) -> None:
    """`funnelrank declare` publishes the same graph with features for rules alone."""
    features = tmp_path / "features.yaml"
    features.write_text("item:\n  - {name: shelf, type: categorical}\n")
    declared = declare(folder, features, folder.parents[1], "2")
    bundle = load_bundle(folder.parent / "2", 1, 50)
    assert declared.external == bundle.manifest.external
    inputs = kit.golden_inputs(Layouts.of(FeatureSchema.model_validate(kit.SCHEMA)), candidates=30)
    assert np.array_equal(bundle.score(bundle.graph_inputs(inputs)), load_bundle(folder, 1, 50).score(inputs))
