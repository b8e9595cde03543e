"""Tests versions in a bucket: published by one of several publishers, whole or not at all, and fetched as they are."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from copied_registry import host, published, synthetic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from object_store import PREFIX, ObjectStore

from export.publish import PublishError, next_version, publish
from export.sign import sign_bundle
from service.bundle.loading import load_bundle
from service.bundle.manifest import Manifest
from service.bundle.registry import published as listed
from service.bundle.verify import BundleRejected, read_manifest, verified_files
from service.documents import Edit
from service.rollout.trials.checks import RegistryChecks, roll_out

MANIFEST = "synthetic/1/manifest.json"


@pytest.fixture
def hosts(bucket: ObjectStore, tmp_path: Path) -> tuple[Path, Path]:
    return host(tmp_path, "a", bucket.uri), host(tmp_path, "b", bucket.uri)


def test_what_one_host_publishes_another_one_loads(hosts: tuple[Path, Path], bucket: ObjectStore) -> None:
    one, other = hosts
    folder = published(one, "1")
    manifest = read_manifest(folder)
    stored = {f".files/{digest}" for digest in manifest.files.values()}
    assert bucket.names() == {MANIFEST} | stored
    assert load_bundle(other / "synthetic" / "1", 1, 100).label == "synthetic/1"
    for name in (*manifest.files, "manifest.json"):
        assert (other / "synthetic" / "1" / name).read_bytes() == (folder / name).read_bytes()
    # Fetched once.
    before = len(bucket.requests)
    read_manifest(other / "synthetic" / "1")
    assert len(bucket.requests) == before


def test_of_two_publishers_of_a_version_one_wins_and_the_other_is_told(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    drafts = [synthetic(tmp_path / f"draft-{bias}", "1", bias) for bias in (0.0, 1.0)]
    barrier = Barrier(2)

    def run(place: int) -> str:
        manifest, files = drafts[place]
        # Both have seen that the version is free.
        barrier.wait()
        try:
            publish(hosts[place], manifest, files)
        except PublishError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        problems = list(pool.map(run, range(2)))
    assert sorted(problem != "" for problem in problems) == [False, True]
    loser = problems.index(max(problems))
    assert f"{bucket.uri}/synthetic/1 is published already" in problems[loser]
    # Everybody has the winner's.
    winner = drafts[1 - loser][0]
    for registry in hosts:
        manifest = read_manifest(registry / "synthetic" / "1")
        assert manifest.files == winner.files
        verified_files(registry / "synthetic" / "1", manifest)
    assert next_version(hosts[loser], "synthetic") == "2"


@pytest.mark.parametrize("failing", ["manifest.json", ".files"])
def test_a_store_that_fails_meanwhile_has_nothing_half_published(
    hosts: tuple[Path, Path], bucket: ObjectStore, failing: str
) -> None:
    bucket.fault = lambda method, key: 503 if method == "PUT" and failing in key else None
    with pytest.raises(PublishError, match=rf"^{bucket.uri}/synthetic/1: .*503.*; nothing was published"):
        published(hosts[0], "1")
    assert MANIFEST not in bucket.names()
    bucket.fault = lambda _method, _key: None
    for registry in hosts:
        assert listed(registry).versions == ()
        assert not (registry / "synthetic" / "1").exists()
        with pytest.raises(BundleRejected, match=f"bundle_missing: {bucket.uri}/{MANIFEST} does not exist"):
            read_manifest(registry / "synthetic" / "1")


def test_a_store_that_is_away_is_no_missing_version(hosts: tuple[Path, Path], bucket: ObjectStore) -> None:
    published(hosts[0], "1")
    bucket.fault = lambda _method, _key: 503
    with pytest.raises(BundleRejected, match=rf"bundle_not_fetched: {bucket.uri}/synthetic/1: .*503"):
        read_manifest(hosts[1] / "synthetic" / "1")
    with pytest.raises(PublishError, match="503"):
        next_version(hosts[1], "synthetic")
    # What the copy has needs no store.
    assert read_manifest(hosts[0] / "synthetic" / "1").version == "1"


def test_a_version_that_fails_on_its_way_leaves_nothing_in_the_copy(
    hosts: tuple[Path, Path], bucket: ObjectStore
) -> None:
    published(hosts[0], "1")
    bucket.fault = lambda method, key: 503 if method == "GET" and ".files" in key else None
    with pytest.raises(BundleRejected, match="bundle_not_fetched"):
        read_manifest(hosts[1] / "synthetic" / "1")
    assert [path.name for path in (hosts[1] / "synthetic").iterdir()] == [".1.lock"]


def test_a_file_that_was_changed_in_the_store_is_refused(hosts: tuple[Path, Path], bucket: ObjectStore) -> None:
    manifest = read_manifest(published(hosts[0], "1"))
    bucket.objects[f"{PREFIX}.files/{manifest.files['model.onnx']}"] = b"another graph"
    with pytest.raises(BundleRejected, match="hash_mismatch"):
        load_bundle(hosts[1] / "synthetic" / "1", 1, 100)


def test_a_registry_that_was_copied_into_the_bucket_as_a_folder_is_read(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    manifest, files = synthetic(tmp_path / "folder", "1")
    for name, content in {**files, "manifest.json": manifest.model_dump_json().encode()}.items():
        bucket.objects[f"{PREFIX}synthetic/1/{name}"] = content
    assert load_bundle(hosts[1] / "synthetic" / "1", 1, 100).label == "synthetic/1"


def test_a_version_whose_files_are_still_copied_into_the_bucket_is_fetched_later(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    manifest, files = synthetic(tmp_path / "folder", "1")
    bucket.objects[f"{PREFIX}{MANIFEST}"] = manifest.model_dump_json().encode()
    folder = hosts[1] / "synthetic" / "1"
    with pytest.raises(BundleRejected, match=r"bundle_not_fetched: .*synthetic/1/\S+ is not there"):
        read_manifest(folder)
    assert not folder.exists()
    assert bucket.count("GET", f"synthetic/1/{next(iter(files))}") == 0
    for name, content in files.items():
        bucket.objects[f"{PREFIX}synthetic/1/{name}"] = content
    assert load_bundle(folder, 1, 100).label == "synthetic/1"


def test_a_manifest_that_names_other_places_writes_nothing_there(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    manifest = read_manifest(published(hosts[0], "1"))
    digest = manifest.files["report.html"]
    for name in ("../report.html", "/report.html", "..", "a/report.html"):
        spoilt = manifest.model_copy(update={"version": "2", "files": {**manifest.files, name: digest}})
        bucket.objects[f"{PREFIX}synthetic/2/manifest.json"] = spoilt.model_dump_json().encode()
        folder = hosts[1] / "synthetic" / "2"
        with pytest.raises(BundleRejected, match="manifest_invalid: files: .* is not a plain file name"):
            verified_files(folder, read_manifest(folder))
        assert not (folder.parent / "report.html").exists()
        shutil.rmtree(folder)


def test_all_versions_are_listed_and_none_is_fetched(hosts: tuple[Path, Path], bucket: ObjectStore) -> None:
    for version in ("1", "2", "10"):
        published(hosts[0], version)
    bucket.objects[f"{PREFIX}synthetic/3/manifest.json"] = b"{"
    versions = {str(one.target): one for one in listed(hosts[1]).versions}
    assert set(versions) == {"synthetic/1", "synthetic/10", "synthetic/2", "synthetic/3"}
    assert "manifest_invalid" in (versions["synthetic/3"].problem or "")
    assert not (hosts[1] / "synthetic").exists()
    before = len(bucket.requests)
    assert len(listed(hosts[1]).versions) == 4
    # The lists say that no manifest has changed, so nothing else is asked for.
    assert {request[1] for request in bucket.requests[before:]} == {""}
    assert next_version(hosts[1], "synthetic") == "11"


def test_a_manifest_that_the_store_refuses_is_a_problem_of_its_version_alone(
    hosts: tuple[Path, Path], bucket: ObjectStore
) -> None:
    for version in ("1", "2", "3"):
        published(hosts[0], version)
    bucket.fault = lambda method, key: 403 if key.endswith("synthetic/2/manifest.json") else None
    first, refused, last = listed(hosts[1]).versions
    assert [first.problem, last.problem] == [None, None]
    assert refused.manifest is None
    assert f"bundle_not_fetched: {bucket.uri}/synthetic/2/manifest.json" in (refused.problem or "")
    # The refusal is not remembered.
    bucket.fault = lambda _method, _key: None
    assert [one.problem for one in listed(hosts[1]).versions] == [None] * 3


def test_a_version_that_was_deleted_and_published_again_is_listed_as_it_is(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    before = read_manifest(published(hosts[0], "1"))
    assert [one.manifest for one in listed(hosts[1]).versions] == [before]
    other = republish(bucket, tmp_path)
    (after,) = listed(hosts[1]).versions
    assert after.manifest == other != before
    # Listed once more, it is not asked for again.
    asked = bucket.count("GET", MANIFEST)
    assert listed(hosts[1]).versions == (after,)
    assert bucket.count("GET", MANIFEST) == asked


def test_a_version_that_was_published_again_after_it_was_fetched_has_a_problem_that_says_so(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    """What this host would serve is not what the others serve."""
    published(hosts[0], "1")
    fetched = hosts[1] / "synthetic" / "1"
    before = read_manifest(fetched)
    assert [one.manifest for registry in hosts for one in listed(registry).versions] == [before] * 2
    other = republish(bucket, tmp_path)
    for registry in hosts:
        (one,) = listed(registry).versions
        assert one.manifest is None
        advice = f"remove {registry / 'synthetic' / '1'}, or publish under another number"
        problem = f"version_replaced: {bucket.uri}/synthetic/1 was published again after it was fetched; {advice}"
        assert one.problem == problem
        # Nor does it go live from here.
        with pytest.raises(BundleRejected) as refused:
            roll_out(RegistryChecks(registry, None, None, 12), {"stable": one.target}, Edit("bob"))
        assert str(refused.value) == problem
    # The advice helps.
    shutil.rmtree(fetched)
    (one,) = listed(hosts[1]).versions
    assert one.manifest == other
    assert read_manifest(fetched) == other


def test_a_manifest_that_was_put_again_as_it_was_is_no_other_one(hosts: tuple[Path, Path], bucket: ObjectStore) -> None:
    published(hosts[0], "1")
    manifest = read_manifest(hosts[1] / "synthetic" / "1")
    bucket.objects[PREFIX + MANIFEST] = bucket.objects[PREFIX + MANIFEST]
    for registry in hosts:
        assert [one.manifest for one in listed(registry).versions] == [manifest]
    # What a host has is listed also if the store does not give the manifest.
    bucket.objects[PREFIX + MANIFEST] = bucket.objects[PREFIX + MANIFEST]
    bucket.fault = lambda method, key: 403 if key.endswith("manifest.json") else None
    assert [one.manifest for one in listed(hosts[1]).versions] == [manifest]


def republish(bucket: ObjectStore, folder: Path) -> Manifest:
    """Delete version 1, and publish another one under its number from a third host; return its manifest."""
    for key in [key for key in bucket.objects if key.startswith(f"{PREFIX}synthetic/1/")]:
        del bucket.objects[key]
    return read_manifest(published(host(folder, "c", bucket.uri), "1", bias=1.0))


@pytest.mark.parametrize("bad", ["synthetic//x", "synthetic/../x", "synthetic/1/a//b", "/x", "../x"])
def test_a_name_that_the_client_cannot_read_hides_no_other_model(
    hosts: tuple[Path, Path], bucket: ObjectStore, bad: str
) -> None:
    published(hosts[0], "1")
    published(hosts[0], "2")
    bucket.objects[f"{PREFIX}other/7/manifest.json"] = b"{"
    names = ["other/7", "synthetic/1", "synthetic/2"]
    assert [str(one.target) for one in listed(hosts[1]).versions] == names
    bucket.objects[PREFIX + bad] = b""
    refusal = rf'Path "{PREFIX}{re.escape(bad)}".*; rename or remove the object'
    # Azure cannot begin a list behind the name; a name below a version is in no list of folders.
    azure = bucket.dialect.scheme == "az"
    if azure and not bad.startswith("synthetic"):
        with pytest.raises(OSError, match=refusal):
            listed(hosts[1])
        return
    registry = listed(hosts[1])
    if azure and not bad.startswith("synthetic/1"):
        assert [str(one.target) for one in registry.versions] == names[:1]
        (problem,) = registry.problems
        assert re.fullmatch(
            rf"the versions of synthetic cannot be listed: {bucket.uri}/synthetic: .*{refusal}", problem
        )
    else:
        assert [str(one.target) for one in registry.versions] == names
        assert registry.problems == ()
        assert next_version(hosts[1], "synthetic") == "3"


def test_a_signature_is_followed_after_the_version_was_fetched(
    hosts: tuple[Path, Path], bucket: ObjectStore, tmp_path: Path
) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(keys[0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    published(hosts[0], "1", sign=keys[0].sign)
    assert read_manifest(hosts[1] / "synthetic" / "1", trusted).version == "1"
    # Another key, and then no other signature any more.
    trusted.write_bytes(keys[1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BundleRejected, match="signature_wrong"):
        read_manifest(hosts[1] / "synthetic" / "1", trusted)
    sign_bundle(hosts[0] / "synthetic" / "1", keys[1].sign)
    assert read_manifest(hosts[1] / "synthetic" / "1", trusted).version == "1"


def test_manifests_are_read_side_by_side(hosts: tuple[Path, Path], bucket: ObjectStore) -> None:
    """A listing of a thousand versions would take the time of a thousand answers, one after the other."""
    published(hosts[0], "1")
    manifest = bucket.objects[PREFIX + MANIFEST]
    for version in range(2, 17):
        of_version = manifest.replace(b'"version": "1"', f'"version": "{version}"'.encode())
        bucket.objects[f"{PREFIX}synthetic/{version}/manifest.json"] = of_version
    together = Barrier(8)

    def answered_together(method: str, key: str) -> None:
        if key.endswith("manifest.json"):
            together.wait(timeout=60)

    bucket.fault = answered_together
    versions = listed(hosts[1]).versions
    names = [f"synthetic/{version}" for version in sorted(map(str, range(1, 17)))]
    assert [str(one.target) for one in versions] == names
    assert [one.problem for one in versions] == [None] * 16
