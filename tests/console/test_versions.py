"""Tests the page of versions in a browser: figures, promotion, percent, rollback, conflicts."""

import json
import re
from typing import Any

import pytest
from running_service import wait_until

from tests.console.pages import Console, counted
from tests.console.served import MODEL, Served, roles_of

pytestmark = pytest.mark.tools
LIVE = "Versions of the line default"


def rollout(served: Served) -> Any:
    return served.get("/models")["rollout"]


def begin(served: Served, version: str = "3", percent: float = 30) -> None:
    """Make version 2 stable again, with a canary."""
    state = {"stable": f"{MODEL}/2", "canary": {"name": MODEL, "version": version, "percent": percent}}
    served.change("PUT", "/models/rollout", state | {"author": "ann", "reason": "as before"})
    wait_until(lambda: roles_of(served, "live") == ["2", "2"] and roles_of(served, "canary") == [version] * 2)


def test_figures_are_those_of_the_metrics(console: Console, served: Served) -> None:
    begin(served)
    console.open("versions")
    console.wait_for_text("2 of 2")
    metrics = served.server.http.get("/metrics").text
    for role in ("stable", "canary"):
        n = counted(metrics, "funnelrank_rankings_total", role=role, result="ok")
        assert n > 0
        assert console.column(LIVE, role)["Rankings"] == str(n)
        assert console.column(LIVE, role)["Failed rankings"] == "0"
    assert console.column(LIVE, "stable")["Version"] == f"{MODEL}/2"
    assert console.column(LIVE, "stable")["Users"] == "70 %"
    assert console.column(LIVE, "canary")["Users"] == "30 %"
    assert list(console.column("Published versions", "Version")) == [f"{MODEL}/{v}" for v in "234"]


def test_percent_promotion_and_rollback_are_signed_and_reach_every_worker(console: Console, served: Served) -> None:
    begin(served)
    console.open("versions")
    # More users for the canary.
    console.page.get_by_label("Change", exact=True).select_option("percent")
    console.page.get_by_label("Percent of the users").fill("55")
    assert console.page.get_by_role("region", name="What the change does").inner_text().count("percent") == 2
    console.sign("Make it live", "it does well")
    console.wait_for_text(re.compile(r"Revision \d+: served"))
    document = rollout(served)
    assert (document["canary"]["percent"], document["author"], document["reason"]) == (55.0, "bob", "it does well")
    wait_until(lambda: console.column(LIVE, "canary")["Users"] == "55 %")
    # All users.
    console.page.get_by_label("Change", exact=True).select_option("promote")
    console.sign("Make it live", "better for a day")
    wait_until(lambda: roles_of(served, "live") == ["3", "3"] and roles_of(served, "canary") == [None, None])
    wait_until(lambda: console.table(LIVE)[0] == ["Measure", "stable"])
    assert console.column(LIVE, "stable")["Version"] == f"{MODEL}/3"
    # Back to the state before.
    console.page.get_by_label("Change", exact=True).select_option("back")
    console.sign("Roll back", "worse at night")
    wait_until(lambda: roles_of(served, "live") == ["2", "2"] and roles_of(served, "canary") == ["3", "3"])
    document = rollout(served)
    assert (document["author"], document["reason"]) == ("bob", "worse at night")
    assert document["canary"]["percent"] == 55.0
    wait_until(lambda: console.column(LIVE, "stable")["Version"] == f"{MODEL}/2")
    first = console.table("Revisions of the rollout document")[1]
    assert first[0] == f"{document['revision']} (now)"
    assert first[2:4] == ["bob", "worse at night"]
    assert console.table("Revisions of the rollout document")[2][0].endswith("(withdrawn)")


def test_a_revision_of_the_history_is_restored(console: Console, served: Served) -> None:
    begin(served)
    revision = rollout(served)["revision"]
    served.change("PUT", "/models/rollout", {"canary": None, "author": "ann", "reason": "no canary"})
    console.open("versions")
    console.page.get_by_role("button", name=f"Restore revision {revision}").click()
    console.sign("Roll back", "the canary was right")
    wait_until(lambda: roles_of(served, "canary") == ["3", "3"])
    assert rollout(served)["restores"] == revision


def test_a_change_by_somebody_else_is_shown_and_nothing_is_overwritten(console: Console, served: Served) -> None:
    begin(served)
    console.open("versions")
    console.page.get_by_label("Change", exact=True).select_option("promote")
    served.change("PUT", "/models/rollout", {"canary": None, "author": "eve", "reason": "the canary is bad"})
    console.sign("Make it live", "promote")
    console.wait_for_text("Somebody else changed this")
    newest = rollout(served)
    alert = console.page.get_by_role("alert").filter(has_text="Somebody else")
    assert f"eve wrote revision {newest['revision']}: “the canary is bad”" in alert.inner_text()
    difference = console.page.get_by_role("region", name="What somebody else changed").inner_text()
    assert '"canary": null' in difference
    assert '"version": "3"' in difference
    assert (newest["stable"]["version"], newest["author"]) == ("2", "eve")
    # From the newest revision there is no canary to promote; another change works.
    console.page.get_by_role("button", name=f"Continue from revision {newest['revision']}").click()
    console.page.get_by_label("Change", exact=True).select_option("stable")
    console.page.get_by_label("Version", exact=True).select_option(f"{MODEL}/4")
    console.sign("Make it live", "the next one")
    wait_until(lambda: roles_of(served, "live") == ["4", "4"])


def test_a_version_shows_its_parity_metrics_and_manifest(console: Console, served: Served) -> None:
    console.open("versions", version=f"{MODEL}/4")
    manifest = json.loads((served.registry / MODEL / "4" / "manifest.json").read_text())
    console.wait_for_text(re.compile("Parity: torch and ONNX Runtime differ by"))
    metrics = console.table(re.compile("Metrics on the test impressions"))
    column = metrics[0].index("pctr (is_click)")
    rows = {row[0]: row[column] for row in metrics[1:]}
    assert float(rows["auc"]) == pytest.approx(manifest["metrics"]["pctr"]["auc"], rel=1e-3)
    assert int(rows["impressions"].replace(",", "")) == pytest.approx(
        manifest["metrics"]["pctr"]["impressions"], rel=1e-3
    )


def test_a_version_that_is_refused_says_why(console: Console, served: Served) -> None:
    begin(served)
    broken = served.registry / MODEL / "9"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    console.open("versions")
    console.page.get_by_role("link", name=f"{MODEL}/2", exact=True).wait_for()
    problem = console.column("Published versions", "Architecture")[f"{MODEL}/9"]
    (broken / "manifest.json").unlink()
    broken.rmdir()
    assert "manifest.json" in problem
