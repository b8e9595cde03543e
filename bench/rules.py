"""Measures the second stage: rules over 200 candidates, with and without, in CPU milliseconds of this process."""

import asyncio
import time
from typing import Any

import numpy as np

from bench.results.targets import Verdict
from features import FeatureSchema, RowLayout
from service.ranking.query import Query, RankingOptions
from service.ranking.second_stage import second_stage
from service.rules.candidates import CandidateList
from service.rules.definition.rule_sets import RuleSets
from service.rules.pages import page_key
from service.rules.scenes import SceneRules, bind_scenes
from service.store.shown import Exposures, shown_key

_CANDIDATES = 200
_TOP_K = 50
_TIMES = 500
_NOW_MS = 1_700_000_000_000
_SCHEMA = FeatureSchema.model_validate(
    {
        "item": [
            {"name": "author", "type": "categorical"},
            {"name": "topic", "type": "categorical"},
            {"name": "price", "type": "numeric"},
        ]
    }
)
_Rules = tuple[dict[str, Any], ...]
FOUR_RULES: _Rules = (
    {"type": "block", "item_ids": ["3"]},
    {"type": "pin", "item_id": "150", "position": 3},
    {"type": "quota", "feature": "author", "at_most": 2, "window": 5},
    {"type": "spread", "feature": "topic", "distance": 2},
)
SEEN: dict[str, Any] = {"type": "seen", "within_days": 7}


def rules_ms() -> dict[str, float]:
    """CPU milliseconds of the second stage for 200 candidates and the first 50 positions, including the next page's
    token.
    """
    return {
        "no rules": asyncio.run(_measured(None)),
        "four rules": asyncio.run(_measured(FOUR_RULES)),
        "seen and three rules": asyncio.run(_measured((SEEN, *FOUR_RULES[1:]))),
    }


def verdicts(costs: dict[str, float]) -> list[Verdict]:
    """The bounds: 0.3 ms with four rules, no time without rules."""
    size = f"C={_CANDIDATES} top {_TOP_K}"
    return [
        Verdict(f"rules: CPU ms of four rules, {size}", costs["four rules"], 0.3, at_least=False),
        Verdict(f"rules: CPU ms without rules, {size}", costs["no rules"], 0.005, at_least=False),
    ]


async def _measured(rules: _Rules | None) -> float:
    layout = RowLayout(_SCHEMA.item)
    scene_rules = None
    if rules is not None:
        scene_rules = bind_scenes(RuleSets.model_validate({"rules": {"default": rules}}), layout, ("pctr",))
    candidates = _candidates(layout)
    query = Query("712", candidates.item_ids, options=RankingOptions(top_k=_TOP_K))
    shown = Exposures(
        np.array([shown_key(str(i)) for i in range(0, 400, 2)]),
        np.full(200, _NOW_MS),
        np.zeros(200, dtype=bool),
    )
    key = page_key("secret")
    started = time.process_time()
    for _ in range(_TIMES):
        await _apply(scene_rules, query, candidates, shown, key)
    return (time.process_time() - started) / _TIMES * 1e3


async def _apply(
    scene_rules: SceneRules | None, query: Query, candidates: CandidateList, shown: Exposures, key: bytes
) -> None:
    """Do what a ranking does after fusion; without rules that is one comparison."""
    if scene_rules is None:
        return
    chosen = scene_rules.for_user(query.options.scene, query.user_id)
    stage = second_stage(chosen, query, "model/1", _NOW_MS, key)
    assert stage is not None
    # A new list, because it remembers its items' keys.
    own = CandidateList(
        candidates.item_ids, candidates.keys, candidates.numerics, candidates.scores, candidates.predictions
    )
    await stage.apply(query, own, shown, _NOW_MS, lambda: None)


def _candidates(layout: RowLayout) -> CandidateList:
    rng = np.random.default_rng(0)
    rows = [
        {"author": f"u{rng.integers(60)}", "topic": str(rng.integers(12)), "price": float(rng.random())}
        for _ in range(_CANDIDATES)
    ]
    packed = np.frombuffer(b"".join(layout.pack(row) for row in rows), dtype=layout.dtype)
    scores = np.linspace(1.0, 0.1, _CANDIDATES)
    return CandidateList(
        item_ids=[str(i) for i in range(_CANDIDATES)],
        keys=packed["keys"],
        numerics=packed["numerics"],
        scores=scores,
        predictions=scores[None].astype(np.float32),
    )
