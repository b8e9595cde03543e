"""Tests why a place changed, over a log of real rankings between which one factor after another was changed."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from rules_service import ids

from funnelrank.main import main
from loop.errors import LogError
from loop.why.differences import differences
from loop.why.report import lines
from loop.why.why import Factor, PlaceChange, why

# The pairs of requests between which one factor alone was changed (and the time, which the graph does not read).
PLANTED = {
    ("dearer", "second"): Factor.VERSION,
    ("plain", "weighted"): Factor.WEIGHTS_AND_RULES,
    ("second", "mixed"): Factor.WEIGHTS_AND_RULES,
    ("free", "pinned"): Factor.WEIGHTS_AND_RULES,
    ("later", "dearer"): Factor.FEATURES,
    ("plain", "later"): Factor.BEHAVIOURS,
}


def explained(served: SimpleNamespace, item: str, first: str, second: str, **options: Any) -> PlaceChange:
    return why(served.log, served.registry, item, first, second, **options)


def most_moved(served: SimpleNamespace, first: str, second: str) -> str:
    """The item whose place among the returned ones changed most between two answers."""
    one = ids(served.answers[first][0])
    other = ids(served.answers[second][0])
    return max((item for item in one if item in other), key=lambda item: abs(one.index(item) - other.index(item)))


@pytest.mark.parametrize(("first", "second"), PLANTED)
def test_the_factor_that_was_changed_has_the_whole_share(changing: SimpleNamespace, first: str, second: str) -> None:
    item = most_moved(changing, first, second)
    change = explained(changing, item, first, second)
    places = [ids(changing.answers[name][0]).index(item) + 1 for name in (first, second)]
    assert places[0] != places[1]
    assert [change.before, change.after] == places
    assert change.shares == {f: places[1] - places[0] if f == PLANTED[first, second] else 0 for f in Factor}
    assert change.notes == []


@pytest.mark.parametrize("item", ["0", "7", "11", "20"])
def test_the_shares_of_all_factors_sum_to_the_change(changing: SimpleNamespace, item: str) -> None:
    """All four factors differ, and the shares are those of the difference whatever the item."""
    change = explained(changing, item, "plain", "mixed")
    assert len(change.places) == 16
    assert sum(change.shares.values()) == change.after - change.before
    assert change.notes == []
    back = explained(changing, item, "mixed", "plain")
    assert back.shares == {factor: -share for factor, share in change.shares.items()}
    assert all(differences(change).values())


def test_what_differs_is_named(changing: SimpleNamespace) -> None:
    named = differences(explained(changing, "4", "plain", "mixed"))
    assert named[Factor.VERSION] == ["synthetic/1 -> synthetic/2"]
    assert named[Factor.WEIGHTS_AND_RULES] == ["weight of pctr 3.5 -> 1", "weight of pctcvr none -> 0.5"]
    assert named[Factor.FEATURES] == ["item.price", "the rows of 11 other candidates"]
    assert named[Factor.BEHAVIOURS][0] == "2 -> 3 behaviours, 1 new, 0 no longer among them"
    named = differences(explained(changing, "4", "free", "pinned"))
    assert named[Factor.WEIGHTS_AND_RULES] == ["rules none -> 'shop' of revision 1"]
    assert named[Factor.VERSION] == named[Factor.FEATURES] == []


def test_a_place_that_was_not_returned_is_counted_behind_the_list(changing: SimpleNamespace) -> None:
    pinned = ids(changing.answers["pinned"][0])[0]
    change = explained(changing, pinned, "free", "pinned")
    assert change.before > 10
    assert change.after == 1
    assert "(not returned)" in lines(change)[0]


def test_the_pages_of_a_list_are_one_list(changing: SimpleNamespace) -> None:
    pages = [item for body in changing.answers["paged"] for item in ids(body)]
    change = explained(changing, pages[11], "pinned", "paged")
    assert change.after == 12
    (note,) = change.notes
    assert note.startswith("pinned: the record does not have what the user had been shown, which the rules of paged")


def test_the_command_prints_a_table_or_a_document(
    changing: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["why", "7", "plain", "mixed", "--log", str(changing.log), "--registry", str(changing.registry)]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in shown[1:]] == [
        "factor",
        "version",
        "weights and rules",
        "features",
        "behaviours",
        "change",
    ]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(document["shares"].values()) == pytest.approx(document["change"], abs=1e-9)
    assert len(document["places"]) == 16
    assert [each["request_id"] for each in document["requests"]] == ["plain", "mixed"]


@pytest.mark.parametrize(
    ("item", "second", "message"),
    [
        ("99", "weighted", "'99' is not among the 24 candidates of 'plain'"),
        ("0", "fewer", "'0' is not among the 22 candidates of 'fewer'"),
        ("4", "fewer", r"different candidates: 2 only in 'plain', 0 only in 'fewer'\. --common"),
        ("4", "other", "'plain' is of user u1, 'other' of user u2"),
        ("4", "plain", "both requests are 'plain'; name two"),
        ("4", "none", "no exposure of the request 'none'"),
    ],
)
def test_requests_that_cannot_be_compared_are_refused(
    changing: SimpleNamespace, item: str, second: str, message: str
) -> None:
    with pytest.raises(LogError, match=message):
        explained(changing, item, "plain", second)


def test_common_candidates_are_compared_on_request(changing: SimpleNamespace) -> None:
    change = explained(changing, "4", "plain", "fewer", common=True)
    assert change.candidates == 22
    # Both rank the same candidates of the same user with the same everything.
    assert change.before == change.after
    assert change.notes == ["places are those among the 22 candidates that the log has of both requests"]
