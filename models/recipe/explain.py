"""Explains pydantic's errors in a recipe: the place, the dotted path, the problem, and the nearest valid name."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from features import SchemaError
from features.files.strict_yaml import Location
from features.model_types import TAGS, keys_at, values_at
from features.nearest import nearest
from models.errors import Fault, RecipeError
from models.recipe.places import Places
from models.recipe.sections.selection import PATTERN as SELECTION


def faults_of(errors: Collection[ErrorDetails], model: type[BaseModel], places: Places) -> Iterator[Fault]:
    """Yield one fault per error of pydantic, with its place."""
    reported: set[Location] = set()
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # it is too short only because its elements were refused
        fault = _fault(error, model)
        if not isinstance(error.get("ctx", {}).get("error"), RecipeError | SchemaError):
            fault = Fault(_with_path(places, fault.location, fault.message), fault.location)
        elif error["loc"]:
            fault = Fault(_with_path(places, tuple(error["loc"]), fault.message), fault.location, fault.name)
        known = places.known(fault.location)
        if error["type"] == "string_type":
            fault = replace(fault, message=fault.message + _advice_on(places.scalars.get(known), error["input"]))
        # A union has one error per member; the first says enough.
        if known not in reported:
            yield fault.at(places.place_of_fault(fault))
        if known in places.scalars:
            reported.add(known)


def _advice_on(text: str | None, value: object) -> str:
    """How to write a text that YAML takes for something else, such as `no` or `2022-05-01`; empty if it does not."""
    return f"; write '{text}'" if text is not None and text != value and text != "null" else ""


def _with_path(places: Places, location: Location, problem: str) -> str:
    """`section.key: problem`; the last key is named even if the recipe lacks it, because it may be the missing one."""
    known = places.known(location[:-1])
    last = location[-1:]
    if known in places.scalars or any(places.scalars.get((*known, tag)) == str(last[0]) for tag in TAGS if last):
        last = ()  # the tag of a union, which the recipe does not have as a key
    path = ".".join(map(str, (*known, *last)))
    return f"{path}: {problem}" if path else problem


def _fault(error: ErrorDetails, model: type[BaseModel]) -> Fault:
    """Return the problem and the location of one error."""
    location: Location = tuple(error["loc"])
    value = error["input"]
    context: Mapping[str, Any] = error.get("ctx", {})
    # Errors that pydantic finds by the types of the fields.
    match error["type"]:
        case "extra_forbidden":
            known = keys_at(model, location[:-1])
            return Fault(f"'{location[-1]}' is not an option here{nearest(location[-1], known)}", location)
        case "missing":
            return Fault("is missing", location)
        case "union_tag_invalid":
            problem = f"'{context['tag']}' is unknown{nearest(context['tag'], values_at(model, location))}"
            # Pydantic gives the location of the section, but its tag is at fault.
            tag = context["discriminator"].strip("'")
            return Fault(problem, (*location, tag))
        case "union_tag_not_found":
            return Fault(f"lacks the key {context['discriminator']}, which says what it is", location)
        case "literal_error":
            return Fault(f"'{value}' is unknown{nearest(value, values_at(model, location))}", location)
    # Errors that a validator of the recipe or of the feature schema raises.
    cause = context.get("error")
    if isinstance(cause, RecipeError):
        first = cause.faults[0]
        return Fault(first.message, (*location, *first.location), first.name)
    if isinstance(cause, SchemaError):
        problem = cause.problem
        if cause.known:
            problem += nearest(cause.name, cause.known)
        return Fault(problem, (*location, *cause.location), cause.name)
    message = _words_of(error, keys_at(model, location))
    if isinstance(value, str | int | float | date) and error["type"] != "value_error":
        message += f", found {value if isinstance(value, date) else repr(value)}"
    return Fault(message, location)


def _words_of(error: ErrorDetails, keys: Collection[str]) -> str:
    """Say what is allowed, in the words of YAML; in pydantic's words where these need no knowledge of Python."""
    match error["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"a section is needed, with keys out of: {', '.join(keys)}" if keys else "a section is needed"
        case "tuple_type" | "list_type":
            return "a list is needed, as in [a, b]"
        case "string_type":
            return "a text is needed"
        case "string_pattern_mismatch" if error["ctx"]["pattern"] == SELECTION:
            metrics = "auc(pctr), gauc(pctr), mrr(pctr), ndcg@10(pctr), recall@10(pctr) or gain_ndcg@10(pctr)"
            return f"an output is needed, or a metric of one: {metrics}"
        case "too_short":
            return f"at least {error['ctx']['min_length']} needed"
    return error["msg"].removeprefix("Value error, ")
