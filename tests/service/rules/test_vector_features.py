"""Tests rules over vector features: diversity reads one, and what wants a number or a category refuses it."""

import numpy as np
import pytest

from features import FeatureSchema
from features.layouts import Layouts
from service.rules.bound import bind_rules
from service.rules.candidates import CandidateList
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets

SCHEMA = FeatureSchema.model_validate(
    {
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "text", "type": "vector", "width": 3},
            {"name": "price", "type": "numeric"},
        ]
    }
)
LAYOUT = Layouts.of(SCHEMA).of_rules


def bound(rule):
    return bind_rules(RuleSets.model_validate({"rules": {"default": [rule]}}), LAYOUT, ("pctr",))["default"]


def diverse(vector):
    return {"type": "diversity", "method": "mmr", "weight": 0.3, "vector": vector}


@pytest.mark.parametrize(
    ("vector", "columns"), [("text", [0, 1, 2]), (["price", "text"], [3, 0, 1, 2]), ("price", [3])]
)
def test_diversity_reads_the_numbers_of_a_vector(vector, columns):
    numerics = np.arange(8, dtype=np.float32).reshape(2, 4)
    candidates = CandidateList(
        ["1", "2"], np.zeros((2, 1), np.int64), numerics, np.ones(2), np.ones((1, 2), np.float32)
    )
    rules = bound(diverse(vector))
    np.testing.assert_array_equal(rules.vectors(rules.rules[0], candidates), numerics[:, columns].astype(np.float64))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (diverse("txt"), "'txt' is neither a vector of the model nor a numeric or vector feature.*text"),
        ({"type": "spread", "feature": "text", "distance": 2}, "'text' is not a categorical feature"),
        ({"type": "boost", "formula": "score * text"}, "unknown name 'text'"),
        ({"type": "block", "when": {"feature": "text", "at_least": 1}}, "'text' is not a numeric feature"),
    ],
)
def test_other_rules_refuse_a_vector(rule, message):
    with pytest.raises(RulesError, match=message):
        bound(rule)
