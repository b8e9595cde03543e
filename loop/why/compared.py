"""Reads one of the two requests that are compared: its record, version, formula, rules and rows."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from features.layouts import Layouts
from loop.errors import LogError
from loop.proof.again import LoggedRequest, check_rows, is_whole, logged_request, open_bundle
from loop.proof.records import Exposure, layouts_of, pages_of
from loop.proof.rules import logged_rules, longest_list, rules_of_revision
from service.bundle.loading import PER_CANDIDATE, Bundle
from service.fusion.profiles import Profile
from service.rules.definition.rule_sets import RuleSets


@dataclass(frozen=True, eq=False)
class ComparedRequest:
    """One request: what ranked it and what it was ranked from, with its pages joined to one list of `length` items.

    `rules` is the document that arranged the list and `rules_list` the name of its list; None without rules.
    `reads_shown`: whether they read what the user had been shown.
    """

    exposure: Exposure
    returned: list[str]
    length: int
    layouts: Layouts
    bundle: Bundle
    profile: Profile
    rules: RuleSets | None
    rules_list: str | None
    reads_shown: bool
    request: LoggedRequest
    notes: list[str]

    @property
    def request_id(self) -> str:
        return str(self.exposure["request_id"])

    def place_in_log(self, item: str) -> int | None:
        """The place from 1 at which the item was returned; None if it was not."""
        return self.returned.index(item) + 1 if item in self.returned else None

    def only(self, item_ids: Collection[str]) -> "ComparedRequest":
        """This side with some of its candidates, in the order of the request."""
        request = self.request
        places = [place for place, item in enumerate(request.item_ids) if item in item_ids]
        inputs = {name: v[places] if name in PER_CANDIDATE else v for name, v in request.inputs.items()}
        sources = request.sources and [request.sources[place] for place in places]
        kept_items = [request.item_ids[place] for place in places]
        return replace(self, request=replace(request, item_ids=kept_items, inputs=inputs, sources=sources))


def read_side(log: Path, registry: Path, request_id: str, threads: int) -> ComparedRequest:
    """Read one request. Raises LogError, BundleRejected and RulesError."""
    pages = pages_of(log, request_id)
    first = pages[0]
    if first["ranked_before"]:
        raise LogError(f"the log has a later page of '{request_id}' alone; its first page has another request id")
    layouts = layouts_of(log, first["schema"])
    bundle = open_bundle(registry, first["model"], first["version"], threads)
    # The rules of then; `logged_rules` refuses a list that the revision does not have.
    chosen = logged_rules(first, registry, bundle)
    rules = None if chosen is None else rules_of_revision(chosen.revision, registry)
    returned = [item for page in pages for item in page["item_ids"][: page["returned"]]]
    length = longest_list(first) if len(pages) == 1 else len(returned)
    notes = [f"{request_id}: {note}" for note in _notes(first)]
    return ComparedRequest(
        first,
        returned,
        length,
        layouts,
        bundle,
        Profile.model_validate_json(first["fusion"]),
        rules,
        first["rules_list"],
        chosen is not None and chosen.bound.exposure_days > 0,
        logged_request(first, layouts),
        notes,
    )


def check_comparable(first: ComparedRequest, second: ComparedRequest) -> None:
    """Raise LogError if two requests cannot be compared, whatever the item."""
    one = first.exposure
    other = second.exposure
    if one["request_id"] == other["request_id"]:
        raise LogError(f"both requests are '{one['request_id']}'; name two")
    if one["user_id"] != other["user_id"]:
        users = f"'{first.request_id}' is of user {one['user_id']}, '{second.request_id}' of user {other['user_id']}"
        raise LogError(f"{users}: places are compared between requests of one user")
    # Each version ranks the rows of both requests.
    check_rows(first.bundle, second.layouts, other)
    check_rows(second.bundle, first.layouts, one)


def check_item(side: ComparedRequest, item: str) -> None:
    """Raise LogError if the item is not among the candidates of a side."""
    if item in side.request.item_ids:
        return
    count = len(side.request.item_ids)
    requested = int(side.exposure["requested"])
    if is_whole(side.exposure):
        raise LogError(f"'{item}' is not among the {count} candidates of '{side.request_id}'")
    raise LogError(
        f"'{item}' is not among the {count} of {requested} candidates that the log has of '{side.request_id}'; with "
        "FUNNELRANK_EXPOSURE_CUT=true it has all of them"
    )


def with_equal_candidates(
    first: ComparedRequest, second: ComparedRequest, common: bool
) -> tuple[ComparedRequest, ComparedRequest]:
    """Return both sides with equal candidates: as they are or, with `common`, those of both requests.

    Raises LogError without `common` if the requests, or what the log has of them, have different candidates.
    """
    one = set(first.request.item_ids)
    other = set(second.request.item_ids)
    whole = is_whole(first.exposure) and is_whole(second.exposure)
    if one == other and whole:
        return first, second
    if not common:
        ways = f"{len(one - other)} only in '{first.request_id}', {len(other - one)} only in '{second.request_id}'"
        part = "" if whole else "; the log lacks those beyond `top_k` (FUNNELRANK_EXPOSURE_CUT)"
        raise LogError(f"the requests have different candidates: {ways}{part}. --common compares the places among both")
    return first.only(one & other), second.only(one & other)


def notes_on_shown(first: ComparedRequest, second: ComparedRequest) -> list[str]:
    """A note for each request whose record does not have what the user had been shown, if rules of either read it."""
    reading = [each.request_id for each in (first, second) if each.reads_shown]
    lacking = [each.request_id for each in (first, second) if each.exposure["shown"] is None]
    if not reading:
        return []
    readers = " and ".join(reading)
    absent = f"the record does not have what the user had been shown, which the rules of {readers} read"
    return [f"{name}: {absent}: they take it that nothing was" for name in lacking]


def _notes(exposure: Exposure) -> list[str]:
    """What a reader must know of a record."""
    notes = []
    if "brownout:2" in exposure["degraded"]:
        notes.append("a brown-out ranked it in two passes; it is compared as the full model ranks it")
    if "brownout:3" in exposure["degraded"]:
        notes.append("a brown-out ranked it by the small version alone; it is compared as the full model ranks it")
    if any(reason.startswith("model_failed") for reason in exposure["degraded"]):
        notes.append("the model failed; it is compared as the model ranks it")
    return notes
