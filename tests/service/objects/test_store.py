"""Tests the objects of a registry: conditional writes by many writers, repeated calls, clear errors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_dialects import DIALECTS
from object_store import ObjectStore, empty_bucket
from racing_writers import assert_one_wins

from service.objects.answers import ObjectStoreAway, ReplacedMeanwhile
from service.objects.store import RegistryObjects


@pytest.fixture(params=["memory", *DIALECTS])
def uri(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty store of each kind."""
    if request.param == "memory":
        yield f"memory://{request.node.originalname}"
        return
    with empty_bucket(monkeypatch, request.param) as store:
        yield store.uri


@pytest.fixture
def objects(bucket: ObjectStore) -> RegistryObjects:
    return RegistryObjects(bucket.uri)


def test_of_20_writers_at_once_one_creates_and_one_replaces(uri: str) -> None:
    assert_one_wins(RegistryObjects(uri), "a.json", 10)


def test_an_object_is_read_when_its_etag_has_changed(uri: str) -> None:
    objects = RegistryObjects(uri)
    assert objects.look("a.json").stored is None
    etag = objects.write("a.json", b"1", None)
    assert not objects.look("a.json", etag).changed
    second = objects.write("a.json", b"2", etag)
    stored = objects.look("a.json", etag).stored
    assert stored is not None
    assert (stored.content, stored.etag) == (b"2", second)
    with pytest.raises(ReplacedMeanwhile):
        objects.write("a.json", b"3", etag)
    with pytest.raises(ReplacedMeanwhile):
        objects.write("absent.json", b"3", etag)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_store_without_time_is_asked_again(bucket: ObjectStore, objects: RegistryObjects, status: int) -> None:
    answers = [status, status]
    bucket.fault = lambda _method, _key: answers.pop() if answers else None
    etag = objects.write("a.json", b"1", None)
    assert bucket.count("PUT", "a.json") == 3
    answers += [status, status]
    assert not objects.look("a.json", etag).changed


@pytest.mark.parametrize("status", [429, 503])
def test_a_store_that_never_has_time_is_named(bucket: ObjectStore, objects: RegistryObjects, status: int) -> None:
    bucket.fault = lambda method, _key: status if method == "PUT" else None
    with pytest.raises(ObjectStoreAway, match=rf"^{bucket.uri}/a.json: .*{status}"):
        objects.write("a.json", b"1", None)
    assert bucket.names() == set()
    assert 2 <= bucket.count("PUT", "a.json") <= 5


def test_a_refused_right_is_not_asked_for_again(bucket: ObjectStore, objects: RegistryObjects) -> None:
    bucket.fault = lambda _method, _key: 403
    with pytest.raises(ObjectStoreAway, match=f"^{bucket.uri}/a.json: .*403"):
        objects.look("a.json")
    assert bucket.count("GET", "a.json") == 1


def test_a_write_whose_answer_was_lost_counts_once(bucket: ObjectStore, objects: RegistryObjects) -> None:
    answers = [503]
    bucket.fault = lambda method, _key: answers.pop() if answers and method == "PUT" else None
    bucket.after_writing = True
    etag = objects.write("a.json", b"1", None)
    assert bucket.count("PUT", "a.json", bucket.dialect.exists) == 1
    # The answers of all attempts are lost.
    bucket.fault = lambda method, _key: 503 if method == "PUT" else None
    etag = objects.write("a.json", b"2", etag)
    assert bucket.objects["ranking/a.json"] == b"2"
    # Nor can the store be asked what is there.
    bucket.fault = lambda _method, _key: 503
    with pytest.raises(ObjectStoreAway, match="it is unknown whether the object was written"):
        objects.write("a.json", b"3", etag)


def test_a_large_file_is_brought_in_pieces_and_whole(
    bucket: ObjectStore, objects: RegistryObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.objects.store._PART_BYTES", 5 << 20)
    monkeypatch.setattr("service.objects.store._PIECE_BYTES", 1 << 20)
    content = bytes(range(256)) * (24 << 10) + b"end"  # 6 MiB: two parts
    (tmp_path / "large").write_bytes(content)
    objects.put_file(tmp_path / "large", "0" * 64)
    assert bucket.objects[f"ranking/.files/{'0' * 64}"] == content
    lost = [503, 503]
    bucket.fault = lambda method, _key: lost.pop() if lost and method == "GET" else None
    assert objects.download(objects.file_name("0" * 64), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert bucket.count("GET", f".files/{'0' * 64}", 206) == 7
    assert not objects.download(objects.file_name("1" * 64), tmp_path / "none")
    puts = len(bucket.requests)
    objects.put_file(tmp_path / "large", "0" * 64)
    assert [request[0] for request in bucket.requests[puts:]] == ["HEAD"]


@pytest.mark.parametrize("status", [409, 412])
def test_a_refusal_to_create_what_is_not_there_is_no_other_writer(bucket: ObjectStore, status: int) -> None:
    objects = RegistryObjects(bucket.uri)
    refused = iter([status, status])
    bucket.fault = lambda method, _key: next(refused, None) if method == "PUT" else None
    etag = objects.write("a.json", b"1", None)
    assert objects.look("a.json", etag).changed is False
    # A store that never creates it says so, and names no other writer.
    bucket.fault = lambda method, _key: status if method == "PUT" else None
    with pytest.raises(ObjectStoreAway, match="b.json: the store refuses to create it, and has none"):
        objects.write("b.json", b"1", None)


def test_a_name_that_no_object_can_have_is_refused(objects: RegistryObjects, tmp_path: Path) -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(ObjectStoreAway):
            objects.download(name, tmp_path / "file")


def test_a_file_for_a_bucket_that_does_not_exist_has_an_error_of_one_line(
    bucket: ObjectStore, objects: RegistryObjects
) -> None:
    bucket.fault = lambda _method, _key: 404
    with pytest.raises(ObjectStoreAway) as raised:
        objects.put("a", b"1")
    assert "Debug source" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("status", [304, 404, 409, 412])
def test_an_answer_that_does_not_fit_the_call_is_one_of_a_store_that_is_away(
    bucket: ObjectStore, objects: RegistryObjects, tmp_path: Path, status: int
) -> None:
    objects.write("a.json", b"1", None)
    bucket.fault = lambda _method, _key: status
    calls: list[Callable[[], object]] = [objects.folders, lambda: objects.put("b", b"1")]
    if status != 404:
        calls.append(lambda: objects.size_of("a.json"))
        calls.append(lambda: objects.download("a.json", tmp_path / "file"))
    if status not in (304, 404):
        calls.append(lambda: objects.look("a.json"))
    for call in calls:
        with pytest.raises(ObjectStoreAway, match=str(status)):
            call()
