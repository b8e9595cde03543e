"""Describes in words what differs between two requests, factor by factor."""

from collections.abc import Iterator

import numpy as np

from features import RowLayout
from features.layouts import COUNTER_INPUT
from features.schemas.schema import Feature
from loop.join.served import ServedRows
from loop.why.compared import ComparedRequest
from loop.why.why import Factor, PlaceChange

_MOST_NAMES = 6


def differences(change: PlaceChange) -> dict[str, list[str]]:
    """What differs, by factor; nothing for a factor that is equal in both requests."""
    first = change.first
    second = change.second
    return {
        Factor.VERSION: list(_of_version(first, second)),
        Factor.WEIGHTS_AND_RULES: list(_of_weights_and_rules(first, second)),
        Factor.FEATURES: list(_of_features(first, second, change.item)),
        Factor.BEHAVIOURS: list(_of_behaviours(first, second)),
    }


def _of_version(first: ComparedRequest, second: ComparedRequest) -> Iterator[str]:
    if first.bundle.label != second.bundle.label:
        yield f"{first.bundle.label} -> {second.bundle.label}"
    if first.exposure["chunk"] != second.exposure["chunk"]:
        yield f"chunks of {first.exposure['chunk']} -> {second.exposure['chunk']}"


def _of_weights_and_rules(first: ComparedRequest, second: ComparedRequest) -> Iterator[str]:
    one = first.exposure
    other = second.exposure
    if one["profile"] != other["profile"]:
        yield f"profile {one['profile']} -> {other['profile']}"
    elif one["fusion_revision"] != other["fusion_revision"]:
        yield f"revision {one['fusion_revision']} -> {other['fusion_revision']} of the profiles"
    weights = first.profile.weights
    second_weights = second.profile.weights
    for name in dict.fromkeys((*weights, *second_weights)):
        if weights.get(name) != second_weights.get(name):
            yield f"weight of {name} {_number(weights.get(name))} -> {_number(second_weights.get(name))}"
    if first.profile.formula != second.profile.formula:
        yield f"formula {first.profile.formula} -> {second.profile.formula}"
    if _rules(first) != _rules(second):
        yield f"rules {_rules(first)} -> {_rules(second)}"
    if first.length != second.length:
        yield f"a list of at most {first.length} -> {second.length}"


def _rules(side: ComparedRequest) -> str:
    return "none" if side.rules is None else f"'{side.rules_list}' of revision {side.rules.revision}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _of_features(first: ComparedRequest, second: ComparedRequest, item: str) -> Iterator[str]:
    layouts = first.layouts
    groups = (("user", layouts.user), ("context", layouts.context))
    for entity, layout in groups:
        yield from _named(entity, _changed(first, second, entity, layout, [0], [0]))
    # Rows per candidate: those of the item by feature, all others by their number.
    one = first.request.item_ids
    other = second.request.item_ids
    place_of = {name: place for place, name in enumerate(other)}
    places = [place_of[name] for name in one]
    index = one.index(item)
    for entity, layout in (("item", layouts.item), ("candidate", layouts.candidate)):
        yield from _named(entity, _changed(first, second, entity, layout, [index], [places[index]]))
    count = sum(_differ(first, second, here, there) for here, there in enumerate(places) if here != index)
    if count:
        yield f"the rows of {count} other candidates"
    if COUNTER_INPUT in first.request.inputs:
        numbers = [side.request.inputs[COUNTER_INPUT] for side in (first, second)]
        equal = (numbers[0] == numbers[1][places]) | (np.isnan(numbers[0]) & np.isnan(numbers[1][places]))
        rows = int(np.count_nonzero(~equal.all(axis=1)))
        if rows:
            yield f"the counters of {rows} candidates"
    if list(one) != list(other):
        yield "the order of the candidates"
    if first.request.sources != second.request.sources:
        yield "the sources of the candidates"


def _changed(
    first: ComparedRequest, second: ComparedRequest, entity: str, layout: RowLayout, here: list[int], there: list[int]
) -> Iterator[str]:
    """The names of an entity's features whose values differ, in one row of each side."""
    one = _rows(first, entity, layout, here)
    other = _rows(second, entity, layout, there)
    for feature in layout.features:
        if _value(one, feature) != _value(other, feature):
            yield feature.name


def _rows(side: ComparedRequest, entity: str, layout: RowLayout, places: list[int]) -> ServedRows:
    inputs = side.request.inputs
    return ServedRows(layout, inputs[f"{entity}_keys"][places], inputs[f"{entity}_numerics"][places])


def _value(rows: ServedRows, feature: Feature) -> bytes:
    return np.asarray(rows.values(feature)).tobytes()


def _named(entity: str, names: Iterator[str]) -> Iterator[str]:
    every = [f"{entity}.{name}" for name in names]
    if every:
        more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
        yield ", ".join(every[:_MOST_NAMES]) + more


def _differ(first: ComparedRequest, second: ComparedRequest, here: int, there: int) -> bool:
    """Whether the rows of a candidate differ in any bit."""
    names = ("item_keys", "item_numerics", "candidate_keys", "candidate_numerics")
    one = first.request.inputs
    other = second.request.inputs
    return any(one[name][here].tobytes() != other[name][there].tobytes() for name in names)


def _of_behaviours(first: ComparedRequest, second: ComparedRequest) -> Iterator[str]:
    one = _behaviours(first)
    other = _behaviours(second)
    if one != other:
        new = len(set(other) - set(one))
        lost = len(set(one) - set(other))
        yield f"{len(one)} -> {len(other)} behaviours, {new} new, {lost} no longer among them"
    if first.exposure["shown"] != second.exposure["shown"]:
        yield "the items that the user had been shown"
    seconds = (second.exposure["time_ms"] - first.exposure["time_ms"]) / 1000
    if seconds:
        decimals = 1 if abs(seconds) < 10 else 0
        yield f"asked {abs(seconds):,.{decimals}f} s {'later' if seconds > 0 else 'earlier'}"


def _behaviours(side: ComparedRequest) -> list[bytes]:
    inputs = side.request.inputs
    if "behaviour_times" not in inputs:
        return []
    names = ("behaviour_times", "behaviour_keys", "behaviour_numerics")
    count = len(inputs["behaviour_times"])
    return [b"".join(inputs[name][place].tobytes() for name in names) for place in range(count)]
