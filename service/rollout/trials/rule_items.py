"""Looks for item ids of rules that the store does not have: such a rule does nothing."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice

from service.rules.definition.rule_sets import RuleSets
from service.store.base import StoreDown
from service.store.opening import items_without_row

log = logging.getLogger("funnelrank.live")
MOST_CHECKED = 1000
NOT_CHECKED = "the item ids of the rules were not checked, because the store does not answer"
_MOST_SHOWN = 20


def item_warnings(rule_sets: RuleSets, fingerprints: Iterable[str], store_url: str) -> list[str]:
    """Return and log a warning for each of the first 1000 listed items that has no row under any of the schemas
    `fingerprints`, with the nearest id that has.

    They are no reason to refuse rules, because an item may be listed before it is loaded.
    """
    warnings = list(missing_items(rule_sets, fingerprints, store_url))
    for warning in warnings:
        log.warning("%s", warning)
    return warnings


def missing_items(rule_sets: RuleSets, fingerprints: Iterable[str], store_url: str) -> Iterator[str]:
    """The warnings of `item_warnings`, which are not logged."""
    fields = rule_sets.listed_items()
    checked = list(islice(fields, MOST_CHECKED))
    nearest: dict[str, str] = dict.fromkeys(checked, "")
    try:
        # Lines may have different schemas: an item has to be there under one of them.
        for fingerprint in dict.fromkeys(fingerprints):
            if nearest:
                near = items_without_row(store_url, fingerprint, list(nearest))
                nearest = {item_id: nearest[item_id] or near[item_id] for item_id in near}
    except StoreDown:
        yield NOT_CHECKED
        return
    for item_id, known in islice(nearest.items(), _MOST_SHOWN):
        advice = f"; did you mean '{known}'?" if known else ""
        yield f"{fields[item_id]}: the store has no item '{item_id}'{advice}"
    if len(nearest) > _MOST_SHOWN:
        yield f"the store lacks {len(nearest) - _MOST_SHOWN:,} more items that the rules list"
    if len(fields) > MOST_CHECKED:
        yield f"only the first {MOST_CHECKED:,} of {len(fields):,} listed items were looked for in the store"
