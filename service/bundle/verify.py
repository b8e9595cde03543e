"""Checks a bundle before it may serve: manifest, signature, hashes, the graph's inputs and outputs.

Every failure is a BundleRejected.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from features.layouts import FREE_AXES, Layouts, graph_inputs
from features.nearest import nearest
from service.addresses.registry_address import shown
from service.bundle.fetching import NOT_FETCHED, fetch, fetch_signature
from service.bundle.hashes import HashRecords
from service.bundle.manifest import MANIFEST_FILE, TABLES_FILE, Manifest, narrowed_inputs
from service.bundle.signature import UntrustedBundle, check_signature
from service.errors import first_fault
from service.files import open_regular, read_regular

LOAD_TIMEOUT = "load_timeout"
_MOST_MANIFEST_BYTES = 16 << 20
_HASHED_AT_ONCE = 1 << 20
_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32"}


class BundleRejected(Exception):  # noqa: N818 - a state, not a mistake
    """A bundle that must not serve. `code` is meant for counters and programs, `detail` for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def read_manifest(folder: Path, trusted_keys: Path | None = None) -> Manifest:
    """Read the manifest in a bundle's folder. The folder must have the manifest's name and version.

    A version in an object store is fetched first; code `bundle_not_fetched` if the store is away.
    With `trusted_keys`, its signature is checked before it is parsed.
    """
    path = folder / MANIFEST_FILE
    try:
        fetch(folder)
    except OSError as error:
        raise BundleRejected(NOT_FETCHED, f"{shown(folder)}: {error.strerror}") from None
    try:
        content = read_regular(path, _MOST_MANIFEST_BYTES)
        if trusted_keys is not None:
            _check_signature(folder, content, trusted_keys)
        manifest = Manifest.model_validate_json(content)
    except UntrustedBundle as error:
        raise BundleRejected(error.code, error.detail) from None
    except FileNotFoundError:
        raise BundleRejected("bundle_missing", f"{shown(path)} does not exist{_published_beside(folder)}") from None
    except OSError as error:
        raise BundleRejected("bundle_unreadable", f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise BundleRejected("manifest_invalid", f"{path}: {first_fault(error, Manifest)}") from None
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BundleRejected(
            "manifest_invalid",
            f"{path} says {manifest.name}/{manifest.version}, its folder {folder.parent.name}/{folder.name}",
        )
    return manifest


def _check_signature(folder: Path, manifest: bytes, trusted_keys: Path) -> None:
    try:
        check_signature(folder, manifest, trusted_keys)
    except UntrustedBundle:
        # A version may be signed, or signed with another key, after it was fetched.
        if not fetch_signature(folder):
            raise
        check_signature(folder, manifest, trusted_keys)


def _published_beside(folder: Path) -> str:
    """Return the end of a message about a bundle that is not published: the nearest version or model."""
    absent = folder if folder.parent.is_dir() else folder.parent
    try:
        published = sorted(path.name for path in absent.parent.iterdir() if path.is_dir())
    except OSError:
        return ""
    return nearest(absent.name, published, "published:")


def verified_files(
    folder: Path, manifest: Manifest, keep: Collection[str] = (), hashes: HashRecords | None = None
) -> dict[str, bytes]:
    """Hash every file of the bundle, and return the content of those in `keep`, for the loader.

    With `hashes`, the file of the large tensors is hashed once per host. Raises BundleRejected if a file is missing, is
    not a regular file, or does not have the SHA-256 of the manifest.
    """
    contents = {}
    for name, expected in manifest.files.items():
        if Path(name).name != name or name in (".", "..") or "\0" in name:
            raise BundleRejected("manifest_invalid", f"files: {name!r} is not a plain file name")
        path = folder / name
        with opened(path) as file:
            if name == TABLES_FILE:
                check_hash(path, file.fileno(), expected, hashes or HashRecords())
                continue
            content = _checked(path, file, expected, name in keep)
        if name in keep:
            contents[name] = content
    return contents


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of a bundle. Raises BundleRejected, also for an OSError of the caller's block."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            yield file
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleRejected("bundle_incomplete", f"{path!s}: {reason}") from None


def check_hash(path: Path, descriptor: int, expected: str, hashes: HashRecords) -> None:
    """Compare the SHA-256 of a large file, read at most once per host. Raises BundleRejected and OSError."""
    _compare(path, hashes.sha256_of(descriptor), expected)


def _compare(path: Path, digest: str, expected: str) -> None:
    if digest != expected:
        raise BundleRejected("hash_mismatch", f"{path} has SHA-256 {digest}, the manifest says {expected}")


def _checked(path: Path, file: BinaryIO, expected: str, keep: bool) -> bytes:
    """Compare the SHA-256 of a file, and return its content if asked for. Raises BundleRejected and OSError."""
    digest = sha256()
    parts = []
    while part := file.read(_HASHED_AT_ONCE):
        digest.update(part)
        if keep:
            parts.append(part)
    _compare(path, digest.hexdigest(), expected)
    return b"".join(parts)


def check_graph(session: Any, manifest: Manifest, layouts: Layouts) -> None:
    """Compare the graph's inputs and outputs with the manifest, and the manifest's inputs with the widths of its
    schema.
    """
    # Compare the manifest's inputs with its own schema.
    allowed = graph_inputs(layouts)
    narrowed = narrowed_inputs(manifest.inputs, layouts)
    stated = {i.name: (i.dtype, tuple(i.shape)) for i in manifest.inputs}
    for name, described in stated.items():
        if name not in allowed:
            problem = f"the manifest's input {name!r} is not an input of this schema{nearest(name, allowed)}"
            raise BundleRejected("inputs_mismatch", problem)
        dtype, shape = allowed[name]
        if name in narrowed:
            shape = (shape[0], narrowed[name])
        if described != (dtype, shape):
            raise BundleRejected(
                "inputs_mismatch", f"the manifest's input {name!r} is {described}, the schema makes it {allowed[name]}"
            )

    # Compare the graph's inputs with the manifest.
    graph = {i.name: i for i in session.get_inputs()}
    if set(graph) != set(stated):
        raise BundleRejected(
            "inputs_mismatch", f"the graph wants {sorted(graph)}, the manifest states {sorted(stated)}"
        )
    for name, (dtype, shape) in stated.items():
        _check_tensor(name, graph[name], dtype, shape)

    # Check the graph's outputs: one score per candidate and task, and the vectors.
    outputs = {o.name: o for o in session.get_outputs()}
    if set(outputs) != set(manifest.output_names):
        raise BundleRejected(
            "outputs_mismatch",
            f"the graph gives {sorted(outputs)}, the manifest states {sorted(manifest.output_names)}",
        )
    for spec in manifest.outputs:
        output = outputs.pop(spec.name)
        if not _fits(output, "float32", spec.shape):
            raise BundleRejected(
                "outputs_mismatch",
                f"output {spec.name!r} is {output.type} {output.shape}, the manifest says float32 {list(spec.shape)}",
            )
    for name, output in outputs.items():
        if _DTYPES.get(output.type) != "float32" or len(output.shape) != 1:
            raise BundleRejected(
                "outputs_mismatch", f"output {name!r} is {output.type} {output.shape}, a task score is float32 [C]"
            )


def _check_tensor(name: str, tensor: Any, dtype: str, shape: tuple[int | str, ...]) -> None:
    if not _fits(tensor, dtype, shape):
        raise BundleRejected(
            "inputs_mismatch",
            f"the graph wants {name!r} as {tensor.type} {tensor.shape}, the manifest says {dtype} {list(shape)}",
        )


def _fits(tensor: Any, dtype: str, shape: tuple[int | str, ...]) -> bool:
    """Whether an input or output of the graph has this type and these axes."""
    if _DTYPES.get(tensor.type) != dtype or len(tensor.shape) != len(shape):
        return False
    return all(
        isinstance(actual, str) or actual is None if declared in FREE_AXES else actual == declared
        for actual, declared in zip(tensor.shape, shape, strict=True)
    )
