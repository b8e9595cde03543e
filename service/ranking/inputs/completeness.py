"""Finds what is missing for a ranking: features that the request or the store does not give, scores that the model
lacks.
"""

from collections.abc import Mapping

from features import RowLayout
from features.layouts import Layouts
from service.bundle.loading import Bundle
from service.errors import invalid
from service.ranking.degradation import Degradation, Degradations, Reason
from service.ranking.inputs.assemble import Assembled
from service.ranking.inputs.candidate_features import CandidateValues, FeaturesByPlace
from service.rules.bound import BoundRules
from service.store.base import StoredRows
from service.store.item_rows import KNOWN, ItemRows

_REQUIRED = "a value is required"


def check_context(layout: RowLayout, context: Mapping[str, object]) -> Degradations:
    """Return the context features that a request does not give. Raises InvalidRequest if one of them is required."""
    missing = len(layout.features) - len(context)
    if not missing:
        return ()
    for feature in layout.features:
        if feature.required and feature.name not in context:
            raise invalid(f"context.{feature.name}", _REQUIRED)
    return (Degradation(Reason.MISSING_CONTEXT, missing),)


def check_own_features(
    bundle: Bundle, rules: BoundRules | None, stored: StoredRows | None, values: CandidateValues
) -> Degradations:
    """Count the features that a candidate lacks: its own ones, and those of an item with given features and no stored
    row.

    Features that neither the model nor the request's rules read are not counted. Raises InvalidRequest if such a
    feature of the item is required.
    """
    layouts = bundle.layouts
    missing = set(values.missing)
    if stored is not None and values.own_items:
        missing |= _missing_of_items(layouts, stored.items, values.own_items)
    missing -= bundle.unread_features if rules is None else bundle.unread_features - rules.features
    return (Degradation(Reason.MISSING_FEATURES, len(missing)),) if missing else ()


def _missing_of_items(layouts: Layouts, items: ItemRows, features: FeaturesByPlace) -> set[str]:
    names = {feature.name for feature in layouts.item.features} - {layouts.schema.item_id_feature}
    required = {feature.name for feature in layouts.item.features if feature.required}
    missing: set[str] = set()
    states = items.states.tolist()
    for place, values in features.items():
        if states[place] == KNOWN:
            continue
        left_out = names - values.keys()
        if left_out & required:
            name = min(left_out & required)
            raise invalid(f"candidates[{place}].features.{name}", f"{_REQUIRED}, and the item has no stored row")
        missing |= left_out
    return missing


def of_rows(stored: StoredRows | None, assembled: Assembled) -> Degradations:
    """Return the degradations for rows of the user or of items that the store does not have."""
    if stored is None:
        return ()
    degraded: Degradations = ()
    if assembled.unknown_user:
        degraded = (Degradation(Reason.UNKNOWN_USER),)
    if assembled.unknown_items:
        degraded += (Degradation(Reason.UNKNOWN_ITEMS, assembled.unknown_items),)
    return degraded


def of_scores(candidates: int, scored: int, failed: bool) -> Degradations:
    """Return the degradations for candidates that the model did not score."""
    if failed or not scored:
        return (Degradation(Reason.MODEL_FAILED),)
    if scored == candidates:
        return ()
    return (Degradation(Reason.UNSCORED_ITEMS, candidates - scored),)
