"""Measures the counters of a ranking: the numbers of 200 candidates from stored cells, in CPU milliseconds."""

import time

import numpy as np

from bench.results.targets import Verdict
from features import FeatureSchema
from features.counters import ENTRY_BYTES
from features.layouts import Layouts
from service.ranking.inputs.counter_numbers import counter_numerics
from service.store.counters import StoredCounters, cell_name

_CANDIDATES = 200
_TIMES = 300
_NOW_MS = 1_700_000_000_000
_DAY = {"window_s": 86_400, "bucket_s": 3600}
_SCHEMA = FeatureSchema.model_validate(
    {
        "item": [{"name": "author", "type": "categorical"}],
        "counters": [
            {"name": "a", "statistic": "rate", "by": "item", "actions": ["click"], "prior": {"a": 1, "b": 20}, **_DAY},
            {"name": "b", "statistic": "count", "by": "item", "actions": ["impression"], **_DAY},
            {"name": "c", "statistic": "count", "by": "user", "actions": ["click"], "half_life_s": 9000, **_DAY},
            {"name": "d", "statistic": "count", "by": "user", "item_feature": "author", "actions": ["click"], **_DAY},
        ],
    }
)


def counters_ms() -> float:
    """CPU milliseconds of four counters: a rate and a count by item, a count by user, and one by user and author."""
    layouts = Layouts.of(_SCHEMA)
    rng = np.random.default_rng(0)
    # Cells of counts in random slots; a user with 50 authors.
    cells = [rng.integers(0, 9, 2 * layout.entries).astype("<u4").tobytes() for layout in layouts.counters]
    assert all(len(cell) == c.entries * ENTRY_BYTES for cell, c in zip(cells, layouts.counters, strict=True))
    user = {cell_name(1): cells[1]} | {cell_name(2, author): cells[2] for author in range(50)}
    stored = StoredCounters([cells[0]] * _CANDIDATES, user, b"")
    keys = rng.integers(1, 1 << 60, (_CANDIDATES, 1))
    started = 0.0
    for place in range(_TIMES + 20):
        if place == 20:
            started = time.process_time()
        counter_numerics(layouts, stored, keys, None, _NOW_MS)
    return (time.process_time() - started) / _TIMES * 1000


def verdict(cost_ms: float) -> Verdict:
    """The bound: 0.3 ms for four counters."""
    return Verdict(f"counters: CPU ms of four counters, C={_CANDIDATES}", cost_ms, 0.3, at_least=False)
