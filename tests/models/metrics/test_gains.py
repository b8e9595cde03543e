"""Tests nDCG with gains per label against scikit-learn, the mean over every order of ties, and a training run."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from small_tables import RECIPE, merged

from models import train as training
from models.data.cache import open_data
from models.metrics.gains import gain_metrics
from models.metrics.ranking import list_metrics
from models.recipe import RecipeError, parse_recipe
from models.training.evaluation import groups_of, scores_of
from models.training.run import open_run

RNG = np.random.default_rng(5)


def brute_force(gains, scores, cutoff):
    """nDCG@cutoff of one list by its definition, averaged over every order of its ties."""
    orders = [
        order
        for order in itertools.permutations(range(len(gains)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    best = sum(gain / math.log2(r + 2) for r, gain in enumerate(sorted(gains, reverse=True)[:cutoff]))
    return np.mean([sum(gains[i] / math.log2(r + 2) for r, i in enumerate(o[:cutoff])) / best for o in orders])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5, 6.0]), st.integers(0, 2)), min_size=1, max_size=6),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 7),
    st.randoms(),
)
def test_it_is_the_mean_over_every_order_of_the_ties(lists, cutoff, random):
    rows = [(i, y, float(s)) for i, rows in enumerate(lists) for y, s in rows]
    random.shuffle(rows)
    group, gain, score = (np.array(column) for column in zip(*rows, strict=True))
    result = gain_metrics(gain, score, group, (cutoff,))
    counted = [i for i in range(len(lists)) if np.ptp(gain[group == i]) > 0]
    assert result.group.tolist() == counted and result.skipped == len(lists) - len(counted)
    for place, i in enumerate(counted):
        expected = brute_force(gain[group == i], score[group == i], cutoff)
        assert result.ndcg[cutoff][place] == pytest.approx(expected, abs=1e-12)


def test_it_equals_scikit_learns_and_plain_ndcg_for_gains_of_one():
    groups = RNG.integers(0, 200, 3000)
    labels = (RNG.random(3000) < 0.3).astype(np.float32)
    gains = labels * RNG.integers(1, 5, 3000)
    scores = np.round(RNG.normal(size=3000), 1)
    result = gain_metrics(gains, scores, groups, (5, 10))
    for k in (5, 10):
        expected = [sk.ndcg_score([gains[groups == g]], [scores[groups == g]], k=k) for g in result.group]
        np.testing.assert_allclose(result.ndcg[k], expected, atol=1e-12)
    plain = list_metrics(labels, scores, groups, (5,))
    np.testing.assert_allclose(gain_metrics(labels, scores, groups, (5,)).ndcg[5], plain.ndcg[5], atol=1e-12)


def test_no_impression_and_lists_whose_gains_are_all_alike_have_no_figure():
    assert gain_metrics(np.zeros(0), np.zeros(0), np.zeros(0, np.int64)).means() == {
        "gain_ndcg@5": None,
        "gain_ndcg@10": None,
    }
    assert gain_metrics(np.ones(3), np.arange(3.0), np.zeros(3, np.int64)).skipped == 1


def test_a_run_is_measured_and_selected_by_the_gains_of_its_recipe(tiny_recipe, tmp_path):
    changes = {"training.gains": {"click": 1.0, "like": 4.0}, "training.select_on": ["gain_ndcg@7(pctcvr)"]}
    changes |= {"training.epochs": 1, "training.evaluations_per_epoch": 1}
    recipe = tiny_recipe(None, changes)
    metrics = training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    data = open_data(recipe, tmp_path / "cache")
    labels = data.parts["test"].labels
    names = recipe.label_columns
    gains = labels[:, names.index("click")] + 4.0 * labels[:, names.index("like")]
    scores = scores_of(open_run(tmp_path / "run").ranker, data, "test")["pctcvr"].astype(np.float64)
    expected = gain_metrics(gains, scores, groups_of(data, "test"), (5, 7, 10)).means()
    measured = metrics["parts"]["test"]["outputs"]["pctcvr"]
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert "gain_ndcg@10" in measured["intervals"] and "recall@10" in measured["intervals"]
    assert "gain nDCG@10" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.gains": {"clik": 1.0}}, r"training\.gains: 'clik' is the label of no task; did you mean 'click'"),
        ({"training.select_on": ["gain_ndcg@5(pctr)"]}, r"gain_ndcg needs training\.gains"),
    ],
)
def test_gains_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(merged(RECIPE, {"data.dir": "x"} | changes), "the test")
