"""Tests the page of weights and rules in a browser: checks while one types, effects, changes, conflicts, rollback."""

import json
import re
from typing import Any

import pytest
import yaml
from running_service import wait_until

from service.fusion.document import FUSION_FILE
from tests.console.pages import Console
from tests.console.served import SAMPLE, Served

pytestmark = pytest.mark.tools
TOP = "Top 10 of the compared requests (n)"
BLOCK = '{"rules": {"default": [{"type": "block", "item_ids": ["%s"]}]}, "experiments": {}}'


def fusion(served: Served) -> Any:
    """The document of the registry, which every worker follows within a poll."""
    return json.loads((served.registry / FUSION_FILE).read_text())


def set_weights(served: Served, author: str = "ann", **weights: float) -> None:
    """Write the sample's profiles with other weights in the default one, and wait until every worker has them."""
    default = {"kind": "weighted_sum", "weights": weights}
    document = yaml.safe_load((SAMPLE / "fusion.yaml").read_text()) | {"author": author, "reason": "to begin with"}
    document["profiles"]["default"] = default
    del document["revision"]
    written = served.change("PUT", "/fusion", document)
    wait_until(lambda: revisions(served) == [written["revision"]] * 2)


def revisions(served: Served) -> list[int]:
    return [worker["fusion_revision"] for worker in served.get("/models")["workers"]]


def status(console: Console, text: str) -> None:
    console.page.get_by_role("status").filter(has_text=text).wait_for()


def test_changed_weights_are_previewed_signed_and_rank(console: Console, served: Served) -> None:
    set_weights(served, pctr=1.0, pctcvr=10.0)
    served.rank(users=8)
    console.open("weights")
    status(console, "Nothing is changed yet.")
    console.page.get_by_label("Weight of pctr", exact=True).fill("50")
    status(console, "Valid.")
    effect = dict(zip(*console.table(TOP)[:2], strict=True))
    assert int(effect["n"]) > 0
    assert effect["Items that leave it"] != "–"
    means = console.table("Mean of each task in the top 10 (n: items)")
    assert {row[0] for row in means[1:]} == {"pctr", "pcvr", "pctcvr", "plong_view"}
    assert fusion(served)["author"] == "ann", "a preview changes nothing"
    console.sign("Make it hold", "clicks matter more")
    console.wait_for_text(re.compile(r"Revision \d+: served"))
    document = fusion(served)
    assert document["profiles"]["default"]["weights"] == {"pctr": 50.0, "pctcvr": 10.0}
    assert (document["author"], document["reason"]) == ("bob", "clicks matter more")


def test_a_faulty_formula_is_marked_while_one_types(console: Console, served: Served) -> None:
    set_weights(served, pctr=1.0)
    console.open("weights")
    console.page.get_by_label("Kind").select_option("formula")
    formula = console.page.get_by_label("Formula", exact=True)
    assert formula.input_value() == "1 * pctr"
    status(console, "Valid.")
    formula.fill("pctr * prize")
    mark = console.page.get_by_label("The fault is at column 8")
    mark.wait_for()
    assert mark.inner_text().splitlines()[1].index("^") == 7
    console.page.get_by_role("alert").filter(has_text="unknown name 'prize'").wait_for()
    assert console.page.get_by_role("button", name="Make it hold").is_disabled()
    formula.fill("pctr * log1p(video_duration)")
    status(console, "Valid.")
    assert mark.count() == 0
    console.sign("Make it hold", "long videos")
    console.wait_for_text(re.compile(r"Revision \d+: served"))
    assert fusion(served)["profiles"]["default"]["formula"] == "pctr * log1p(video_duration)"


def test_a_conflict_keeps_what_was_typed(console: Console, served: Served) -> None:
    set_weights(served, pctr=1.0)
    console.open("weights")
    console.page.get_by_label("Weight of pctr", exact=True).fill("3")
    set_weights(served, author="eve", pctr=1.0, pctcvr=7.0)
    revision = fusion(served)["revision"]
    status(console, "Valid.")
    console.sign("Make it hold", "three")
    console.page.get_by_role("button", name=f"Continue from revision {revision}").click()
    assert console.page.get_by_label("Weight of pctr", exact=True).input_value() == "3"
    difference = console.page.get_by_role("region", name="What the change does").inner_text()
    assert "pctcvr" in difference, "the change would remove what eve added, and says so"
    status(console, "Valid.")
    console.page.get_by_role("button", name="Make it hold").click()
    console.wait_for_text(f"Revision {revision + 1}: served")
    assert fusion(served)["profiles"]["default"]["weights"] == {"pctr": 3.0}


def test_an_earlier_revision_is_restored(console: Console, served: Served) -> None:
    set_weights(served, pctr=4.0)
    revision = fusion(served)["revision"]
    set_weights(served, pctr=5.0)
    console.open("weights")
    console.page.get_by_role("button", name=f"Restore revision {revision}").click()
    console.sign("Roll back", "four was better")
    wait_until(lambda: fusion(served)["profiles"]["default"]["weights"] == {"pctr": 4.0})
    assert fusion(served)["restores"] == revision


def test_rules_are_previewed_and_show_in_a_ranking(console: Console, served: Served) -> None:
    set_weights(served, pctr=1.0, pctcvr=10.0)
    console.open_ranking(scene="")
    first = console.table(re.compile("Ranking of"))[1][1]
    console.page.get_by_role("link", name="Weights and rules").click()
    console.page.get_by_role("link", name="Rules", exact=True).click()
    console.page.get_by_text("The whole document as JSON").click()
    console.page.get_by_label("The rules document (JSON)").fill(BLOCK % first)
    status(console, "Valid.")
    console.sign("Make it hold", "it is not for sale")
    console.wait_for_text(re.compile(r"Revision \d+: served"))
    assert console.table(re.compile("Rules by scene"))[1][:2] == ["default", "0:block"]
    console.page.go_back()
    console.page.go_back()
    console.wait_for_text("rules default")
    assert first not in [row[1] for row in console.table(re.compile("Ranking of"))[1:]]
    served.change("PUT", "/rules", {"rules": {}, "author": "ann", "reason": "as before"})
