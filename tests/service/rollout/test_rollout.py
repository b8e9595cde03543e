"""Tests the rollout document and the list of the registry."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from service.addresses.registry_address import uri_of
from service.bundle.registry import Target, published
from service.documents import Edit
from service.errors import Conflict
from service.rollout.lines.changes import change_rollout, roll_back, write_rollout
from service.rollout.rollout import ROLLOUT_FILE, RolloutUnreadable, read_rollout, signature


def test_every_write_is_a_new_revision_and_a_new_signature(either_registry: Path) -> None:
    before = signature(either_registry)
    document = write_rollout(either_registry, Target(name="synthetic", version="2"), "ann")
    assert document.revision == 2
    assert read_rollout(either_registry) == document
    assert signature(either_registry) != before


def test_writers_at_once_lose_no_revision(either_registry: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        documents = list(
            pool.map(lambda i: write_rollout(either_registry, Target(name="synthetic", version=str(i)), "x"), range(20))
        )
    assert sorted(d.revision for d in documents) == list(range(2, 22))
    of_copy = {f".{ROLLOUT_FILE}.etag"} if uri_of(either_registry) else set()
    files = {ROLLOUT_FILE, ".rollout.lock", f".{ROLLOUT_FILE}.last"} | of_copy
    assert {p.name for p in either_registry.iterdir()} == files


def test_a_change_to_a_document_that_moved_on_is_a_conflict(either_registry: Path) -> None:
    write_rollout(either_registry, Target(name="synthetic", version="2"), "ann", expected_revision=1)
    with pytest.raises(Conflict, match="at revision 2, not 1"):
        write_rollout(either_registry, Target(name="synthetic", version="3"), "bob", expected_revision=1)


def test_what_a_newer_writer_added_is_kept(registry: Path) -> None:
    text = (registry / ROLLOUT_FILE).read_text().replace('"revision"', '"region": "north", "revision"')
    (registry / ROLLOUT_FILE).write_text(text)
    write_rollout(registry, Target(name="synthetic", version="2"), "ann")
    assert '"region"' in (registry / ROLLOUT_FILE).read_text()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"revision": 1}', '{"revision": 1, "stable": {"name": "../x", "version": "1"}}']
)
def test_a_document_that_cannot_be_followed_is_told(registry: Path, text: str) -> None:
    (registry / ROLLOUT_FILE).write_text(text)
    with pytest.raises(RolloutUnreadable, match=ROLLOUT_FILE):
        read_rollout(registry)


@pytest.mark.parametrize(
    ("name", "version"),
    [("..", "1"), ("a/b", "1"), ("synthetic", "../1"), ("synthetic", ""), ("synthetic", "1\n"), ("A", "1")],
)
def test_no_name_is_a_path(name: str, version: str) -> None:
    with pytest.raises(ValidationError):
        Target(name=name, version=version)


def test_published_lists_good_and_bad_versions(registry: Path, kit: SimpleNamespace) -> None:
    kit.publish(registry, "2")
    (registry / "synthetic" / "3").mkdir()
    os.symlink("/etc", registry / "synthetic" / "..hidden")
    versions = {str(p.target): p for p in published(registry).versions}
    assert set(versions) == {"synthetic/1", "synthetic/2", "synthetic/3"}
    assert versions["synthetic/2"].manifest is not None
    assert "bundle_missing" in (versions["synthetic/3"].problem or "")


def test_a_first_pass_belongs_to_its_line_and_is_rolled_back_with_it(either_registry: Path) -> None:
    small, other = (Target(name="small", version=version) for version in ("1", "2"))
    item_page = {"line": "item_page", "stable": Target(name="synthetic", version="5"), "first_pass": other}
    change_rollout(either_registry, {"first_pass": small}, Edit("ann"))
    document = change_rollout(either_registry, item_page, Edit("ann"))
    assert (document.first_pass, document.lines["item_page"].first_pass) == (small, other)
    # It goes where it becomes stable, and null removes it.
    assert change_rollout(either_registry, {"stable": small}, Edit("ann")).first_pass is None
    assert roll_back(either_registry, Edit("ann")).first_pass == small
    assert change_rollout(either_registry, {"first_pass": None}, Edit("ann")).first_pass is None
    # The first revision of all had none.
    change_rollout(either_registry, {"first_pass": other}, Edit("ann"))
    document = roll_back(either_registry, Edit("ann"), to=1)
    assert (document.first_pass, document.lines["item_page"].first_pass) == (None, other)


def test_a_document_without_a_first_pass_has_no_such_field(either_registry: Path) -> None:
    write_rollout(either_registry, Target(name="synthetic", version="2"), "ann")
    assert "first_pass" not in (either_registry / ROLLOUT_FILE).read_text()
