"""Tests a registry and a log in Azurite, the emulator of Azure Blob Storage that Microsoft gives out (from npm)."""

import base64
import hashlib
import hmac
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from copied_registry import host, published
from node_programs import node, program
from object_dialects import BUCKET
from object_store import empty_bucket
from obstore.exceptions import BaseError
from racing_writers import assert_one_wins
from running_service import wait_until
from synthetic_bundle import go_live

from loop.log.objects import ObjectSource
from service.addresses.log_address import log_address
from service.bundle.loading import load_bundle
from service.bundle.registry import Target
from service.exposures.targets.objects import ObjectTarget, open_store
from service.objects import copies
from service.objects.store import RegistryObjects
from service.rollout.lines.changes import write_rollout
from service.rollout.rollout import read_rollout
from service.sample.embedded_redis import free_port
from service.server.registry.copier import RegistryCopier
from tables import open_table
from tables.files import objects

pytestmark = pytest.mark.tools
AZURITE = "azurite@3.35.0"
# The account of every Azurite, from its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Azurite with an empty container."""
    folder = tmp_path_factory.mktemp("azurite")
    node("npm", "install", AZURITE, "--no-audit", "--no-fund", folder=folder)
    port = free_port()
    script = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([program("node"), script, *options], cwd=folder, stdout=output, stderr=output)
    try:
        wait_until(lambda: b"successfully listens" in log.read_bytes() or process.poll() is not None)
        create_container(port)
        yield f"http://{HOST}:{port}/{ACCOUNT}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def prefix(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """An address in the container that no other test has."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
    copies._opened.cache_clear()
    objects._store.cache_clear()
    yield f"az://{BUCKET}/{request.node.originalname}"
    copies._opened.cache_clear()
    objects._store.cache_clear()


def create_container(port: int) -> None:
    """Create the container; the client library cannot. Signed as the documentation of Azure's shared key says."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/{BUCKET}", "restype:container"]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    answer = httpx.put(f"http://{HOST}:{port}/{ACCOUNT}/{BUCKET}?restype=container", headers=headers)
    assert answer.status_code == 201, answer.text


def answers(uri: str) -> list[str]:
    """What a store answers to writes and reads with conditions that hold, and that do not."""
    store = open_store(log_address(uri))
    tags: list[str] = []

    def put(name: str, mode: Any) -> None:
        tags.append(obstore.put(store, name, b"1", mode=mode)["e_tag"] or "")

    calls: list[Callable[[], object]] = [
        lambda: put("a", "create"),
        lambda: put("a", "create"),
        lambda: put("a", {"e_tag": tags[0]}),
        lambda: put("a", {"e_tag": tags[0]}),
        lambda: put("absent", {"e_tag": tags[0]}),
        lambda: obstore.get(store, "a", options={"if_none_match": tags[1]}),
        lambda: obstore.get(store, "a", options={"if_none_match": tags[0]}),
        lambda: obstore.head(store, "absent"),
    ]
    return [_outcome(call) for call in calls]


def _outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except (BaseError, FileNotFoundError) as error:
        return type(error).__name__
    return "done"


def test_the_small_store_of_the_other_tests_answers_as_azurite_does(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(prefix)
    assert expected.count("done") == 3
    with empty_bucket(monkeypatch, "az") as bucket:
        assert answers(bucket.uri) == expected


def test_of_20_writers_at_once_one_creates_and_one_replaces(prefix: str) -> None:
    assert_one_wins(RegistryObjects(prefix), "a.json", 10)


def test_what_one_host_publishes_and_changes_another_one_follows(prefix: str, tmp_path: Path) -> None:
    writer = host(tmp_path, "writer", prefix)
    reader = host(tmp_path, "reader", prefix)
    published(writer, "1")
    go_live(writer, "1")
    copier = RegistryCopier(reader, 1 << 30)
    assert copier.start() == ""
    assert load_bundle(reader / "synthetic" / "1", 1, 100).label == "synthetic/1"
    assert write_rollout(reader, Target(name="synthetic", version="1"), "ann").revision == 2
    assert write_rollout(writer, Target(name="synthetic", version="1"), "bob").revision == 3
    assert copier.step() == ""
    assert read_rollout(reader).revision == 3
    assert RegistryObjects(prefix).folders() == [".files", "synthetic"]


def test_a_large_file_and_a_table_are_read_as_they_were_written(prefix: str, tmp_path: Path) -> None:
    content = b"user_id,age\n" + b"".join(b"u%d,%d\n" % (row, row % 90) for row in range(2_000_000))
    assert len(content) > 16 << 20  # sent in three parts
    (tmp_path / "users.csv").write_bytes(content)
    store = RegistryObjects(prefix)
    store.put("users.csv", tmp_path / "users.csv")
    assert store.download("users.csv", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    table = open_table(f"{prefix}/users.csv", "users")
    assert sum(len(batch) for batch in table.batches(["user_id"])) == 2_000_000


def test_files_of_a_log_are_taken_and_removed(prefix: str, tmp_path: Path) -> None:
    names = [f"events-{1_700_000_000_000 + place}-0123456789ab.arrows" for place in range(3)]
    target = ObjectTarget(open_store(log_address(prefix)))
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        target.send(tmp_path / name)
    (tmp_path / "spool").mkdir()
    source = ObjectSource(log_address(prefix))
    assert source.take(tmp_path) == names
    assert [(tmp_path / "spool" / name).read_bytes() for name in names] == [name.encode() for name in names]
    source.remove(names)
    assert ObjectSource(log_address(prefix)).take(tmp_path) == []
