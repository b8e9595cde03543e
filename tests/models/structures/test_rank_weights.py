"""DUPN's learning to rank against a float64 reference of the paper's loss (section 4.5.2)."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.recipe import RecipeError
from models.structures.rank_weights import RankWeights, RankWeightsOptions, Weigh
from models.structures.representation import Candidates

IMPORTANCE = {"cart": 2.0, "like": 3.0}


def weigh():
    torch.manual_seed(0)
    return Weigh(6, (5,), [2, 0, 1], dropout=0.0).eval()


def f64(t):
    return t.detach().double().numpy()


def weights_of(network, rep):
    """Compute weight(rep) with the network's two layers."""
    first = network.weight[0]
    last = network.weight[2]
    return np.maximum(rep @ f64(first.weight).T + f64(first.bias), 0) @ f64(last.weight).T + f64(last.bias)


def test_the_logit_is_the_users_weights_on_the_candidates_features():
    network = weigh()
    rng = np.random.default_rng(0)
    rep = rng.normal(size=(9, 6))
    r = rng.normal(size=(9, 4))
    given = Candidates(torch.full((9, 4), torch.nan), torch.from_numpy(r).float())
    got = network(torch.from_numpy(rep).float(), given)
    np.testing.assert_allclose(f64(got), (weights_of(network, rep) * r[:, [2, 0, 1]]).sum(1), atol=1e-6)


def test_one_users_weights_serve_all_candidates():
    network = weigh()
    rep = torch.randn(1, 6)
    r = torch.randn(7, 4)
    torch.testing.assert_close(network(rep, Candidates(r, r)), network(rep.expand(7, 6), Candidates(r, r)))


def test_the_loss_is_the_papers_with_the_strongest_behaviours_importance():
    model = small("dupn")
    batch = training_batch(small("dupn"), 64, 4)
    with torch.no_grad():
        s = f64(model.ranker.logits(batch)["prank"])
        loss = float(model.ranker.losses(batch)["prank"])
    click, cart, like = (f64(batch[f"label/{n}"]) for n in ("click", "cart", "like"))
    n = np.where(like > 0, 3.0, np.where(cart > 0, 2.0, 1.0))
    y = 2 * click - 1
    assert loss == pytest.approx(np.mean(n * np.log1p(np.exp(-y * s))), rel=1e-5)


def test_gradients_are_finite_at_extreme_logits():
    for value in (80.0, -80.0):
        logit = torch.tensor([value], requires_grad=True)
        structure = RankWeights(
            RankWeightsOptions(type="rank_weights", name="prank", label="click", features=("price",)),
            small("dupn").recipe.features,
        )
        score = structure.scores({"prank": logit})["prank"]
        (score.yes.sum() + score.no.sum()).backward()
        assert torch.isfinite(score.yes).all() and torch.isfinite(score.no).all() and torch.isfinite(logit.grad).all()


def test_a_feature_that_is_no_number_of_the_item_is_refused_with_those_that_are():
    task = RankWeightsOptions(type="rank_weights", name="prank", label="click", features=("shop",))
    with pytest.raises(RecipeError, match="'shop', which is no numeric item feature; those are: price, stars"):
        RankWeights(task, small("dupn").recipe.features)


def test_an_encoder_that_looks_at_the_candidate_gives_no_representation():
    with pytest.raises(RecipeError, match="reads the user's representation"):
        small("dupn", "din")


@pytest.mark.parametrize("name", ["prank", "pprice"])
def test_dropout_reaches_the_networks_on_the_representation(name):
    for rate, differs in ((0.5, True), (0.0, False)):
        ranker = small("dupn", dropout=rate).ranker
        network = ranker.of_representation[name].train()
        batch = training_batch(small("dupn"), 16, 4)
        candidates = ranker.inputs.candidates(batch)
        representation = torch.ones(16, next(network.parameters()).shape[1])
        assert torch.equal(network(representation, candidates), network(representation, candidates)) != differs
