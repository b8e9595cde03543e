"""Tests that the bytes of a ranking, written column by column, are the JSON of the plain structure."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.routes.answer import answer
from service.fusion import Formula
from service.ranking.degradation import Degradation, Reason
from service.ranking.query import Computation, Ranked, Ranking

TASKS = ("pctr", "pcvr", "watch_time")
NASTY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    ['"', '","', "\\", '\\","', "\n", '"\n"', ",", "é", "汉字", "\x00", "\u2028", "[", "a,b", "</script>"]
)


def ranking_of(ids: list[str], kind: str, explain: bool, seed: int) -> Ranking:
    generator = np.random.default_rng(seed)
    predictions = generator.random((3, len(ids)), dtype=np.float32)
    predictions[0, generator.random(len(ids)) < 0.2] = np.nan
    formula = Formula("home", kind, ("pctr", "watch_time"), np.array([0, 2]), np.array([0.5, 2.0]))
    manifest: Any = SimpleNamespace(name="m", version="1")
    live: Any = SimpleNamespace(
        bundle=SimpleNamespace(manifest=manifest, tasks=TASKS),
        role="stable",
        line=None,
        fusion=SimpleNamespace(revision=4),
    )
    scores = formula.fuse(predictions)
    explained = formula.explain(predictions) if explain else None
    degraded = (Degradation(Reason.UNKNOWN_USER), Degradation(Reason.UNKNOWN_ITEMS, 3))
    computation = Computation(coverage=(len(ids), int(np.isfinite(scores).sum())))
    ranked = Ranked(ids, scores, predictions, explained)
    return Ranking(live, formula, None, ranked, degraded, computation=computation)


def plain(ranking: Ranking, request_id: str) -> dict[str, Any]:
    """The same answer, built from plain objects."""

    def number(value: Any) -> float | None:
        return float(str(value)) if np.isfinite(value) else None

    entries = []
    for place, item_id in enumerate(ranking.ranked.item_ids):
        entry: dict[str, Any] = {"item_id": item_id, "rank": place + 1, "score": number(ranking.ranked.scores[place])}
        entry["predictions"] = {task: number(ranking.ranked.predictions[row, place]) for row, task in enumerate(TASKS)}
        if ranking.ranked.explained is not None:
            entry["explain"] = {}
            for row, task in enumerate(ranking.formula.tasks):
                part = ranking.ranked.explained[row].parts[place]
                shown = {
                    "score": entry["predictions"][task],
                    "weight": float(ranking.formula.weights[row]),
                    "part": number(part),
                }
                if ranking.formula.kind == "weighted_product":
                    shown["log_part"] = number(np.log(part))
                entry["explain"][task] = shown
        entries.append(entry)
    return {
        "request_id": request_id,
        "model": {"name": "m", "version": "1", "role": "stable"},
        "fusion": {"profile": "home", "revision": 4},
        "degraded": ["unknown_user", "unknown_items:3"],
        "coverage": dict(zip(("requested", "scored"), ranking.computation.coverage, strict=True)),
        "ranking": entries,
    }


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(NASTY, min_size=1, max_size=20, unique=True),
    kind=st.sampled_from(["weighted_sum", "weighted_product"]),
    explain=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_bytes_are_the_json_of_the_plain_structure(ids: list[str], kind: str, explain: bool, seed: int) -> None:
    ranking = ranking_of(ids, kind, explain, seed)
    assert json.loads(answer(ranking, "r1")) == plain(ranking, "r1")


def test_task_scores_read_back_as_the_same_float32_bits() -> None:
    ranking = ranking_of([str(i) for i in range(500)], "weighted_sum", False, 1)
    read = json.loads(answer(ranking, "r1"))["ranking"]
    back = np.array(
        [[e["predictions"][t] if e["predictions"][t] is not None else np.nan for e in read] for t in TASKS],
        dtype=np.float32,
    )
    assert back.tobytes() == ranking.ranked.predictions.tobytes()
    scores = np.array([e["score"] if e["score"] is not None else np.nan for e in read])
    assert np.array_equal(scores, ranking.ranked.scores, equal_nan=True)
