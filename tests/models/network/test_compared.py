"""Tests that every model of the catalogue reads what compares a candidate with the others of its request."""

import numpy as np
import pytest
from small_rankers import raw_inputs, score, small

from features.within_request import INPUT
from models.catalogue import CATALOGUE


@pytest.mark.parametrize("architecture", CATALOGUE)
def test_a_candidates_scores_depend_on_its_own_comparison_alone(architecture):
    of = small(architecture, compared=True)
    inputs = raw_inputs(of, candidates=6, behaviours=4)
    assert inputs[INPUT].shape == (6, 4)
    before = score(of, inputs)
    inputs[INPUT][2] += 1.0
    inputs[INPUT][2, np.isnan(inputs[INPUT][2])] = 0.0
    after = score(of, inputs)
    changed = np.array([before[name] != after[name] for name in before])
    assert changed[:, 2].any()
    assert not np.delete(changed, 2, axis=1).any()
    assert all(np.isfinite(scores).all() for scores in after.values())
