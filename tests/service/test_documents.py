"""Tests revisioned documents: history, rollback, conflicts, checks before writing, the last good copy."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.documents import DocumentUnreadable, Edit, Recorded, RevisionedDocument
from service.errors import Conflict
from service.files import Abandoned, Attempt
from service.fusion.document import FusionDocument
from service.rollout.rollout import Rollout
from service.rules.definition.document import RulesDocument


class Menu(Recorded):
    revision: int
    dish: str
    price: int | None = None


MENU = RevisionedDocument("menu.json", "the menu", Menu, ("dish", "price"), history_length=3)
ANN = Edit("ann")


def serve(registry: Path, dish: str, edit: Edit = ANN, **more: Any) -> Menu:
    return MENU.change(registry, lambda _before: {"dish": dish}, edit, **more)


def test_every_change_is_a_revision_and_the_history_is_bounded(either_place: Path) -> None:
    for dish in ("soup", "fish", "rice", "cake", "tea"):
        serve(either_place, dish, Edit("ann", f"more {dish}"))
    menu = MENU.read(either_place)
    assert menu is not None
    assert (menu.revision, menu.dish, menu.author, menu.reason) == (5, "tea", "ann", "more tea")
    assert [(h["revision"], h["dish"]) for h in menu.history] == [(4, "cake"), (3, "rice"), (2, "fish")]


def test_a_rollback_skips_what_somebody_went_back_from(either_place: Path) -> None:
    for dish in ("soup", "fish", "rice"):
        serve(either_place, dish)
    assert MENU.roll_back(either_place, Edit("bob")).dish == "fish"
    back = MENU.roll_back(either_place, Edit("bob"))
    assert (back.dish, back.restores, back.reason) == ("soup", 1, "back from revision 4 to 1")
    with pytest.raises(Conflict, match="the history has nothing to go back to"):
        MENU.roll_back(either_place, Edit("bob"))
    with pytest.raises(Conflict, match="nothing at revision 99"):
        MENU.roll_back(either_place, Edit("bob"), to=99)
    assert MENU.roll_back(either_place, Edit("bob"), to=4).dish == "fish"


def test_a_change_to_another_revision_is_a_conflict(either_place: Path) -> None:
    serve(either_place, "soup")
    with pytest.raises(Conflict, match="the menu is at revision 1, not 7"):
        serve(either_place, "fish", Edit("ann", expected_revision=7))


def test_what_the_check_refuses_and_what_was_abandoned_is_not_written(either_place: Path) -> None:
    serve(either_place, "soup")

    def refuse(menu: Menu) -> None:
        raise ValueError(f"no {menu.dish} today")

    with pytest.raises(ValueError, match="no fish today"):
        serve(either_place, "fish", check=refuse)
    attempt = Attempt()
    attempt.abandon()
    with pytest.raises(Abandoned):
        serve(either_place, "fish", attempt=attempt)
    menu = MENU.read(either_place)
    assert menu is not None
    assert (menu.dish, menu.revision) == ("soup", 1)


def test_a_broken_document_is_followed_by_its_last_good_copy(either_place: Path) -> None:
    assert MENU.read_last_good(either_place) is None
    serve(either_place, "soup")
    (either_place / "menu.json").write_text("{")
    with pytest.raises(DocumentUnreadable, match="menu.json"):
        MENU.read(either_place)
    followed = MENU.read_last_good(either_place)
    assert followed is not None
    assert followed.dish == "soup"
    assert serve(either_place, "fish").revision == 2


@pytest.mark.parametrize(
    "entry", [{"price": 2**63}, {"price": 10**400}, {"price": -(2**63) - 1}, {"dish": "\ud800"}, {"\udc00": 1}], ids=str
)
def test_a_document_that_nobody_could_write_again_counts_as_broken(tmp_path: Path, entry: dict[str, Any]) -> None:
    serve(tmp_path, "soup")
    serve(tmp_path, "fish")
    text = json.loads((tmp_path / "menu.json").read_text())
    text["history"][0] |= entry
    (tmp_path / "menu.json").write_text(json.dumps(text))
    with pytest.raises(
        DocumentUnreadable, match=r"menu.json: not JSON: (an integer has more than 64 bits|a string has)"
    ):
        MENU.read(tmp_path)
    assert serve(tmp_path, "rice").revision == 3


def test_integers_of_64_bits_and_whole_surrogate_pairs_are_read(tmp_path: Path) -> None:
    serve(tmp_path, "\U0001f372", Edit("ann", "\\ud800"))
    text = (tmp_path / "menu.json").read_text().replace('"price": null', f'"price": {2**63 - 1}')
    (tmp_path / "menu.json").write_text(json.dumps(json.loads(text)))
    menu = MENU.read(tmp_path)
    assert menu is not None
    assert (menu.dish, menu.price, menu.reason) == ("\U0001f372", 2**63 - 1, "\\ud800")


def test_a_history_that_nobody_can_read_any_more_harms_only_the_rollback_to_it(tmp_path: Path) -> None:
    serve(tmp_path, "soup")
    serve(tmp_path, "fish")
    text = json.loads((tmp_path / "menu.json").read_text())
    text["history"][0]["price"] = "much"
    (tmp_path / "menu.json").write_text(json.dumps(text))
    assert serve(tmp_path, "rice").revision == 3
    with pytest.raises(Conflict, match="cannot be changed: price"):
        MENU.roll_back(tmp_path, Edit("bob"), to=1)


def test_a_field_that_was_added_later_does_not_make_two_states_different(tmp_path: Path) -> None:
    serve(tmp_path, "soup")
    serve(tmp_path, "fish")
    text = json.loads((tmp_path / "menu.json").read_text())
    old = {"revision": 0, "dish": "fish"}
    (tmp_path / "menu.json").write_text(json.dumps(text | {"history": [old, *text["history"]]}))
    assert MENU.roll_back(tmp_path, Edit("bob")).dish == "soup"


@pytest.mark.parametrize(
    ("model", "state"),
    [
        (Rollout, ["stable", "canary", "shadow", "first_pass", "limits", "lines", "scenes", "line"]),
        (FusionDocument, ["profiles", "scenes", "experiments"]),
        (RulesDocument, ["rules", "experiments"]),
    ],
)
def test_the_fields_of_a_file_keep_their_order(model: type[Recorded], state: list[str]) -> None:
    """Earlier releases wrote this order, and a diff of two revisions should show the change alone."""
    common = ["author", "reason", "written_at", "restores", "history"]
    assert list(model.model_fields) == ["revision", *state, *common]
