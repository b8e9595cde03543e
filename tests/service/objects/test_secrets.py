"""Tests that no error of an object store shows a secret that the store's answer repeats."""

from collections.abc import Callable
from pathlib import Path

import pytest
from object_store import ObjectStore

from loop.errors import LogError
from loop.log.objects import ObjectSource
from service.addresses.log_address import log_address
from service.exposures.targets.objects import ObjectTarget, open_store
from service.exposures.targets.target import LogTargetError
from service.objects.store import RegistryObjects
from tables.files import objects

SECRET = "FwoGZXIvYXdzEXAMPLE"
# As S3 answers with a session that has ended.
BODY = f"<Error><Code>ExpiredToken</Code><Message>expired</Message><Token-0>{SECRET}</Token-0></Error>".encode()


def send(uri: str, folder: Path) -> None:
    file = folder / "file"
    file.write_bytes(b"1")
    ObjectTarget(open_store(log_address(uri))).send(file)


def list_tables(uri: str, _: Path) -> None:
    objects._store.cache_clear()  # each test has a store at another port
    objects.list_objects(uri)


CALLS: dict[str, Callable[[str, Path], object]] = {
    "read": lambda uri, _: RegistryObjects(uri).look("a.json"),
    "write": lambda uri, _: RegistryObjects(uri).write("a.json", b"1", None),
    "put": lambda uri, _: RegistryObjects(uri).put("a.json", b"1"),
    "list": lambda uri, _: RegistryObjects(uri).folders(),
    "tables": list_tables,
    "log": lambda uri, folder: ObjectSource(log_address(uri)).take(folder),
    "shipping": send,
}


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("call", CALLS)
def test_an_error_names_the_code_of_an_answer_and_none_of_its_secrets(
    bucket: ObjectStore, tmp_path: Path, call: str, status: int
) -> None:
    bucket.fault = lambda _method, _key: status
    bucket.fault_body = BODY
    with pytest.raises((OSError, LogError, LogTargetError)) as raised:
        CALLS[call](bucket.uri, tmp_path)
    assert f"{status}" in str(raised.value)
    assert "(ExpiredToken)" in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("bucket", ["az"], indirect=True)
def test_a_signature_in_an_address_is_not_shown(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2022-11-02&sig={SECRET}")
    bucket.fault = lambda _method, _key: 403
    bucket.fault_body = BODY
    with pytest.raises(OSError, match="403") as raised:
        RegistryObjects(bucket.uri).look("a.json")
    assert SECRET not in str(raised.value)
