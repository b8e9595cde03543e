"""Tests the hit ratio of an item cache against a simulated cache of the service, and at sizes that nobody simulates."""

import numpy as np
import pytest

from features import FeatureSchema
from features.layouts import Layouts
from loadtest.capacity.cache import distinct, hit_ratio, zipf
from service.store.item_cache import ItemCache
from service.store.item_rows import rows_from_store

SCHEMA = {"item": [{"name": "item_id", "type": "categorical"}]}


@pytest.mark.parametrize(("exponent", "rows"), [(0.7, 300), (0.9, 1000), (1.2, 100)])
def test_the_ratio_is_that_of_the_services_own_cache(exponent: float, rows: int) -> None:
    items = 5000
    layouts = Layouts.of(FeatureSchema.model_validate(SCHEMA))
    cache = ItemCache(layouts, rows * ItemCache(layouts, 0, 1.0).row_bytes, 1.0)
    rng = np.random.default_rng(1)
    weights = np.arange(1, items + 1) ** -exponent
    drawn = rng.choice(items, size=(3000, 50), p=weights / weights.sum())
    counts = []
    for number, request in enumerate(drawn):
        if number == 1000:
            cache.reset_counts()
        ids = [str(item) for item in dict.fromkeys(request.tolist())]
        counts.append(len(ids))
        missing = [ids[place] for place in cache.take(ids).missing]
        cache.keep(missing, rows_from_store(layouts, missing, [None] * len(missing)))
    popularity = distinct(zipf(items, exponent), float(np.mean(counts)))
    real = cache.hits / (cache.hits + cache.misses)
    assert hit_ratio(popularity, rows) == pytest.approx(real, abs=0.03)


def test_groups_of_ranks_give_what_single_ranks_give() -> None:
    ranks = np.arange(1, 200_001, dtype=np.float64) ** -0.8
    popularity = zipf(200_000, 0.8)
    assert popularity.items.sum() == pytest.approx(200_000)
    assert (popularity.items * popularity.probability).sum() == pytest.approx(1)
    assert popularity.probability[0] == pytest.approx(1 / ranks.sum(), rel=1e-3)


def test_the_ends() -> None:
    assert hit_ratio(zipf(1000, 0.9), 0) == 0
    assert hit_ratio(zipf(1000, 0.9), 1000) == 1
    assert hit_ratio(distinct(zipf(1000, 0.9), 1000), 500) == pytest.approx(0.5), "all items are candidates"
    assert hit_ratio(zipf(1e9, 0.0), 1e6) == pytest.approx(1e-3, rel=0.01), "without favourites a cache holds its share"
    ratios = [hit_ratio(zipf(1e8, 0.9), rows) for rows in (1e4, 1e5, 1e6, 1e7)]
    assert ratios == sorted(ratios) and ratios[-1] < 1
