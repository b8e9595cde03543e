"""Tests that sequences are cut to what a search reads: the same scores and gradients from fewer embedded behaviours."""

import torch
from small_rankers import small, training_batch

from models.network.embedding.shortening import shortened

OPTIONS = {"type": "sim", "category": "shop", "top": 2, "recent": 3, "hidden": [4]}


def test_scores_and_gradients_are_those_of_the_whole_sequences():
    model = small("sim", encoders=[OPTIONS])
    batch = training_batch(model, 30, 60)
    ranker = model.ranker
    sum(ranker.losses(batch).values()).backward()
    scores = {name: value.detach() for name, value in ranker(batch).items()}
    gradients = {name: parameter.grad.clone() for name, parameter in ranker.named_parameters()}
    ranker.zero_grad()
    ranker.searching = []
    sum(ranker.losses(batch).values()).backward()
    for name, value in ranker(batch).items():
        torch.testing.assert_close(scores[name], value, atol=1e-6, rtol=1e-5)
    for name, parameter in ranker.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_a_missing_row_among_the_newest_makes_no_older_behaviour_recent():
    model = small("sim", encoders=[OPTIONS])
    ranker = model.ranker
    batch = training_batch(model, 30, 60)
    batch["behaviour_rows"][:, 1] = 0
    cut = ranker(batch)
    ranker.searching = []
    for name, value in ranker(batch).items():
        torch.testing.assert_close(cut[name], value, atol=1e-6, rtol=1e-5)


def test_no_impression_has_more_behaviours_than_are_searched_and_recent():
    model = small("sim", encoders=[OPTIONS])
    batch = training_batch(model, 30, 60)
    cut = shortened(batch, model.ranker.inputs.keys, model.ranker.searching)
    assert batch["behaviour_rows"].shape[1] == 60
    assert 3 < cut["behaviour_rows"].shape[1] <= 5
    assert cut["behaviour_times"].shape == cut["behaviour_rows"].shape[:2] == cut["behaviour_numerics"].shape[:2]
    newest = (batch["behaviour_rows"][:, 0] == cut["behaviour_rows"][:, 0]).all(-1)
    assert newest.all()


def test_an_encoder_that_reads_all_behaviours_gets_them():
    model = small("sim", encoders=[OPTIONS, {"type": "pooling"}])
    batch = training_batch(model, 30, 60)
    assert shortened(batch, model.ranker.inputs.keys, model.ranker.searching) is batch


def test_a_batch_without_behaviours_stays_without():
    model = small("sim", encoders=[OPTIONS])
    batch = training_batch(model, 5, 0)
    assert shortened(batch, model.ranker.inputs.keys, model.ranker.searching)["behaviour_rows"].shape[1] == 0
    assert all(torch.isfinite(value).all() for value in model.ranker(batch).values())
