"""Tests that every fault of a bundle is a refusal with a code, whatever error a library raises for it."""

import hashlib
import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.loading import load_bundle
from service.bundle.verify import BundleRejected

Arrays = dict[str, np.ndarray]


def rehash(folder: Path) -> None:
    """Write the present hashes of the files into the manifest, so that the check of hashes passes and the fault is
    reached.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_golden(folder: Path, change: Callable[[Arrays], Arrays]) -> None:
    with np.load(folder / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(folder / "golden.npz", **change(arrays))
    rehash(folder)


def patch_golden(folder: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray((folder / "golden.npz").read_bytes())
    change(content)
    (folder / "golden.npz").write_bytes(bytes(content))
    rehash(folder)


def in_every_header(content: bytearray, central: int, local: int, value: int) -> None:
    """Set a byte in every entry's header of a ZIP file, in the central directory and before the data."""
    for signature, offset in ((b"PK\x01\x02", central), (b"PK\x03\x04", local)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] = value
            place = content.find(signature, place + 4)


def replace_entry(folder: Path, name: str, data: bytes) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(folder / "golden.npz") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, data if entry == name else old.read(entry))
    (folder / "golden.npz").write_bytes(packed.getvalue())
    rehash(folder)


def npy_file(shape: str, payload: bytes = b"") -> bytes:
    header = (f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}").ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + payload


def with_outputs(values: Callable[[], np.ndarray]) -> Callable[[Path], None]:
    def change(arrays: Arrays) -> Arrays:
        return arrays | {name: values() for name in arrays if name.startswith("outputs/")}

    return lambda folder: change_golden(folder, change)


def without_candidates(arrays: Arrays) -> Arrays:
    return {n: a[:0] if n.startswith(("outputs/", "inputs/item")) else a for n, a in arrays.items()}


GOLDEN = {
    "outputs of text": with_outputs(lambda: np.array(["x"] * 64)),
    "outputs of records": with_outputs(lambda: np.zeros(64, dtype=[("a", "f4")])),
    "complex outputs": with_outputs(lambda: np.zeros(64, dtype=complex)),
    "objects": with_outputs(lambda: np.array([{}] * 64, dtype=object)),
    "no candidate": lambda folder: change_golden(folder, without_candidates),
    "encrypted": lambda folder: patch_golden(folder, lambda c: in_every_header(c, 8, 6, 1)),
    "unknown compression": lambda folder: patch_golden(folder, lambda c: in_every_header(c, 10, 8, 97)),
    "64 TiB array": lambda folder: replace_entry(folder, "outputs/pctr.npy", npy_file("(1099511627776, 16)")),
    "negative shape": lambda folder: replace_entry(folder, "outputs/pctr.npy", npy_file("(-1,)")),
    "nested shape": lambda folder: replace_entry(folder, "outputs/pctr.npy", npy_file("(" * 90 + ")" * 90)),
    "broken header": lambda folder: replace_entry(folder, "outputs/pctr.npy", npy_file("(64,")),
    "an entry that is no array": lambda folder: replace_entry(folder, "outputs/pctr.npy", b"\x00" * 50),
}


@pytest.mark.parametrize("fault", GOLDEN)
def test_a_faulty_golden_request_is_a_refusal(tmp_path: Path, kit: SimpleNamespace, fault: str) -> None:
    folder = kit.publish(tmp_path, "1")
    GOLDEN[fault](folder)
    with pytest.raises(BundleRejected) as refusal:
        load_bundle(folder, threads=1, largest=50)
    assert refusal.value.code == "golden_unreadable"


def test_a_golden_request_is_not_unpacked_beyond_what_the_manifest_can_mean(
    tmp_path: Path, kit: SimpleNamespace
) -> None:
    folder = kit.publish(tmp_path, "1")
    replace_entry(folder, "outputs/pctr.npy", npy_file("(100000000,)", b"\0" * 400_000_000))
    assert (folder / "golden.npz").stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(BundleRejected, match="400000128 bytes"):
            load_bundle(folder, threads=1, largest=50)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000, "bytes at most"
    finally:
        tracemalloc.stop()


def add_file(name: str, make: Callable[[Path], object] = lambda _path: None) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if "\0" not in name and len(name) < 250:
            make(folder / name)
        edit_manifest(folder, lambda m: m["files"].update({name: "0" * 64}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (add_file("a\0b"), "manifest_invalid"),
        (add_file("../1/model.onnx"), "manifest_invalid"),
        (add_file("n" * 300), "bundle_incomplete"),
        (add_file("folder", lambda path: path.mkdir()), "bundle_incomplete"),
        (add_file("pipe", os.mkfifo), "bundle_incomplete"),
        (add_file("zeros", lambda path: path.symlink_to("/dev/zero")), "bundle_incomplete"),
    ],
)
def test_a_file_that_is_no_regular_file_is_a_refusal(
    tmp_path: Path, kit: SimpleNamespace, spoil: Callable[[Path], None], code: str
) -> None:
    folder = kit.publish(tmp_path, "1")
    spoil(folder)
    with pytest.raises(BundleRejected) as refusal:
        load_bundle(folder, threads=1, largest=50)
    assert refusal.value.code == code


def pipe_instead(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (pipe_instead, "bundle_unreadable"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"[" * 1_000_000), "manifest_invalid"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe{}"), "manifest_invalid"),
        (lambda folder: edit_manifest(folder, lambda m: m.update(tasks=[])), "manifest_invalid"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_a_refusal(
    tmp_path: Path, kit: SimpleNamespace, spoil: Callable[[Path], object], code: str
) -> None:
    folder = kit.publish(tmp_path, "1")
    spoil(folder)
    with pytest.raises(BundleRejected) as refusal:
        load_bundle(folder, threads=1, largest=50)
    assert refusal.value.code == code


def test_what_nobody_expects_is_a_refusal_too(
    tmp_path: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("service.bundle.loading.check_graph", broken)
    with pytest.raises(BundleRejected, match="bundle_unusable: MemoryError: no room"):
        load_bundle(kit.publish(tmp_path, "1"), threads=1, largest=50)


def endless(folder: Path) -> None:
    """Insert a loop of 9e12 rounds between the graph and its output `pctr`."""
    model = onnx.load(folder / "model.onnx")
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["C"])
    outputs = [
        helper.make_tensor_value_info("co", TensorProto.BOOL, []),
        helper.make_tensor_value_info("xo", TensorProto.FLOAT, ["C"]),
    ]
    nodes = [helper.make_node("Identity", ["c"], ["co"]), helper.make_node("Identity", ["x"], ["xo"])]
    round_number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(nodes, "body", [round_number, condition, value], outputs)
    node = next(n for n in model.graph.node if n.output[0] == "pctr")
    node.output[0] = "before_the_loop"
    model.graph.initializer.append(numpy_helper.from_array(np.array(9 * 10**12, dtype=np.int64), "rounds"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    place = list(model.graph.node).index(node) + 1
    loop = helper.make_node("Loop", ["rounds", "yes", "before_the_loop"], ["pctr"], body=body)
    model.graph.node.insert(place, loop)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    rehash(folder)


def test_a_graph_without_an_end_is_stopped_and_refused(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.publish(tmp_path, "1")
    endless(folder)
    with pytest.raises(BundleRejected, match="load_timeout: it was not loaded within 0.5 s"):
        load_bundle(folder, threads=1, largest=50, seconds=0.5)
