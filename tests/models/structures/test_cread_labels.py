"""Tests that CREAD refuses times that are negative, whose thresholds would be no times."""

import numpy as np
import pytest
import torch

from models.errors import RecipeError
from models.structures.cread import Cread, CreadOptions


def test_a_negative_time_is_refused_by_the_name_of_its_label() -> None:
    task = Cread(CreadOptions(type="cread", name="watch_time", label="watched_s", thresholds=4))
    task.fit(np.array([0.0, 1.0, 4.0]), {})
    assert bool((torch.diff(task.buckets.thresholds) >= 0).all())
    with pytest.raises(RecipeError, match="^tasks: label 'watched_s' of a cread task is a time, .*; found -2$"):
        task.fit(np.array([1.0, -2.0]), {})
