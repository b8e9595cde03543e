"""Tests the deviation of the numbers that embeddings start with."""

import pytest
import torch
from small_rankers import small

from models.data.encoding.vocabulary import MISSING_ROW


def started(**embedding: float) -> torch.Tensor:
    """The table of a new ranker, without the row of missing values."""
    table = small("mmoe", "pooling", wide=False, embedding={"dim": 64, **embedding}).ranker.inputs.table.weight
    assert not table[MISSING_ROW].any()
    return table[MISSING_ROW + 1 :]


@pytest.mark.parametrize("std", [0.0001, 0.3])
def test_embeddings_start_with_the_deviation_of_the_recipe(std: float) -> None:
    assert float(started(initial_std=std).detach().std()) == pytest.approx(std, rel=0.1)


def test_by_default_embeddings_start_as_they_always_did() -> None:
    assert torch.equal(started(), started(initial_std=0.05))
