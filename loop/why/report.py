"""Writes why a place changed: as a table for people, and as a document for programs."""

from fractions import Fraction
from typing import Any

from loop.why.compared import ComparedRequest
from loop.why.differences import differences
from loop.why.why import Factor, PlaceChange


def document(change: PlaceChange) -> dict[str, Any]:
    """The explanation as JSON: `shares` sum to `change`, a change below 0 is a better place."""
    texts_by_factor = differences(change)
    return {
        "item_id": change.item,
        "user_id": change.first.exposure["user_id"],
        "candidates": change.candidates,
        "requests": [_request(change.first, change.before, change), _request(change.second, change.after, change)],
        "change": change.after - change.before,
        "shares": {factor: float(change.shares[factor]) for factor in Factor},
        "differences": {str(factor): texts for factor, texts in texts_by_factor.items()},
        "places": [
            {"second": [str(factor) for factor in Factor if factor in changed], "place": place}
            for changed, place in change.places.items()
        ],
        "notes": change.notes,
    }


def _request(side: ComparedRequest, place: int, change: PlaceChange) -> dict[str, Any]:
    exposure = side.exposure
    named = ("request_id", "time_ms", "scene", "model", "version", "profile", "fusion_revision", "rules_revision")
    returned_at = side.place_in_log(change.item)
    return {name: exposure[name] for name in named} | {"place": place, "returned_at": returned_at}


def lines(change: PlaceChange) -> list[str]:
    """The explanation as a table."""
    user = change.first.exposure["user_id"]
    delta = change.after - change.before
    before = _placed(change.first, change.before, change.item)
    after = _placed(change.second, change.after, change.item)
    text = [f"item {change.item} of user {user}, {change.candidates} candidates: {before}, {after}"]
    text += change.notes
    text.append(f"{'factor':<20} {'share':>8}  what differs")
    for factor, texts in differences(change).items():
        difference = "; ".join(texts) or "nothing"
        text.append(f"{factor.replace('_', ' '):<20} {_signed(change.shares[factor]):>8}  {difference}")
    verdict = "no other place" if not delta else "a better place" if delta < 0 else "a worse place"
    text.append(f"{'change':<20} {_signed(Fraction(delta)):>8}  {verdict}")
    return text


def _placed(side: ComparedRequest, place: int, item: str) -> str:
    logged = side.place_in_log(item)
    remark = "" if logged is not None else " (not returned)"
    return f"place {place} in {side.request_id}{remark}"


def _signed(share: Fraction) -> str:
    """A share with its sign, and two decimals where it is no whole number; 0 without a sign."""
    if not share:
        return "0"
    return f"{int(share):+d}" if share.denominator == 1 else f"{float(share):+.2f}"
