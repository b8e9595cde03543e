"""Tests the page that tries a ranking, in a browser: the answer of the service, explained, moved, compared, linked."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from running_service import wait_until

from tests.console.pages import REQUEST, Console, counted
from tests.console.served import MODEL, SAMPLE, Served

pytestmark = pytest.mark.tools
TABLE = re.compile("Ranking of")


def ranked(served: Served, **more: Any) -> list[Any]:
    body = {name: REQUEST[name] for name in ("user_id", "candidates", "scene", "context", "timestamp")}
    answer = served.server.http.post("/rank", json=body | {"explain": True} | more, headers=served.headers("read"))
    ranking: list[Any] = answer.json()["ranking"]
    return ranking


def rankings(served: Served) -> int:
    """The number of rankings of both workers, once it has stayed the same for longer than workers take to tell it."""
    counts = [-1]

    def is_settled() -> bool:
        time.sleep(1.5)
        counts.append(counted(served.server.http.get("/metrics").text, "funnelrank_rankings_total"))
        return counts[-1] == counts[-2]

    wait_until(is_settled)
    return counts[-1]


def ids(console: Console) -> list[str]:
    return [row[1] for row in console.table(TABLE)[1:]]


def test_the_ranking_is_the_services_and_a_link_shows_it_again(console: Console, served: Served) -> None:
    console.open_ranking()
    expected = ranked(served)
    assert ids(console) == [item["item_id"] for item in expected]
    first = dict(zip(*console.table(TABLE)[:2], strict=True))
    assert float(first["Score"]) == pytest.approx(expected[0]["score"], rel=1e-3)
    for task, score in expected[0]["predictions"].items():
        assert float(first[task]) == pytest.approx(score, rel=1e-3)
    link = console.page.url
    console.page.goto("about:blank")
    console.page.goto(link)
    assert ids(console) == [item["item_id"] for item in expected]


def test_an_item_says_why_it_is_where_it_is(console: Console, served: Served) -> None:
    console.open_ranking()
    expected = ranked(served)
    item, above = expected[30], expected[29]
    console.page.get_by_label("Why is this item where it is?").fill(item["item_id"])
    why = console.page.get_by_role("region", name=f"Item {item['item_id']}", exact=True)
    assert f"Item {item['item_id']} is at place 31 of 40" in why.inner_text()
    assert f"{above['item_id']} above it has" in why.inner_text()
    parts = console.column("What makes its score", "Part")
    for name, part in item["explain"].items():
        assert float(parts[name]) == pytest.approx(part["part"], rel=1e-3)
    console.page.get_by_label("Why is this item where it is?").fill("no-such-item")
    console.wait_for_text("no-such-item is not in this ranking")


def test_moved_weights_move_the_ranking_and_nothing_else(console: Console, served: Served) -> None:
    console.open_ranking()
    before = ids(console)
    console.page.get_by_label(re.compile("^pctcvr")).fill("0")
    expected = [item["item_id"] for item in ranked(served, fusion={"weights": {"pctcvr": 0}})]
    assert expected != before
    wait_until(lambda: ids(console) == expected)
    beside = console.column(TABLE, "Beside")
    assert beside["1"].split() == [str(before.index(expected[0]) + 1), "▲", str(before.index(expected[0]))]
    assert served.get("/fusion")["profiles"]["home"]["weights"]["pctcvr"] == 10.0
    console.page.get_by_role("button", name="Back to the document's weights").click()
    wait_until(lambda: ids(console) == before)


def test_another_scene_is_ranked_beside_it(console: Console, served: Served) -> None:
    console.open_ranking()
    console.page.get_by_label("Compare with the scene").select_option("long_video")
    other = [item["item_id"] for item in ranked(served, scene="long_video")]
    wait_until(lambda: "Beside" in console.table(TABLE)[0])
    places = [int(row[-1].split()[0]) for row in console.table(TABLE)[1:]]
    assert places == [other.index(item) + 1 for item in ids(console)]
    common = len(set(other[:10]) & set(ids(console)[:10]))
    console.wait_for_text(f"Of the first 10, {common * 10} % are the same")


def test_another_version_ranks_the_same_request_beside_it(console: Console, served: Served) -> None:
    console.open_ranking()
    n = rankings(served)
    for version in ("2", "3"):
        console.page.get_by_label("Compare with the version").select_option(f"{MODEL}/{version}")
        console.wait_for_text(f"{MODEL}/{version} (")
        console.wait_for_text("Of the first 10, 100 % are the same")
        assert all(row[-1].endswith("same") for row in console.table(TABLE)[1:])
    link = console.page.url
    console.page.goto("about:blank")
    console.page.goto(link)
    console.wait_for_text(f"{MODEL}/3 (canary)")
    # The link ranked once more; three previews are not counted.
    assert rankings(served) == n + 1


@pytest.fixture
def unused(served: Served) -> Iterator[None]:
    """A profile, and a list of rules that blocks the first candidate, which no scene uses."""
    document = yaml.safe_load((SAMPLE / "fusion.yaml").read_text())
    del document["revision"]
    profiles = document["profiles"] | {"likes": {"kind": "weighted_sum", "weights": {"pcvr": 1.0}}}
    block = {"type": "block", "item_ids": REQUEST["candidates"][:1]}
    hold(served, "fusion", document | {"profiles": profiles})
    hold(served, "rules", {"rules": {"default": [], "block_one": [block]}})
    yield
    hold(served, "rules", {"rules": {}})
    hold(served, "fusion", document)


def hold(served: Served, name: str, document: dict[str, Any]) -> None:
    """Write a document, and wait until both workers rank by it."""
    revision = served.change("PUT", f"/{name}", document | {"author": "ann", "reason": "to begin with"})["revision"]
    field = f"{name}_revision"
    wait_until(lambda: [worker[field] for worker in served.get("/models")["workers"]] == [revision] * 2)


def test_profiles_and_rules_that_no_scene_uses_are_compared(console: Console, served: Served, unused: None) -> None:
    first = REQUEST["candidates"][0]
    console.open_ranking()
    own = [item["item_id"] for item in ranked(served)]
    by_likes = [item["item_id"] for item in ranked(served, fusion={"weights": {"pctr": 0, "pctcvr": 0, "pcvr": 1}})]
    assert by_likes != own
    n = counted(served.server.http.get("/metrics").text, "funnelrank_rankings_total")
    # The profile beside the scene's own.
    console.page.get_by_label("Compare with the profile").select_option("likes")
    console.wait_for_text("profile likes, revision")
    places = [int(row[-1].split()[0]) for row in console.table(TABLE)[1:]]
    assert (ids(console), places) == (own, [by_likes.index(item) + 1 for item in own])
    # The profile itself, with its rules beside none, whatever the user's and the scene's own are.
    console.page.get_by_label("Rank by the profile").select_option("likes")
    wait_until(lambda: ids(console) == by_likes)
    console.page.get_by_label("Rank by the rules").select_option("-")
    console.page.get_by_label("Compare with the rules").select_option("block_one")
    console.wait_for_text("rules block_one, revision")
    beside = {row[1]: row[-1] for row in console.table(TABLE)[1:]}
    assert [item for item, text in beside.items() if text == "not there"] == [first]
    # The address has all of it.
    link = console.page.url
    console.page.goto("about:blank")
    console.page.goto(link)
    console.wait_for_text("rules block_one, revision")
    assert ids(console) == by_likes
    # None of these, seven at least, counted as traffic. Both workers publish their counts now and then, so that the
    # three rankings before the first look may be counted late.
    assert counted(served.server.http.get("/metrics").text, "funnelrank_rankings_total") - n <= 3


def test_the_users_behaviours_are_decoded(console: Console) -> None:
    console.open_ranking()
    rows = console.table("Behaviours, newest first")
    assert rows[0][:3] == ["When", "Action", "Scene"]
    assert len(rows) > 2


def test_bad_input_is_named(console: Console) -> None:
    console.open_ranking(more="{tab: 1}")
    console.wait_for_text("This is not JSON")
    console.page.get_by_label("Further fields (JSON)").fill('{"top_k": 0}')
    console.page.get_by_role("button", name="Rank", exact=True).click()
    console.page.get_by_role("alert").filter(has_text="top_k").wait_for()


def test_a_logged_request_is_filled_in(console: Console) -> None:
    console.open("try")
    console.page.get_by_text("Take a logged request").click()
    body = '{"user_id": "12708", "candidates": ["3652", {"item_id": "7098"}], "scene": "home", "explain": false}'
    console.page.get_by_label("Body of a request").fill(body)
    console.page.get_by_role("button", name="Fill in").click()
    console.page.get_by_role("button", name="Rank", exact=True).click()
    assert sorted(ids(console)) == ["3652", "7098"]
