"""Tests the lines of the rollout document: a change or a rollback of one line never touches another."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from funnelrank.main import main
from service.bundle.registry import Target
from service.documents import Edit
from service.errors import Conflict, InvalidRequest
from service.rollout.lines.changes import change_rollout, roll_back
from service.rollout.lines.view import changed_at, earlier_stable, lines_of, restores
from service.rollout.rollout import ROLLOUT_FILE, Canary, Limits, Rollout, RolloutUnreadable, read_rollout


def target(version: str) -> Target:
    return Target(name="synthetic", version=version)


def change(registry: Path, **changes: Any) -> Rollout:
    return change_rollout(registry, changes, Edit("ann"))


def stables(registry: Path) -> dict[str, str]:
    return {name: line.stable.version for name, line in lines_of(read_rollout(registry)).items()}


def test_a_document_without_further_lines_is_written_as_before(registry: Path) -> None:
    change(registry, stable=target("2"), canary=Canary(name="synthetic", version="3", percent=5))
    text = json.loads((registry / ROLLOUT_FILE).read_text())
    fields = {"revision", "stable", "canary", "shadow", "limits", "author", "reason", "written_at", "restores"}
    assert set(text) == fields | {"history"}
    past = {"revision", "stable", "canary", "shadow", "author", "reason", "written_at", "withdrawn"}
    assert set(text["history"][0]) == past


def test_services_without_lines_read_the_default_line_of_a_document_with_lines(registry: Path) -> None:
    change(registry, line="item_page", stable=target("7"), scenes={"detail": "item_page"})
    text = json.loads((registry / ROLLOUT_FILE).read_text())
    assert text["stable"] == {"name": "synthetic", "version": "1"}
    assert text["scenes"] == {"detail": "item_page"}
    assert text["history"][0]["stable"]["version"] == "1"


def test_rolling_one_line_back_moves_no_other(registry: Path) -> None:
    change(registry, line="item_page", stable=target("7"), scenes={"detail": "item_page"})
    change(registry, stable=target("2"))
    change(registry, line="item_page", stable=target("8"))
    change(registry, stable=target("3"))
    document = roll_back(registry, Edit("bob"), line="item_page")
    assert (document.restores, document.line) == (3, "item_page"), "the newest revision in which the line had version 7"
    assert stables(registry) == {"default": "3", "item_page": "7"}
    assert read_rollout(registry).scenes == {"detail": "item_page"}
    roll_back(registry, Edit("bob"))
    assert stables(registry) == {"default": "2", "item_page": "7"}
    roll_back(registry, Edit("bob"))
    assert stables(registry) == {"default": "1", "item_page": "7"}, "a version that a rollback left is skipped"
    with pytest.raises(Conflict, match="nothing to go back to"):
        roll_back(registry, Edit("bob"), line="item_page")
    assert [str(t) for t in earlier_stable(read_rollout(registry), "item_page")] == []


def test_each_line_knows_its_own_last_change(registry: Path) -> None:
    change(registry, line="item_page", stable=target("7"))
    change(registry, line="item_page", stable=target("8"))
    roll_back(registry, Edit("bob"), line="item_page")
    document = change(registry, limits=Limits(psi=0.5))
    assert (changed_at(document, "item_page"), restores(document, "item_page")) == (4, 2)
    assert (changed_at(document, "default"), restores(document, "default")) == (5, None)


def test_changes_of_two_lines_at_once_lose_nothing(registry: Path) -> None:
    # Each of the four rollbacks of a line needs a state to go back to.
    for version in range(6):
        change(registry, line="item_page", stable=target(f"a-{version}"))
        change(registry, stable=target(f"b-{version}"))

    def write(place: int) -> Rollout:
        line = "item_page" if place % 2 else None
        if place % 10 in (8, 9):
            return roll_back(registry, Edit("x"), line=line)
        return change(registry, line=line, stable=target(f"{'a' if place % 2 else 'b'}{place}"))

    with ThreadPoolExecutor(8) as pool:
        documents = list(pool.map(write, range(40)))
    assert sorted(d.revision for d in documents) == list(range(14, 54))
    # Each revision changed its own line and left the other as it was.
    by_revision = sorted(documents, key=lambda d: d.revision)
    for before, after in zip(by_revision, by_revision[1:], strict=False):
        other = "default" if after.line == "item_page" else "item_page"
        assert lines_of(before)[other] == lines_of(after)[other]
        assert [line.stable.version[0] for line in lines_of(after).values()] == ["b", "a"]


def test_a_withdrawal_stands_although_another_line_changed_meanwhile(registry: Path) -> None:
    change(registry, line="item_page", stable=target("7"))
    seen = change(registry, line="item_page", canary=Canary(name="synthetic", version="8", percent=5)).revision
    change(registry, stable=target("2"))
    document = change_rollout(registry, {"line": "item_page", "canary": None}, Edit("automatic"), withdraws_since=seen)
    assert document.lines["item_page"].canary is None
    change(registry, line="item_page", canary=Canary(name="synthetic", version="8", percent=5))
    with pytest.raises(Conflict, match="'item_page' is at revision 6, not 3"):
        change_rollout(registry, {"line": "item_page", "canary": None}, Edit("automatic"), withdraws_since=seen)


def test_many_changes_of_one_line_leave_the_other_something_to_go_back_to(registry: Path) -> None:
    change(registry, line="item_page", stable=target("7"))
    change(registry, line="item_page", stable=target("8"))
    for version in range(120):
        change(registry, stable=target(f"b{version}"))
    document = read_rollout(registry)
    assert len(document.history) <= 62
    assert roll_back(registry, Edit("bob"), line="item_page").lines["item_page"].stable.version == "7"


def test_a_line_ends_when_its_stable_version_is_null_and_can_be_restored(registry: Path) -> None:
    change(registry, line="item_page", stable=target("7"), scenes={"detail": "item_page"})
    with pytest.raises(InvalidRequest, match=r"^scenes.detail: .*would be removed"):
        change(registry, line="item_page", stable=None)
    document = change(registry, line="item_page", stable=None, scenes={"detail": None})
    assert (document.lines, document.scenes, document.line) == ({}, {}, None)
    assert roll_back(registry, Edit("bob"), line="item_page").lines["item_page"].stable == target("7")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"line": "item", "canary": None}, "line", "there is no line 'item' (default); a new line needs"),
        ({"line": "item", "stable": None}, "line", "there is no line 'item'"),
        ({"scenes": {"detail": "item"}}, "scenes.detail", "there is no line 'item'"),
        ({"scenes": {str(i): "page" for i in range(1001)}}, "scenes", "at most 1000"),
    ],
)
def test_a_change_that_names_what_does_not_exist_names_the_field(
    registry: Path, changes: dict[str, Any], field: str, words: str
) -> None:
    change(registry, line="page", stable=target("7"))
    before = (registry / ROLLOUT_FILE).read_bytes()
    with pytest.raises(InvalidRequest) as refused:
        change_rollout(registry, changes, Edit("ann"))
    assert refused.value.errors[0].field == field
    assert words.replace("(default)", "(default, page)") in refused.value.errors[0].message
    assert (registry / ROLLOUT_FILE).read_bytes() == before


def test_a_line_needs_a_default_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^line: there is no default line yet"):
        change(tmp_path, line="item_page", stable=target("1"))


def test_a_rollback_of_an_unknown_line_names_the_field(registry: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^line: there is no line 'item'"):
        roll_back(registry, Edit("ann"), line="item")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"scenes": {"detail": "item"}}, "scenes: .*'item', which does not exist"),
        ({"lines": {"default": {"stable": {"name": "synthetic", "version": "1"}}}}, "lines: .*at the top"),
        ({"lines": {"item": {}}}, "lines.item.stable"),
    ],
)
def test_a_written_document_with_a_wrong_line_names_the_field(registry: Path, more: Any, words: str) -> None:
    document = json.loads((registry / ROLLOUT_FILE).read_text()) | more
    (registry / ROLLOUT_FILE).write_text(json.dumps(document))
    with pytest.raises(RolloutUnreadable, match=words):
        read_rollout(registry)


def test_a_scene_cannot_be_in_two_lines(registry: Path) -> None:
    change(registry, line="a", stable=target("1"), scenes={"detail": "a"})
    change(registry, line="b", stable=target("2"), scenes={"detail": "b"})
    assert read_rollout(registry).scenes == {"detail": "b"}, "a scene moves; it is never in both"
    text = (registry / ROLLOUT_FILE).read_text().replace('"detail": "b"', '"detail": "b", "detail": "a"')
    (registry / ROLLOUT_FILE).write_text(text)
    with pytest.raises(RolloutUnreadable, match="detail"):
        read_rollout(registry)


@pytest.mark.parametrize("label", [[], {}, ["item_page"], 5])
def test_a_history_that_was_edited_by_hand_does_not_stop_changes(registry: Path, label: Any) -> None:
    change(registry, line="item_page", stable=target("7"))
    since = change(registry, line="item_page", stable=target("8")).revision
    text = json.loads((registry / ROLLOUT_FILE).read_text())
    faulty = {"revision": "9", "line": label, "stable": 5, "lines": label}
    unnumbered = text["history"][0] | {"revision": None, "line": "item_page"}
    text["history"] = [faulty, unnumbered, *text["history"]]
    (registry / ROLLOUT_FILE).write_text(json.dumps(text))
    change(registry, stable=target("2"))
    document = change_rollout(registry, {"line": "item_page", "shadow": None}, Edit("automatic"), withdraws_since=since)
    assert (changed_at(document, "item_page"), changed_at(document, "default")) == (5, 4)
    assert roll_back(registry, Edit("bob"), line="item_page").lines["item_page"].stable.version == "7"


def test_a_state_of_before_there_were_canaries_is_restored_without_one(registry: Path) -> None:
    change(registry, stable=target("2"), canary=Canary(name="synthetic", version="3", percent=5), shadow=target("4"))
    text = json.loads((registry / ROLLOUT_FILE).read_text())
    text["history"] = [{"revision": 1, "stable": text["history"][0]["stable"]}]
    (registry / ROLLOUT_FILE).write_text(json.dumps(text))
    document = roll_back(registry, Edit("bob"))
    assert (document.stable.version, document.canary, document.shadow) == ("1", None, None)


def test_the_history_is_shown_although_an_entry_cannot_be_read(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(registry, stable=target("2"))
    text = json.loads((registry / ROLLOUT_FILE).read_text())
    text["history"] = [{"revision": 9, "stable": 5}, *text["history"]]
    (registry / ROLLOUT_FILE).write_text(json.dumps(text))
    assert main(["rollout", "--history", "--registry", str(registry)]) == 0
    present, unreadable, first = capsys.readouterr().out.splitlines()
    assert "stable synthetic/2" in present and "stable synthetic/1" in first
    assert unreadable.startswith("   9  cannot be read: stable: ")


def test_removing_the_last_line_is_no_change_of_the_default_line(registry: Path) -> None:
    change(registry, canary=Canary(name="synthetic", version="3", percent=5))
    change(registry, line="item_page", stable=target("7"))
    seen = read_rollout(registry).revision
    ended = change(registry, line="item_page", stable=None)
    assert ended.line is None, "as a document without lines is"
    assert changed_at(ended, "item_page") == seen + 1
    assert changed_at(ended, "default") == seen - 1
    document = change_rollout(registry, {"line": "default", "canary": None}, Edit("automatic"), withdraws_since=seen)
    assert document.canary is None, "the pending withdrawal of the default line's canary is written"
    assert changed_at(document, "default") == document.revision
    with pytest.raises(Conflict, match="at revision"):
        change_rollout(registry, {"line": "item_page", "stable": target("8")}, Edit("automatic"), withdraws_since=seen)
