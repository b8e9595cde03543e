"""Checks a request against the version that ranks it, before the store is read."""

from dataclasses import dataclass

from service.clock import now_ms
from service.fusion import Chosen, Formula
from service.ranking.degradation import Degradations
from service.ranking.inputs.assemble import packed_context
from service.ranking.inputs.candidate_features import CandidateValues, own_values
from service.ranking.inputs.completeness import check_context
from service.ranking.query import Query
from service.ranking.second_stage import SecondStage, second_stage
from service.rollout.serving import Live
from service.rules.scenes import ChosenRules, no_list


@dataclass(slots=True, eq=False)
class Checked:
    """A request that was checked against the version that ranks it, before the store is read.

    `context` is a packed row, `moment` the time in milliseconds as of which the candidates are ranked. `degraded` tells
    what the request left out.
    """

    formula: Formula
    chosen: Chosen | None
    context: bytes
    values: CandidateValues
    moment: int
    rules: SecondStage | None
    degraded: Degradations


async def check_request(live: Live, query: Query, page_key: bytes) -> Checked:
    """Check a request against the version that ranks it. Raises InvalidRequest."""
    layouts = live.bundle.layouts
    choice = query.options.choice
    if choice is None or choice.profile is None:
        formula, chosen = live.fusion.for_user(query.options.scene, query.user_id)
    else:
        formula = live.fusion.named(choice.profile)
        chosen = None
    if query.options.weights:
        formula = live.fusion.with_weights(formula, query.options.weights)
    context = layouts.context.default_row
    if query.context:
        context = packed_context(layouts.context, query.context)
    degraded = check_context(layouts.context, query.context)
    moment = query.options.timestamp or now_ms()
    rules = _rules_of(live, query, moment, page_key)
    values = CandidateValues(query.own_features)
    if layouts.candidate.features:
        values = await own_values(layouts, query)
    return Checked(formula, chosen, context, values, moment, rules, degraded)


def _rules_of(live: Live, query: Query, moment: int, page_key: bytes) -> SecondStage | None:
    """Return the second stage of a request; None without rules. Raises InvalidRequest."""
    if live.rules is None and query.options.page is None and query.options.choice is None:
        return None
    return second_stage(_list_of(live, query), query, live.bundle.label, moment, page_key)


def _list_of(live: Live, query: Query) -> ChosenRules | None:
    """Return the rules that a request names, otherwise those of its scene and user. Raises InvalidRequest."""
    choice = query.options.choice
    if choice is None or choice.rules is None:
        return None if live.rules is None else live.rules.for_user(query.options.scene, query.user_id)
    if not choice.rules:
        return None
    if live.rules is None:
        raise no_list(choice.rules, ())
    return live.rules.named(choice.rules)
