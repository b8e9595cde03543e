"""Tests every model of the catalogue in torch, so that a new entry needs no test of its own here."""

import numpy as np
import pytest
import torch
from small_rankers import OWN_ENCODER, raw_inputs, score, small, training_batch

from models.catalogue import CATALOGUE

EACH = pytest.mark.parametrize("architecture", list(CATALOGUE))
ENCODERS = pytest.mark.parametrize(
    ("architecture", "encoder"),
    [*((name, e) for name in CATALOGUE for e in ("pooling", "din+pooling")), *OWN_ENCODER.items()],
)


@ENCODERS
def test_every_output_is_a_probability_or_a_value_per_candidate(architecture, encoder):
    model = small(architecture, encoder)
    kinds = {o.name: o.kind.type for o in model.ranker.outputs}
    for candidates, behaviours in ((1, 0), (1, 3), (5, 0), (64, 7)):
        scores = score(model, raw_inputs(model, candidates, behaviours))
        assert list(scores) == [o.name for o in model.ranker.outputs]
        for name, values in scores.items():
            assert values.shape == (candidates,) and np.isfinite(values).all()
            assert kinds[name] == "value" or ((values > 0) & (values < 1)).all()


@ENCODERS
def test_padding_behind_the_behaviours_changes_nothing(architecture, encoder):
    model = small(architecture, encoder)
    inputs = raw_inputs(model, 6, 5)
    padded = dict(inputs)
    padded["behaviour_keys"] = np.concatenate(
        [inputs["behaviour_keys"], np.zeros((9, inputs["behaviour_keys"].shape[1]), np.int64)]
    )
    padded["behaviour_times"] = np.concatenate([inputs["behaviour_times"], np.zeros(9, np.int64)])
    padded["behaviour_numerics"] = np.concatenate([inputs["behaviour_numerics"], np.full((9, 1), np.nan, np.float32)])
    for name, values in score(model, inputs).items():
        np.testing.assert_allclose(score(model, padded)[name], values, atol=1e-6)


@EACH
def test_a_candidate_scores_the_same_alone_in_any_order_and_among_others(architecture):
    model = small(architecture)
    inputs = raw_inputs(model, 9, 4)
    scores = score(model, inputs)
    order = np.random.default_rng(0).permutation(9)
    shuffled = score(model, {n: v[order] if n.startswith("item_") else v for n, v in inputs.items()})
    for name, values in scores.items():
        np.testing.assert_allclose(shuffled[name], values[order], atol=1e-6)
        for i in range(9):
            alone = score(model, {n: v[i : i + 1] if n.startswith("item_") else v for n, v in inputs.items()})
            np.testing.assert_allclose(alone[name], values[i : i + 1], atol=1e-6)


@EACH
def test_wholly_unknown_ids_still_score(architecture):
    model = small(architecture)
    scores = score(model, raw_inputs(model, 5, 5, unknown=1.0, missing=0.5))
    for values in scores.values():
        assert np.isfinite(values).all()


@EACH
def test_the_serving_graph_scores_an_impression_as_training_does(architecture):
    model = small(architecture)
    batch = training_batch(model, 8, 6)
    with torch.no_grad():
        of_training = model.ranker(batch)
        for i in range(8):  # one user: its rows have a leading axis of one, as in the graph
            one = {n: t[i : i + 1] for n, t in batch.items()}
            for name, value in model.ranker(one).items():
                torch.testing.assert_close(value, of_training[name][i : i + 1], atol=1e-5, rtol=1e-5)


@ENCODERS
def test_gradients_reach_every_parameter(architecture, encoder):
    model = small(architecture, encoder, position=True)
    model.ranker.train()
    sum(model.ranker.losses(training_batch(model, 64, 6)).values()).backward()
    for name, parameter in model.ranker.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert (model.ranker.inputs.table.weight.grad[0] == 0).all(), "the padding row never trains"


@EACH
def test_one_batch_can_be_overfitted(architecture):
    model = small(architecture, wide=False, tower_hidden=[32])
    ranker = model.ranker.train()
    batch = training_batch(model, 16, 4)
    optimiser = torch.optim.Adam(ranker.parameters(), lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        sum(ranker.losses(batch).values()).backward()
        optimiser.step()
    losses = {name: loss.item() for name, loss in ranker.losses(batch).items()}
    assert all(loss < 0.1 for loss in losses.values()), losses


@EACH
@pytest.mark.parametrize("logit", [80.0, -80.0])
def test_losses_and_gradients_are_finite_at_extreme_logits(architecture, logit):
    model = small(architecture)
    batch = training_batch(small(architecture), 16, 4)
    with torch.no_grad():
        model.ranker.towers.layers[-1].bias.fill_(logit)
    for value in model.ranker(batch).values():
        assert torch.isfinite(value).all()
    losses = model.ranker.losses(batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.ranker.parameters() if p.grad is not None)


@EACH
def test_each_loss_term_changes_the_total(architecture):
    model = small(architecture)
    losses = model.ranker.losses(training_batch(model, 64, 3))
    assert list(losses) == [o.name for o in model.ranker.outputs if o.trained]
    assert all(loss.item() > 0.01 for loss in losses.values())


@EACH
def test_the_position_shifts_its_head_in_training_and_nothing_at_serving(architecture):
    model = small(architecture, position=True)
    batch = training_batch(model, 16, 3)
    moved = batch | {"position": torch.full((16,), 9)}
    with torch.no_grad():
        model.ranker.eval()
        for name, value in model.ranker(batch).items():
            torch.testing.assert_close(value, model.ranker(moved)[name])
        model.ranker.train()
        model.ranker.position.drop_rate = 0.0
        (head,) = model.ranker.position.heads
        assert (model.ranker(batch)[head] - model.ranker(moved)[head]).abs().max() > 0.01
