"""Tests the loss weightings: two tasks by hand for each, the shared parameters, the same bits after a resume."""

import copy
import json
import math

import pytest
import torch
from small_rankers import small, training_batch

from models import train as training
from models.catalogue import CATALOGUE
from models.recipe.sections.training import TrainingSection
from models.training import loop
from models.training.transfer import narrowed
from models.training.weighting import build_weighting
from models.training.weighting.base import Decayed, Uncertainty, weighted_total
from models.training.weighting.gradnorm import gradnorm_step
from models.training.weighting.pcgrad import PcGrad, without_conflicts

KINDS = {
    "static": {"type": "static"},
    "decayed": {"type": "decayed", "decay": {"pctr": 0.5}},
    "uncertainty": {"type": "uncertainty"},
    "gradnorm": {"type": "gradnorm"},
    "pcgrad": {"type": "pcgrad"},
}


def two_losses(a=0.2, b=3.0):
    """L_a = a x and L_b = b x at x = 1: values a and b, gradients a and b."""
    x = torch.ones((), requires_grad=True)
    return x, {"a": a * x, "b": b * x}


def test_static_weights_sum_the_losses():
    x, losses = two_losses()
    Decayed({"a": 2.0, "b": 0.5}, {}).backward(losses, {}, epoch=3)
    assert x.grad.item() == pytest.approx(2.0 * 0.2 + 0.5 * 3.0)


def test_decayed_weights_fall_by_their_factor_each_epoch():
    weighting = Decayed({"a": 2.0, "b": 0.5}, {"a": 0.5})
    assert [weighting.weights(epoch) for epoch in (0, 1, 3)] == [
        {"a": 2.0, "b": 0.5},
        {"a": 1.0, "b": 0.5},
        {"a": 0.25, "b": 0.5},
    ]
    x, losses = two_losses()
    weighting.backward(losses, {}, epoch=3)
    assert x.grad.item() == pytest.approx(0.25 * 0.2 + 0.5 * 3.0)
    assert weighting.logged() == {"a": 0.25, "b": 0.5}


def test_uncertainty_moves_by_its_gradient_and_has_another_formula_for_values():
    weighting = Uncertainty({"a": 1.0, "b": 1.0}, scale={"a": 1.0, "b": 0.5}, bound=2.0, rate=0.1)
    x, losses = two_losses(a=0.2, b=3.0)
    weighting.backward(losses, {}, epoch=0)
    assert x.grad.item() == pytest.approx(1.0 * 0.2 + 0.5 * 3.0), (
        "exp(-0) L for a probability, exp(-0) / 2 L for a value"
    )
    assert weighting.s == {"a": pytest.approx(-0.1 * (0.5 - 0.2)), "b": pytest.approx(-0.1 * (0.5 - 1.5))}


def test_uncertainty_settles_at_its_optimum_and_never_leaves_its_bound():
    names = ("a", "b", "rare", "huge")
    weighting = Uncertainty(
        dict.fromkeys(names, 1.0), scale=dict.fromkeys(names, 1.0) | {"b": 0.5}, bound=2.0, rate=0.1
    )
    losses = {
        "a": torch.tensor(0.2, requires_grad=True),
        "b": torch.tensor(3.0),
        "rare": torch.tensor(0.001),
        "huge": torch.tensor(1e6),
    }
    for _ in range(500):
        weighting.backward(losses, {}, epoch=0)
    assert weighting.s["a"] == pytest.approx(math.log(2 * 0.2), abs=1e-6), "exp(-s) L = 1/2"
    assert weighting.s["b"] == pytest.approx(math.log(3.0), abs=1e-6), "exp(-s) L / 2 = 1/2"
    assert (weighting.s["rare"], weighting.s["huge"]) == (-2.0, 2.0)
    assert weighting.logged()["rare"] == pytest.approx(math.exp(2)), "and not the 500 of the unbounded optimum"
    for _ in range(500):
        weighting.backward(losses | {"rare": torch.tensor(0.2)}, {}, epoch=0)
    assert weighting.s["rare"] == pytest.approx(math.log(0.4), abs=1e-6), "the bound does not hold it for ever"


def test_gradnorm_moves_each_weight_towards_the_common_gradient_size():
    # G = (1 * 4, 1 * 2), mean 3. Equal ratios: both targets 3, so a falls by 0.1 * 4 and b rises by 0.1 * 2.
    equal = gradnorm_step(
        {"a": 1.0, "b": 1.0}, {"a": 4.0, "b": 2.0}, {"a": 0.5, "b": 0.5}, alpha=1.0, rate=0.1, smallest=1e-3
    )
    assert equal == {"a": pytest.approx(0.6), "b": pytest.approx(1.2)}
    # r = (0.9, 0.1) / 0.5 = (1.8, 0.2): targets 5.4 and 0.6, so the weight of a, which learned least, rises although
    # its gradient is the larger one.
    slow = gradnorm_step(
        {"a": 1.0, "b": 1.0}, {"a": 4.0, "b": 2.0}, {"a": 0.9, "b": 0.1}, alpha=1.0, rate=0.1, smallest=1e-3
    )
    assert slow == {"a": pytest.approx(1.4), "b": pytest.approx(0.8)}
    ignored = gradnorm_step(
        {"a": 1.0, "b": 1.0}, {"a": 4.0, "b": 2.0}, {"a": 0.9, "b": 0.1}, alpha=0.0, rate=0.1, smallest=1e-3
    )
    assert ignored == equal, "alpha 0 asks for equal sizes, whatever was learned"


def test_gradnorm_keeps_the_sum_of_the_weights_and_evens_the_gradients_out():
    model = small("shared_bottom")
    section = TrainingSection(
        loss_weights={"pctr": 8.0}, weighting={"type": "gradnorm", "alpha": 0.0, "learning_rate": 0.5}
    )
    ranker = model.ranker.train()
    batch = training_batch(model, 64, 4)
    weighting = build_weighting(ranker, section)
    for _ in range(200):
        weighting.backward(ranker.losses(batch), batch, epoch=0)
        assert sum(weighting.weights.values()) == pytest.approx(9.0)
    norms = weighting._norms(ranker.losses(batch))
    sizes = [weighting.weights[name] * norms[name] for name in norms]
    assert max(sizes) / min(sizes) < 1.2


def test_pcgrad_takes_the_conflicting_component_away():
    # g_a . g_b = -1, |g_a|^2 = 1, |g_b|^2 = 2: g_a + 1/2 g_b = (1/2, 1/2), g_b + 1 g_a = (0, 1).
    a = torch.tensor([1.0, 0.0])
    b = torch.tensor([-1.0, 1.0])
    (of_a, of_b), conflicts = without_conflicts([a, b], [[1, 0], [0, 1]])
    assert conflicts == 2
    torch.testing.assert_close(of_a, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(of_b, torch.tensor([0.0, 1.0]))
    assert of_a @ b == 0 and of_b @ a == 0
    assert without_conflicts([a, -b], [[1, 0], [0, 1]])[1] == 0, "tasks that agree keep their gradients"


def test_pcgrad_changes_what_is_shared_and_nothing_else():
    model = small("mmoe")
    ranker = model.ranker
    batch = training_batch(model, 64, 4)
    plain = copy.deepcopy(ranker)
    weighted_total(plain.losses(batch), {"pctr": 1.0, "plike": 1.0}).backward()
    expected = {name: p.grad for name, p in plain.named_parameters()}
    weighting = PcGrad(ranker, {"pctr": 1.0, "plike": 1.0})
    opposed = ranker.losses(batch)
    opposed["plike"] = opposed["plike"] - 2 * opposed["pctr"]  # conflict by construction
    weighting.backward(opposed, batch, epoch=0)
    assert weighting.logged() == {"conflicts": 1.0}
    for name, parameter in ranker.named_parameters():
        if name.startswith("towers"):
            of_pctr = parameter.grad
            of_plike = expected[name]
            torch.testing.assert_close(of_pctr[0], -of_plike[0])
            torch.testing.assert_close(of_pctr[1], of_plike[1])


def test_pcgrad_without_conflict_is_the_plain_sum():
    model = small("ple")
    ranker = model.ranker
    batch = training_batch(model, 64, 4)
    plain = copy.deepcopy(ranker)
    (2 * plain.losses(batch)["pctr"]).backward()
    loss = ranker.losses(batch)["pctr"]
    PcGrad(ranker, {"a": 1.0, "b": 1.0}).backward({"a": loss, "b": loss}, batch, epoch=0)
    for (name, parameter), other in zip(ranker.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, torch.zeros_like(parameter) if other.grad is None else other.grad, msg=name
        )


@pytest.mark.parametrize("architecture", list(CATALOGUE))
@pytest.mark.parametrize("kind", ["gradnorm", "pcgrad"])
def test_every_model_takes_every_weighting(architecture, kind):
    model = small(architecture)
    ranker = model.ranker.train()
    batch = training_batch(model, 64, 4)
    weighting = build_weighting(ranker, TrainingSection(weighting=KINDS[kind]))
    weighting.backward(ranker.losses(batch), batch, epoch=0)
    assert all(math.isfinite(value) for value in weighting.logged().values())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in ranker.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stopped_and_resumed_ends_with_the_same_bits_and_the_report_shows_the_weights(
    tiny_recipe, tmp_path, monkeypatch, kind
):
    recipe = tiny_recipe(None, {"training.weighting": KINDS[kind], "model.dropout": 0.1, "training.patience": 99})
    options = {"cache": tmp_path / "cache", "quiet": True, "reading_steps": 0}
    training.train(recipe, tmp_path / "whole", **options)

    save = loop.save_session
    seen = []

    def stop(*arguments):
        save(*arguments)
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_session", stop)
        with pytest.raises(KeyboardInterrupt):
            training.train(recipe, tmp_path / "stopped", **options)
    training.train(recipe, tmp_path / "stopped", resume=True, **options)

    whole, resumed = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["weights"] for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "stopped")]
    assert histories[0] == histories[1]
    shown = f"Loss weighting: {kind}" in (tmp_path / "whole" / "report.html").read_text()
    assert shown == (kind != "static")
    assert bool(histories[0]["losses"][-1]["weighting"]) == (kind != "static")


def test_a_transfer_that_trains_one_task_leaves_the_others_decay_and_sampling_out(tiny_recipe):
    changes = {
        "training.weighting": {"type": "decayed", "decay": {"pctr": 0.5}},
        "training.transfer": {"mode": "retrain_single", "task": "plong_view"},
        "calibration": {"negative_sampling": {"pctr": 0.1, "plong_view": 0.2}},
    }
    narrow = narrowed(tiny_recipe(None, changes))
    assert narrow.training.weighting.type == "static"
    assert narrow.calibration.negative_sampling == {"plong_view": 0.2}
