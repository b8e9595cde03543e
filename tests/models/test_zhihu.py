"""Tests Zhihu's eight tasks: one network below all of them, a small tower each, and a weighted sum of losses."""

from pathlib import Path

import numpy as np
import torch
from small_rankers import small, training_batch

from models.layers.probability import log_loss, of_logit
from models.recipe import load_recipe
from models.training.weighting.base import weighted_total

RECIPE = Path(__file__).parents[2] / "models" / "recipes" / "kuairand-zhihu.yaml"


def f64(t):
    return t.detach().double().numpy()


def test_the_recipe_has_its_eight_tasks_with_a_weight_each():
    recipe = load_recipe(RECIPE)
    labels = {
        "is_click",
        "long_view",
        "is_like",
        "is_follow",
        "is_comment",
        "is_forward",
        "is_profile_enter",
        "is_hate",
    }
    assert {task.label for task in recipe.tasks} == labels
    assert set(recipe.training.loss_weights) == {task.name for task in recipe.tasks}


def test_every_head_reads_the_same_shared_layers():
    """y_k = h_k(f(x)), where f is the shared network (two layers here) and h_k the tower of head k."""
    model = small("zhihu", trunk={"type": "shared_bottom", "hidden": [7, 6]})
    ranker = model.ranker
    batch = training_batch(model, 12, 4)
    with torch.no_grad():
        parts = ranker.trunk_input(batch).parts
        logits = ranker.logits(batch)
    x = np.concatenate([f64(p) for p in parts], 1)
    shared = np.maximum(
        x @ np.concatenate([f64(w) for w in ranker.trunk.first.weights]) + f64(ranker.trunk.first.bias), 0
    )
    (second,) = ranker.trunk.rest.layers
    shared = np.maximum(shared @ f64(second.weight)[0] + f64(second.bias)[0, 0], 0)
    first, last = ranker.towers.layers
    for k, head in enumerate(ranker.heads):
        h = np.maximum(shared @ f64(first.weight)[k] + f64(first.bias)[k, 0], 0)
        np.testing.assert_allclose(f64(logits[head]), (h @ f64(last.weight)[k] + f64(last.bias)[k, 0])[:, 0], atol=1e-5)


def test_the_loss_is_the_weighted_sum_of_the_tasks_losses():
    model = small("zhihu")
    batch = training_batch(model, 32, 3)
    weights = {"pctr": 1.0, "plike": 0.25}
    logits = model.ranker.logits(batch)
    expected = sum(
        w * log_loss(of_logit(logits[n]), batch[f"label/{'click' if n == 'pctr' else 'like'}"]).mean()
        for n, w in weights.items()
    )
    torch.testing.assert_close(weighted_total(model.ranker.losses(batch), weights), expected)
