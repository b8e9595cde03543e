"""Tests the ranking metrics against scikit-learn, against brute force over every order of the ties, and by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from models.metrics import ranking

RNG = np.random.default_rng(0)
LABELS = (RNG.random(3000) < 0.3).astype(np.float32)
SCORES = np.log(np.clip(RNG.random(3000) * 0.7 + LABELS * 0.2, 1e-9, 1 - 1e-9))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_counts_ties_as_one_half_like_scikit_learn(rows):
    labels = np.array([float(y) for y, _ in rows])
    scores = np.array([float(s) for _, s in rows])
    computed = ranking.auc(labels, scores)
    if len(set(labels)) == 1:
        assert computed is None
    else:
        assert computed == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


def test_gauc_weights_users_by_impressions_and_skips_users_of_one_class():
    users = np.array([7] * 4 + [8] * 2 + [9] * 3)
    labels = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0], float)
    scores = np.array([0.9, 0.9, 0.2, 0.1, 0.5, 0.6, 0.1, 0.4, 0.4])
    of_7, of_9 = 0.625, 0.75  # 7: pairs 1/2 + 1 + 0 + 1 of 4; 9: 1 + 1/2 of 2
    result = ranking.gauc(labels, scores, users)
    assert result.value == pytest.approx((4 * of_7 + 3 * of_9) / 7)
    assert (result.groups, result.skipped) == (2, 1)


def test_gauc_equals_a_loop_over_users_with_scikit_learn():
    users = RNG.integers(0, 200, 3000)
    scores = np.round(SCORES, 1)
    total = weight = skipped = 0
    for user in np.unique(users):
        of_user = users == user
        if len(set(LABELS[of_user])) == 1:
            skipped += 1
            continue
        total += of_user.sum() * sk.roc_auc_score(LABELS[of_user], scores[of_user])
        weight += of_user.sum()
    result = ranking.gauc(LABELS, scores, users)
    assert result.value == pytest.approx(total / weight, abs=1e-12)
    assert result.skipped == skipped


def test_gauc_without_any_user_of_two_classes_is_none():
    assert ranking.gauc(np.ones(3), np.arange(3.0), np.arange(3)).value is None


def test_the_top_of_the_list_by_hand():
    labels = np.zeros(1000)
    labels[[0, 3, 7, 500]] = 1
    top = ranking.top_share(labels, -np.arange(1000.0), 0.006)  # the first six: two of four positives
    assert (top.recall, top.precision) == (0.5, pytest.approx(2 / 6))
    assert top.f1 == pytest.approx(2 * 0.5 * (2 / 6) / (0.5 + 2 / 6))


def test_ties_at_the_border_of_the_top_enter_in_proportion():
    labels = np.array([1.0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    top = ranking.top_share(
        labels, np.array([9.0, 5, 5, 5, 5, 1, 1, 1, 1, 1]), 0.3
    )  # the 9, and two of the four 5s of which one is positive
    assert top.precision == pytest.approx((1 + 0.25 * 2) / 3)


def brute_force(labels, scores, cutoff):
    """nDCG@cutoff and reciprocal rank of one list by their definitions, averaged over every order of its ties."""
    orders = [
        order
        for order in itertools.permutations(range(len(labels)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    best = sum(1 / math.log2(r + 2) for r in range(min(cutoff, int(sum(labels)))))
    ndcg = [sum(labels[i] / math.log2(r + 2) for r, i in enumerate(order[:cutoff])) / best for order in orders]
    reciprocal = [next(1 / (r + 1) for r, i in enumerate(order) if labels[i]) for order in orders]
    recall = [sum(labels[i] for i in order[:cutoff]) / sum(labels) for order in orders]
    return np.mean(ndcg), np.mean(reciprocal), np.mean(recall)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(1, 7),
    st.randoms(),
)
def test_list_metrics_are_the_mean_over_every_order_of_the_ties(lists, cutoff, random):
    rows = [(i, float(y), float(s)) for i, rows in enumerate(lists) for y, s in rows]
    random.shuffle(rows)
    group, label, score = (np.array(column) for column in zip(*rows, strict=True))
    result = ranking.list_metrics(label, score, group, (cutoff,))
    counted = [i for i in range(len(lists)) if 0 < label[group == i].sum() < (group == i).sum()]
    assert result.group.tolist() == counted and result.skipped == len(lists) - len(counted)
    for place, i in enumerate(counted):
        of_group = group == i
        ndcg, reciprocal, recall = brute_force(label[of_group], score[of_group], cutoff)
        assert result.ndcg[cutoff][place] == pytest.approx(ndcg, abs=1e-12)
        assert result.recall[cutoff][place] == pytest.approx(recall, abs=1e-12)
        assert result.mrr[place] == pytest.approx(reciprocal, abs=1e-12)
        assert result.auc[place] == pytest.approx(sk.roc_auc_score(label[of_group], score[of_group]), abs=1e-12)


def test_ndcg_equals_scikit_learns_which_averages_over_ties_too():
    groups = RNG.integers(0, 200, 3000)
    scores = np.round(SCORES, 1)
    result = ranking.list_metrics(LABELS, scores, groups, (5, 10))
    for k in (5, 10):
        expected = [sk.ndcg_score([LABELS[groups == g]], [scores[groups == g]], k=k) for g in result.group]
        np.testing.assert_allclose(result.ndcg[k], expected, atol=1e-12)


def test_a_list_whose_labels_are_all_alike_does_not_count():
    result = ranking.list_metrics(np.array([1.0, 1, 0, 0, 1, 0]), np.arange(6.0), np.array([1, 1, 2, 2, 3, 3]))
    assert result.group.tolist() == [3] and result.skipped == 2
    assert result.means() == {
        "gauc": 0.0,
        "ndcg@5": pytest.approx(1 / np.log2(3)),
        "ndcg@10": pytest.approx(1 / np.log2(3)),
        "recall@5": 1.0,
        "recall@10": 1.0,
        "mrr": 0.5,
    }
    none = ranking.list_metrics(np.ones(3), np.arange(3.0), np.arange(3))
    assert set(none.means().values()) == {None} and none.skipped == 3
