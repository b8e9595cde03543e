"""Tests the copy of a registry on a host: what is live comes with its versions, and stays while the store is away."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from copied_registry import host, published
from object_store import PREFIX, ObjectStore
from synthetic_bundle import go_live

from service.addresses.registry_address import registry_folder
from service.bundle.fetching import fetch
from service.bundle.registry import Target
from service.bundle.verify import BundleRejected, read_manifest
from service.callers.document import CALLERS_FILE, CallerRole, add_caller, read_followed_callers, revoke
from service.documents import Edit
from service.documents.storage import last_good
from service.errors import Conflict
from service.fusion import FusionError, FusionProfiles
from service.fusion.document import DOCUMENT as FUSION
from service.fusion.document import FUSION_FILE
from service.objects.answers import ObjectStoreAway
from service.objects.copies import DOCUMENT_FILES, copy_problem
from service.rollout.lines.changes import write_rollout
from service.rollout.rollout import ROLLOUT_FILE, read_followed, read_rollout
from service.rollout.trials.checks import RegistryChecks, roll_out
from service.rules.definition.document import RULES_FILE
from service.server.registry.copier import RegistryCopier

ROOM = 1 << 30


@pytest.fixture
def writer(bucket: ObjectStore, tmp_path: Path) -> Path:
    """The copy of the host that publishes."""
    return host(tmp_path, "writer", bucket.uri)


@pytest.fixture
def reader(bucket: ObjectStore, tmp_path: Path) -> Path:
    """The copy of the host that serves."""
    return host(tmp_path, "reader", bucket.uri)


def live(registry: Path) -> str:
    return str(read_rollout(registry).stable)


def versions_in(registry: Path) -> set[str]:
    return {path.name for path in registry.glob("synthetic/[!.]*")}


def test_the_documents_have_the_names_that_are_polled() -> None:
    assert set(DOCUMENT_FILES) == {CALLERS_FILE, FUSION_FILE, RULES_FILE, ROLLOUT_FILE}


def test_what_goes_live_is_there_before_the_document_names_it(writer: Path, reader: Path, bucket: ObjectStore) -> None:
    published(writer, "1")
    published(writer, "2")
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    assert copier.start() == ""
    assert (live(reader), versions_in(reader)) == ("synthetic/1", {"1"})
    # The files of the next version do not come yet.
    go_live(writer, "2")
    bucket.fault = lambda _method, key: 503 if key.startswith(".files") else None
    copier.step()
    assert copier._fetching is not None
    copier._fetching.join()
    assert "503" in copier.step()
    assert (live(reader), versions_in(reader)) == ("synthetic/1", {"1"})
    assert "503" in (copy_problem(reader) or "")
    # They come.
    bucket.fault = lambda _method, _key: None
    copier._fetching.join()
    copier.step()
    while copier._fetching is not None:
        copier._fetching.join()
        copier.step()
    assert copier.step() == ""
    assert (live(reader), versions_in(reader)) == ("synthetic/2", {"1", "2"})
    assert copy_problem(reader) == ""


def test_a_version_that_was_published_again_is_fetched_again_before_it_goes_live(
    writer: Path, reader: Path, bucket: ObjectStore, tmp_path: Path
) -> None:
    published(writer, "1")
    published(writer, "2")
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    assert copier.start() == ""
    before = {version: read_manifest(reader / "synthetic" / version) for version in "12"}
    # Both are published again from another host, and the second one goes live there.
    for key in [key for key in bucket.objects if key.startswith(f"{PREFIX}synthetic/")]:
        del bucket.objects[key]
    other = host(tmp_path, "other", bucket.uri)
    for version in "12":
        published(other, version, bias=1.0)
    assert change(other, copier, "2") == ""
    assert live(reader) == "synthetic/2"
    assert read_manifest(reader / "synthetic" / "2") == read_manifest(other / "synthetic" / "2") != before["2"]
    # What serves stays as long as it does, so that all workers have the same.
    assert read_manifest(reader / "synthetic" / "1") == before["1"]


def change(registry: Path, copier: RegistryCopier, version: str) -> str:
    """Make a version live on one host, and follow on another one; return the problem of that."""
    roll_out(RegistryChecks(registry, None, None, 12), {"stable": Target(name="synthetic", version=version)}, Edit("a"))
    problem = copier.step()
    while copier._fetching is not None:
        copier._fetching.join()
        problem = copier.step()
    return problem


def test_an_unchanged_registry_costs_four_conditional_requests(writer: Path, reader: Path, bucket: ObjectStore) -> None:
    published(writer, "1")
    go_live(writer, "1")
    add_caller(writer, "ann", CallerRole.READ, None, "test")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    before = len(bucket.requests)
    copier.step()
    asked = {name.removeprefix(PREFIX): status for _, name, status in bucket.requests[before:]}
    assert asked == {CALLERS_FILE: 304, FUSION_FILE: 404, RULES_FILE: 404, ROLLOUT_FILE: 304}


def test_a_version_that_is_not_in_the_store_does_not_hold_the_document_up(writer: Path, reader: Path) -> None:
    published(writer, "1")
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    go_live(writer, "99")
    copier.step()
    assert copier._fetching is not None
    copier._fetching.join()
    assert copier.step() == ""
    assert live(reader) == "synthetic/99"


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "", "x" * 300, "../a"])
def test_a_version_with_an_impossible_file_name_does_not_hold_the_document_up(
    writer: Path, reader: Path, bucket: ObjectStore, name: str
) -> None:
    published(writer, "1")
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    digest = hashlib.sha256(b"").hexdigest()
    bucket.objects[f"{PREFIX}.files/{digest}"] = b""
    bucket.objects[f"{PREFIX}synthetic/9/manifest.json"] = json.dumps({"files": {name: digest}}).encode()
    go_live(writer, "9")
    for registry in (reader, host(reader.parent, "new", bucket.uri)):
        assert RegistryCopier(registry, ROOM).start() == ""
        assert live(registry) == "synthetic/9"
        # It is refused where every other version is.
        with pytest.raises(BundleRejected, match="manifest_invalid"):
            read_manifest(registry / "synthetic" / "9")


def test_a_change_from_a_host_whose_copy_was_removed_is_made(writer: Path) -> None:
    go_live(writer, "1")
    shutil.rmtree(writer)
    assert write_rollout(writer, Target(name="synthetic", version="2"), "ann").revision == 2


def test_a_bundle_that_cannot_be_removed_from_the_copy_stops_nothing(
    writer: Path, reader: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published(writer, "1")
    published(writer, "2")
    go_live(writer, "1")
    fetch(reader / "synthetic" / "2")
    (reader / "synthetic" / "2" / "absent").symlink_to("nowhere")
    copier = RegistryCopier(reader, 1)
    assert copier.start() == ""
    assert live(reader) == "synthetic/1"
    assert "a bundle of the copy could not be removed" in caplog.text
    assert copy_problem(reader) == ""


def test_the_last_state_stays_while_the_store_is_away(writer: Path, reader: Path, bucket: ObjectStore) -> None:
    published(writer, "1")
    go_live(writer, "1")
    RegistryCopier(reader, ROOM).start()
    bucket.fault = lambda _method, _key: 503
    # Also after a restart.
    assert "503" in RegistryCopier(reader, ROOM).start()
    assert (live(reader), versions_in(reader)) == ("synthetic/1", {"1"})
    with pytest.raises(ObjectStoreAway, match=rf"{bucket.uri}/\w+.json: .*503"):
        go_live(reader, "2")
    assert live(reader) == "synthetic/1"
    # A document that was removed from the store stays too.
    bucket.fault = lambda _method, _key: None
    del bucket.objects[PREFIX + ROLLOUT_FILE]
    assert RegistryCopier(reader, ROOM).start() == ""
    assert live(reader) == "synthetic/1"


def test_a_broken_document_in_the_store_leaves_the_last_good_one(
    writer: Path, reader: Path, bucket: ObjectStore
) -> None:
    published(writer, "1")
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    bucket.objects[PREFIX + ROLLOUT_FILE] = b'{"revision": 2'
    copier.step()
    assert (reader / ROLLOUT_FILE).read_bytes() == b'{"revision": 2'
    assert str(read_followed(reader).stable) == "synthetic/1"
    # The next change is made on the last good one.
    assert write_rollout(reader, Target(name="synthetic", version="1"), "ann").revision == 2


def test_a_revoked_key_is_revoked_on_every_host(writer: Path, reader: Path) -> None:
    add_caller(writer, "ann", CallerRole.READ, None, "test")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    revoke(writer, "ann", None, "test")
    copier.step()
    (reader / CALLERS_FILE).unlink()  # the copy of the last good document is followed
    document, _ = read_followed_callers(reader)
    assert document is not None
    assert document.callers == ()


def test_hosts_that_change_a_document_at_once_lose_no_revision(bucket: ObjectStore, tmp_path: Path) -> None:
    hosts = [host(tmp_path, f"host-{place}", bucket.uri) for place in range(5)]

    def change(place: int) -> int:
        return write_rollout(hosts[place % 5], Target(name="synthetic", version=str(place)), "ann").revision

    with ThreadPoolExecutor(5) as pool:
        revisions = list(pool.map(change, range(20)))
    assert sorted(revisions) == list(range(1, 21))
    with pytest.raises(Conflict, match="at revision 20, not 19"):
        write_rollout(hosts[0], Target(name="synthetic", version="1"), "ann", expected_revision=19)


def test_a_document_that_was_put_again_as_it_was_can_be_changed(writer: Path, bucket: ObjectStore) -> None:
    # A restored copy of the same content: the same ETag in S3 and Google's store, another generation in the latter.
    go_live(writer, "1")
    bucket.objects[PREFIX + ROLLOUT_FILE] = bytes(bucket.objects[PREFIX + ROLLOUT_FILE])
    assert RegistryCopier(writer, ROOM).step() == ""
    assert write_rollout(writer, Target(name="synthetic", version="2"), "ann").revision == 2


def test_a_change_is_checked_beside_the_documents_of_now(writer: Path, reader: Path) -> None:
    published(writer, "1")
    profiles = FusionProfiles.model_validate(
        {"profiles": {"default": {"kind": "weighted_sum", "weights": {"absent": 1.0}}}}
    )
    FUSION.change(writer, FUSION.whole(profiles), Edit("ann"))
    with pytest.raises(FusionError, match="absent"):
        roll_out(RegistryChecks(reader, None, None, 12), {"stable": Target(name="synthetic", version="1")}, Edit("bob"))


def test_a_copy_that_was_edited_by_hand_is_replaced(writer: Path, reader: Path) -> None:
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    good = (reader / ROLLOUT_FILE).read_bytes()
    (reader / ROLLOUT_FILE).write_bytes(good.replace(b'"1"', b'"2"'))
    copier.step()
    while copier._fetching is not None:
        copier._fetching.join()
        copier.step()
    assert (reader / ROLLOUT_FILE).read_bytes() == good


def test_a_live_version_that_was_damaged_on_the_disk_is_fetched_again(writer: Path, reader: Path) -> None:
    published(writer, "1")
    go_live(writer, "1")
    RegistryCopier(reader, ROOM).start()
    graph = reader / "synthetic" / "1" / "model.onnx"
    good = graph.read_bytes()
    graph.write_bytes(good[:100])
    assert RegistryCopier(reader, ROOM).start() == ""
    assert graph.read_bytes() == good


def test_a_copy_that_was_removed_comes_back(writer: Path, reader: Path) -> None:
    published(writer, "1")
    go_live(writer, "1")
    copier = RegistryCopier(reader, ROOM)
    copier.start()
    shutil.rmtree(reader)
    assert copier.start() == ""
    assert (live(reader), versions_in(reader)) == ("synthetic/1", {"1"})


def test_a_folder_that_cannot_be_written_to_is_named(bucket: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    problem = RegistryCopier(registry_folder(bucket.uri, tmp_path / "cache"), ROOM).start()
    assert "cache" in problem
    assert problem.endswith("Not a directory (FUNNELRANK_REGISTRY_CACHE)")


def test_beyond_its_limit_the_copy_keeps_what_is_live_and_the_history(writer: Path, reader: Path) -> None:
    for version in ("1", "2", "3", "4"):
        published(writer, version)
    go_live(writer, "1")
    go_live(writer, "2")
    copier = RegistryCopier(reader, 1)
    assert copier.start() == ""
    # Two that nobody named were fetched, as by an inspection.
    for version in ("1", "3", "4"):
        fetch(reader / "synthetic" / version)
    go_live(writer, "4")
    copier.step()
    assert versions_in(reader) == {"1", "2", "4"}
    assert last_good(reader / ROLLOUT_FILE).exists()
    # What killed processes left goes after a while.
    for name in (".removed-a", "synthetic/.fetching-a"):
        (reader / name).mkdir()
        os.utime(reader / name, (0, 0))
    RegistryCopier(reader, 1).start()
    assert not (reader / ".removed-a").exists()
    assert not (reader / "synthetic/.fetching-a").exists()
