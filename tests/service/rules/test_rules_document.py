"""Tests the rules document: revisions, history, rollback, and documents that are refused before they are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.documents import Edit
from service.errors import Conflict
from service.rules.definition.document import DOCUMENT, RULES_FILE, RulesDocument
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets

SPREAD = {"type": "spread", "feature": "author", "distance": 3}
PIN = {"type": "pin", "item_id": "7", "position": 2}


def rule_sets(*rules: dict[str, Any], scene: str = "default") -> RuleSets:
    return RuleSets.model_validate({"rules": {scene: rules}})


def write_rules(registry: Path, rules: RuleSets, edit: Edit, **more: Any) -> RulesDocument:
    return DOCUMENT.change(registry, DOCUMENT.whole(rules), edit, **more)


def test_a_change_is_a_revision_and_one_call_goes_back(tmp_path: Path) -> None:
    assert DOCUMENT.read_last_good(tmp_path) is None
    first = write_rules(tmp_path, rule_sets(SPREAD), Edit("ann", "variety", expected_revision=0))
    assert (first.revision, first.author, first.rules["default"][0].type) == (1, "ann", "spread")
    second = write_rules(tmp_path, rule_sets(PIN, scene="home"), Edit("bob"))
    assert [past["revision"] for past in second.history] == [1, 0]
    back = DOCUMENT.roll_back(tmp_path, Edit("ann"))
    assert (back.revision, back.restores, back.rules) == (3, 1, first.rules)
    assert DOCUMENT.read_last_good(tmp_path) == back
    with pytest.raises(Conflict, match="rules is at revision 3, not 1"):
        write_rules(tmp_path, rule_sets(SPREAD), Edit("ann", expected_revision=1))


def test_going_back_from_the_first_rules_leaves_none(tmp_path: Path) -> None:
    write_rules(tmp_path, rule_sets(SPREAD), Edit("ann"))
    assert DOCUMENT.roll_back(tmp_path, Edit("ann")).rules == {}


def test_lists_that_no_scene_and_no_experiment_names_are_told() -> None:
    experiment = {"arms": [{"name": "a", "rules": "arm", "percent": 50}]}
    lists = {"default": [], "home": [], "hoem": [], "arm": []}
    every = RuleSets.model_validate({"rules": lists, "experiments": {"e": experiment}})
    assert every.unused(["home", "shop"]) == ["hoem"]


def test_a_broken_document_is_replaced_by_the_last_good_one(tmp_path: Path) -> None:
    written = write_rules(tmp_path, rule_sets(SPREAD), Edit("ann"))
    text = (tmp_path / RULES_FILE).read_text()
    (tmp_path / RULES_FILE).write_text(text.replace('"spread"', '"sprea"'))
    assert DOCUMENT.read_last_good(tmp_path) == written
    (tmp_path / f".{RULES_FILE}.last").write_text("{")
    with pytest.raises(RulesError, match=RULES_FILE):
        DOCUMENT.read_last_good(tmp_path)


def test_a_check_that_refuses_leaves_the_document(tmp_path: Path) -> None:
    def check(_rules: RuleSets) -> None:
        raise RulesError("no such feature", "rules.default[0].feature")

    with pytest.raises(RulesError):
        write_rules(tmp_path, rule_sets(SPREAD), Edit("ann"), check=check)
    assert not (tmp_path / RULES_FILE).exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"rules": {"home": [SPREAD | {"distance": "3"}]}},
        {"rules": {"home": [SPREAD | {"feature": 3}]}},
        {"rules": {"home": [SPREAD | {"colour": "red"}]}},
        {"rules": {"home": [{"type": "spred"}]}},
        {"rules": {"home": SPREAD}},
    ],
)
def test_the_document_is_strict(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RuleSets.model_validate_json(json.dumps(bad), strict=True)
