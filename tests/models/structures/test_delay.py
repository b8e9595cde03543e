"""Tests the corrections for delayed conversions: float64 references, unbiasedness, what the chain's losses read."""

import numpy as np
import pytest
import torch

from models.layers.probability import of_logit
from models.recipe import RecipeError
from models.structures.delay import HEAD, DelayedFeedbackOptions, ElapsedWeightsOptions, FakeNegativesOptions
from models.structures.esm2 import Esm2Options
from models.structures.esmm import EsmmOptions
from models.train import train

SCALE = 3600.0
N = 400


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows(seed=0):
    """Logits of the conversion and of the delay, labels, ages and delays in seconds, float64."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(60, 20 * SCALE, N)
    label = (rng.random(N) < 0.3).astype(np.float64)
    return rng.normal(0, 2, N), rng.normal(0, 1, N), label, age, label * age * rng.random(N)


def as_torch(*arrays):
    return [torch.from_numpy(array).float() for array in arrays]


def loss_and_gradients(options, given, more):
    """The loss, and its gradient by the logit of the conversion and by that of the delay."""
    z, s = (torch.from_numpy(array).float().requires_grad_() for array in given[:2])
    (label,) = as_torch(given[2])
    loss = options.of_conversion().loss(of_logit(z), label, {f"label/{n}": v for n, v in more.items()}, {HEAD: s})
    loss.backward()
    return float(loss.detach()), z.grad.double().numpy(), s.grad.double().numpy()


def numerically(function, x, h=1e-5):
    out = np.zeros(len(x))
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        out[i] = (function(up) - function(down)) / (2 * h)
    return out


def by_age(given):
    return dict(zip(("age_s", "delay_s"), as_torch(given[3], given[4]), strict=True))


def test_delayed_feedback_is_the_likelihood_of_chapelle():
    given = rows()
    z, s, y, age, delay = given

    def reference(z, s):
        p, rate = sigmoid(z), np.exp(s) / SCALE
        seen = np.log(p) + np.log(rate * SCALE) - rate * delay
        return -np.mean(np.where(y > 0, seen, np.log(1 - p + p * np.exp(-rate * age))))

    options = DelayedFeedbackOptions(type="delayed_feedback", age="age_s", delay="delay_s", scale_s=SCALE)
    loss, of_z, of_s = loss_and_gradients(options, given, by_age(given))
    assert loss == pytest.approx(reference(z, s), rel=1e-5)
    np.testing.assert_allclose(of_z, numerically(lambda x: reference(x, s), z), atol=1e-7)
    np.testing.assert_allclose(of_s, numerically(lambda x: reference(z, x), s), atol=1e-6)


def test_elapsed_weights_are_the_ratios_of_the_true_to_the_seen_labels():
    given = rows(1)
    z, s, y, age, delay = given
    p_held, rate_held = sigmoid(z), np.exp(s) / SCALE
    within_held = 1 - np.exp(-rate_held * age)

    def reference(z, s):
        p, rate = sigmoid(z), np.exp(s) / SCALE
        within = 1 - np.exp(-rate * age)
        of_delay = np.log(rate * SCALE) - rate * delay - np.log(within)
        seen = np.minimum(1 / within_held, 20) * np.log(p) + of_delay
        unseen = (1 - p_held) / (1 - p_held * within_held) * np.log(1 - p)
        return -np.mean(np.where(y > 0, seen, unseen))

    options = ElapsedWeightsOptions(type="elapsed_weights", age="age_s", delay="delay_s", scale_s=SCALE)
    loss, of_z, of_s = loss_and_gradients(options, given, by_age(given))
    assert loss == pytest.approx(reference(z, s), rel=1e-5)
    np.testing.assert_allclose(of_z, numerically(lambda x: reference(x, s), z), atol=1e-7)
    np.testing.assert_allclose(of_s, numerically(lambda x: reference(z, x), s), atol=1e-6)


def test_fake_negatives_have_the_weights_of_es_dfm():
    z, s, y, *_ = given = rows(2)
    s = given[1][:] = s - 2
    late = y * (np.random.default_rng(3).random(N) < 0.5)
    p_held, p_late = sigmoid(z), np.minimum(np.exp(s), 1)

    def reference(z, s):
        p = sigmoid(z)
        real_negative = (1 - p_held) / (1 - p_held + p_late)
        of_rows = y * (1 + p_late) * np.log(p) + (1 - y) * (1 + p_late) * real_negative * np.log(1 - p)
        return -np.mean(of_rows) - np.mean(late * np.log(sigmoid(s)) + (1 - late) * np.log(1 - sigmoid(s)))

    options = FakeNegativesOptions(type="fake_negatives", late="late")
    loss, of_z, of_s = loss_and_gradients(options, given, {"late": as_torch(late)[0]})
    assert loss == pytest.approx(reference(z, s), rel=1e-5)
    np.testing.assert_allclose(of_z, numerically(lambda x: reference(x, s), z), atol=1e-7)
    np.testing.assert_allclose(of_s, numerically(lambda x: reference(z, x), s), atol=1e-6)


def test_a_repetition_counts_in_the_conversion_alone():
    options = EsmmOptions(
        type="esmm", click="click", conversion="buy", delay={"type": "fake_negatives", "late": "late"}
    )
    pctr = options.build(None).outputs[0]
    z = torch.tensor([0.3, -1.0, 2.0])
    labels = {"label/late": torch.tensor([0.0, 0.0, 1.0])}
    loss = pctr.correction.loss(of_logit(z), torch.tensor([1.0, 0.0, 1.0]), labels, {})
    assert float(loss) == pytest.approx(-np.mean([np.log(sigmoid(0.3)), np.log(1 - sigmoid(-1.0))]), rel=1e-6)


def fitted(options, y, more, steps=800):
    """The probability that a constant model reaches by descending the loss."""
    z = torch.zeros(1, requires_grad=True)
    s = torch.zeros(1, requires_grad=True)
    rule = torch.optim.Adam([z, s], lr=0.02)
    for _ in range(steps):
        rule.zero_grad()
        batch = {f"label/{name}": value for name, value in more.items()}
        options.of_conversion().loss(of_logit(z.expand(len(y))), y, batch, {HEAD: s.expand(len(y))}).backward()
        rule.step()
    return float(torch.sigmoid(z.detach()))


@pytest.mark.parametrize("correction", ["delayed_feedback", "elapsed_weights", "fake_negatives"])
def test_the_true_rate_is_reached_from_labels_that_show_half_of_it(correction):
    rng = np.random.default_rng(4)
    n = 20_000
    converted = rng.random(n) < 0.3
    delay = rng.exponential(2 * SCALE, n)
    age = rng.uniform(0, 4 * SCALE, n)
    seen = converted & (delay < age)
    assert seen.mean() < 0.2
    if correction == "fake_negatives":
        first = converted & (delay < 0.5 * SCALE)
        again = int((converted & ~first).sum())
        y = torch.cat([*as_torch(first), torch.ones(again)])
        late = torch.cat([torch.zeros(n), torch.ones(again)])
        rate = fitted(FakeNegativesOptions(type=correction, late="late"), y, {"late": late})
    else:
        kinds = {"delayed_feedback": DelayedFeedbackOptions, "elapsed_weights": ElapsedWeightsOptions}
        options = kinds[correction](type=correction, age="age_s", delay="delay_s", scale_s=SCALE)
        (y,) = as_torch(seen)
        rate = fitted(options, y, by_age((None, None, y, age, seen * delay)))
    assert rate == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("correction", ["delayed_feedback", "elapsed_weights", "fake_negatives"])
def test_extreme_logits_keep_loss_and_gradients_finite(correction):
    kinds = {"delayed_feedback": DelayedFeedbackOptions, "elapsed_weights": ElapsedWeightsOptions}
    for z in (-80.0, 80.0):
        for s in (-80.0, 80.0):
            for label in (0.0, 1.0):
                given = (np.array([z]), np.array([s]), np.array([label]), np.array([60.0]), np.array([30.0 * label]))
                if correction == "fake_negatives":
                    options = FakeNegativesOptions(type=correction, late="late")
                    more = {"late": torch.tensor([label])}
                else:
                    options = kinds[correction](type=correction, age="age_s", delay="delay_s")
                    more = by_age(given)
                loss, *gradients = loss_and_gradients(options, given, more)
                assert np.isfinite(loss) and np.isfinite(gradients).all()


@pytest.mark.parametrize("chain", ["esmm", "esm2"])
def test_a_chain_with_a_correction_trains_and_serves_the_outputs_that_it_had(tiny_recipe, tables, tmp_path, chain):
    impressions = tables["impressions"]
    aged = impressions.assign(age_s=9e5, delay_s=np.where(impressions.like > 0, 3600.0, 0.0))
    options = {"age": "age_s", "delay": "delay_s", "type": "delayed_feedback"}
    task = {"type": chain, "click": "click", "conversion": "like", "delay": options}
    task |= {"action": "long_view"} if chain == "esm2" else {}
    changes = {"tasks": [task], "training.epochs": 1, "extra_evaluations": []}
    recipe = tiny_recipe(tables | {"impressions": aged}, changes)
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert "pctcvr" in metrics["parts"]["test"]["outputs"] and HEAD not in metrics["parts"]["test"]["outputs"]
    refused = tiny_recipe(tables | {"impressions": aged}, changes | LISTED)
    with pytest.raises(RecipeError, match="a list loss would take a conversion to come for none"):
        train(refused, tmp_path / "other", cache=tmp_path / "cache", quiet=True)


LISTED = {"training.list_losses": {"pctcvr": {"type": "pairwise"}}}


def test_a_chain_without_a_correction_has_the_heads_of_before():
    assert EsmmOptions(type="esmm", click="c", conversion="b").build(None).heads == ("pctr", "pcvr")
    assert Esm2Options(type="esm2", click="c", action="a", conversion="b").build(None).heads == (
        "pctr",
        "y2",
        "y3",
        "y4",
    )
    assert "delay" not in EsmmOptions(type="esmm", click="c", conversion="b").model_dump()


BY_AGE = {"type": "elapsed_weights", "age": "age_s", "delay": "delay_s"}
TWICE = {"type": "fake_negatives", "late": "late"}


@pytest.mark.parametrize(
    ("delay", "columns", "message"),
    [
        (BY_AGE, {"age_s": -1.0}, "'age_s' is negative in .* impressions of the training part"),
        (BY_AGE, {"delay_s": -1.0}, "'delay_s' is negative in"),
        (BY_AGE, {"age_s": 3599.0}, r"'delay_s' is above 'age_s' in \d+ conversions .*both are in seconds"),
        (BY_AGE, {"delay_s": 0.0}, "'delay_s' is 0 in every conversion of the training part"),
        (TWICE, {"late": 1}, r"'late' is 1 in [\d,]+ rows of the training part without a conversion"),
    ],
)
def test_columns_that_no_log_can_have_are_refused(tiny_recipe, tables, tmp_path, delay, columns, message):
    impressions = tables["impressions"]
    aged = impressions.assign(age_s=9e5, delay_s=np.where(impressions.like > 0, 3600.0, 0.0), late=0)
    task = {"type": "esmm", "click": "click", "conversion": "like", "delay": delay}
    recipe = tiny_recipe(
        tables | {"impressions": aged.assign(**columns)},
        {"tasks": [task], "training.epochs": 1, "extra_evaluations": []},
    )
    with pytest.raises(RecipeError, match=message):
        train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], r"'late' is 1 in [\d,]+ rows of the validation part, which has each impression once"),
        (
            [{"type": "independent", "name": "plong_view", "label": "long_view"}],
            "repeat an impression, which the other tasks would count twice",
        ),
    ],
)
def test_a_repeated_impression_never_counts_twice(tiny_recipe, tables, tmp_path, tasks, message):
    repeated = tables["impressions"].assign(late=tables["impressions"].like)
    chain = {"type": "esmm", "click": "click", "conversion": "like", "delay": TWICE}
    changes = {"tasks": [chain, *tasks], "training.epochs": 1, "extra_evaluations": []}
    recipe = tiny_recipe(tables | {"impressions": repeated}, changes)
    with pytest.raises(RecipeError, match=message):
        train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    listed = changes | {"training.list_losses": {"pctr": {"type": "jrc"}}}
    refused = tiny_recipe(tables | {"impressions": repeated}, listed)
    with pytest.raises(RecipeError, match="'pctr' counts each impression once; a list loss would count repeated ones"):
        train(refused, tmp_path / "listed", cache=tmp_path / "cache", quiet=True, reading_steps=0)
