"""Tests properties of every arrangement: nothing is lost or doubled, equals keep their order, and a second pass changes
nothing.
"""

from collections import defaultdict

import numpy as np
import pytest
from rule_cases import NOW_MS, bound, candidates, ids, random_case

from service.rules.order.arrange import arrange

SEEDS = range(2000, 2150)


@pytest.mark.parametrize("block", range(3))
def test_no_candidate_is_lost_or_doubled(block: int) -> None:
    for seed in SEEDS[block::3]:
        rules, rows, length = random_case(seed)
        blocked = str(seed % len(rows))
        of = candidates(rows)
        rule_list = bound(*(rule for rule in rules if rule.get("item_id") != blocked))
        whole = arrange(rule_list, of, len(rows), NOW_MS)
        assert sorted(whole.order.tolist()) == list(range(len(rows)))
        part = arrange(rule_list, of, length, NOW_MS)
        assert len(set(part.order.tolist())) == length
        assert part.remaining == len(rows) - length
        without = arrange(bound({"type": "block", "item_ids": [blocked]}), of, len(rows), NOW_MS)
        assert sorted(ids(without, of)) == sorted(item for item in of.item_ids if item != blocked)


@pytest.mark.parametrize("block", range(3))
def test_candidates_that_no_rule_tells_apart_keep_the_order_of_their_scores(block: int) -> None:
    for seed in SEEDS[block::3]:
        rules, rows, _ = random_case(seed)
        pinned = {rule.get("item_id") for rule in rules}
        arrangement = arrange(bound(*rules), candidates(rows), len(rows), NOW_MS)
        alike: defaultdict[str, list[int]] = defaultdict(list)
        for place in arrangement.order.tolist():
            if str(place) not in pinned:
                alike[repr(rows[place])].append(place)
        assert all(places == sorted(places) for places in alike.values()), seed


@pytest.mark.parametrize("block", range(3))
def test_a_list_that_holds_is_not_changed_again(block: int) -> None:
    """The scores of the second pass are those of the order that the first one made."""
    for seed in SEEDS[block::3]:
        rules, rows, length = random_case(seed)
        first = arrange(bound(*rules), candidates(rows), length, NOW_MS)
        if first.relaxed:
            continue
        scores = np.zeros(len(rows))
        scores[first.order] = np.linspace(2.0, 1.0, length)
        second = arrange(bound(*rules), candidates(rows, scores.tolist()), length, NOW_MS)
        assert second.order.tolist() == first.order.tolist(), seed
        assert second.acted == set(), seed
