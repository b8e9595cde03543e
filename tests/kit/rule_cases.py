"""Small lists of candidates and random rules for them, for tests of the second stage."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from features import FeatureSchema, RowLayout
from service.rules.bound import BoundRules, bind_rules
from service.rules.candidates import CandidateList
from service.rules.definition.rule_sets import RuleSets
from service.rules.order.arrange import Arrangement

NOW_MS = 1_700_000_000_000
AUTHORS = ("a", "b", "c")
VECTOR = "item_vector"  # an output of the graph
SOURCES = ("near", "new", "hot")
SCHEMA = FeatureSchema.model_validate(
    {
        "item": [
            {"name": "author", "type": "categorical"},
            {"name": "topics", "type": "multi_categorical", "max_values": 2},
            {"name": "price", "type": "numeric"},
            {"name": "x", "type": "numeric"},
            {"name": "y", "type": "numeric"},
        ]
    }
)
LAYOUT = RowLayout(SCHEMA.item)


def candidates(
    rows: Sequence[dict[str, Any]], scores: Sequence[float] | None = None, vectors: np.ndarray | None = None
) -> CandidateList:
    """Candidates `0`, `1`, ... with these item rows; the first has the highest score unless `scores` say otherwise."""
    features = [{name: value for name, value in row.items() if name != "source"} for row in rows]
    packed = np.frombuffer(b"".join(LAYOUT.pack(row) for row in features), dtype=LAYOUT.dtype)
    falling = np.linspace(1.0, 0.1, len(rows))
    values = np.asarray(scores, dtype=np.float64) if scores is not None else falling
    return CandidateList(
        item_ids=[str(i) for i in range(len(rows))],
        keys=packed["keys"],
        numerics=packed["numerics"],
        scores=values,
        predictions=values[None].astype(np.float32),
        sources=[row.get("source") for row in rows],
        outputs={} if vectors is None else {VECTOR: vectors},
    )


def bound(*rules: dict[str, Any]) -> BoundRules:
    rule_sets = RuleSets.model_validate({"rules": {"default": rules}})
    return bind_rules(rule_sets, LAYOUT, ("pctr",), (VECTOR,))["default"]


def ids(arrangement: Arrangement, of: CandidateList) -> list[str]:
    return [of.item_ids[place] for place in arrangement.order]


def random_rule(rng: np.random.Generator, n: int) -> dict[str, Any]:
    feature = str(rng.choice(["author", "topics"]))
    some = [str(v) for v in rng.choice(AUTHORS, int(rng.integers(1, 3)), replace=False)]
    at = int(rng.integers(1, n + 2))
    kinds: list[dict[str, Any]] = [
        {"type": "pin", "item_id": str(rng.integers(0, n)), "position": at},
        {"type": "pin", "when": {"feature": feature, "one_of": some}, "position": at},
        {"type": "spread", "feature": feature, "distance": int(rng.integers(2, 4))},
        {"type": "quota", "feature": feature, "at_most": int(rng.integers(1, 3)), "window": int(rng.integers(2, 5))},
        {"type": "quota", "feature": feature, "one_of": some, "at_least": 1 + at // 3, "first": 1 + at // 3 + at},
        {"type": "quota", "feature": feature, "at_most": int(rng.integers(0, 3)), "first": at},
        {"type": "quota", "feature": feature, "share": float(rng.choice([0.3, 0.5])), "first": at},
        {"type": "interleave", "pattern": [str(s) for s in rng.choice(SOURCES, int(rng.integers(2, 4)))]},
    ]
    return kinds[int(rng.integers(len(kinds)))]


def random_case(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Rules that do not contradict one another by themselves, item rows and a length."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    rows = []
    for _ in range(n):
        author = str(rng.choice(AUTHORS)) if rng.random() < 0.9 else None
        topics = [str(t) for t in rng.choice(AUTHORS, int(rng.integers(0, 3)), replace=False)]
        rows.append({"author": author, "topics": topics, "source": str(rng.choice(SOURCES))})
    rules = [random_rule(rng, n) for _ in range(int(rng.integers(1, 5)))]
    while True:
        try:
            RuleSets.model_validate({"rules": {"default": rules}})
            return rules, rows, int(rng.integers(1, n + 1))
        except ValueError:
            rules.pop()
