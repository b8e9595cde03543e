"""D2Q against a float64 reference: quantiles by group of durations, the squared error, and the way back to a time."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.recipe import RecipeError
from models.structures.d2q import D2qOptions, Distributions
from models.train import train
from models.training.run import open_run

GROUPS = 4
POINTS = 20
DURATION = "item/length"


def log(n=4000, seed=0):
    """Durations, some missing, and times that grow with them; a tenth of the times is 0."""
    rng = np.random.default_rng(seed)
    duration = rng.lognormal(3, 1, n).astype(np.float32).astype(float)  # as the tables have it
    time = np.where(rng.random(n) < 0.1, 0.0, duration * rng.beta(2, 3, n))
    return np.where(rng.random(n) < 0.1, np.nan, duration), time


def fitted(duration, time):
    made = Distributions(GROUPS, POINTS).double()
    made.fit(time, duration)
    return made


class Reference:
    """The equations of the paper, one impression at a time."""

    def __init__(self, duration, time):
        known = ~np.isnan(duration)
        self.edges = np.quantile(duration[known], np.arange(1, GROUPS) / GROUPS)
        levels = (np.arange(POINTS) + 0.5) / POINTS
        of_group = {None: time} | {k: time[known][self.group(duration[known]) == k] for k in range(GROUPS)}
        self.table = {k: np.quantile(times, levels) for k, times in of_group.items()}

    def group(self, duration):
        return (np.asarray(duration)[..., None] >= self.edges).sum(-1)

    def row(self, duration):
        return self.table[None if np.isnan(duration) else int(self.group(duration))]

    def level(self, time, duration):
        row = self.row(duration)
        return ((row < time).sum() + (row <= time).sum()) / (2 * POINTS)

    def time(self, level, duration):
        return np.interp(level, (np.arange(POINTS) + 0.5) / POINTS, self.row(duration))


def test_levels_and_times_are_those_of_the_group():
    duration, time = log()
    made = fitted(duration, time)
    reference = Reference(duration, time)
    at = torch.from_numpy(duration[:300])
    levels = made.level(torch.from_numpy(time[:300]), at).numpy()
    np.testing.assert_allclose(levels, [reference.level(t, d) for t, d in zip(time[:300], duration, strict=False)])
    given = np.random.default_rng(1).random(300)
    times = made.time(torch.from_numpy(given), at).numpy()
    np.testing.assert_allclose(times, [reference.time(p, d) for p, d in zip(given, duration, strict=False)], rtol=1e-6)


def test_a_time_comes_back_from_its_level():
    duration, time = log()
    made = fitted(duration, time)
    for d in (1.0, 20.0, 500.0, np.nan):
        row = made.rows(torch.tensor([d]))[0]
        distinct = row[row > 0]
        at = torch.full((len(distinct),), d, dtype=torch.float64)
        torch.testing.assert_close(made.time(made.level(distinct, at), at), distinct)


def test_levels_are_even_in_every_group_and_rise_with_the_time():
    duration, time = log()
    made = fitted(duration, time)
    levels = made.level(torch.from_numpy(time), torch.from_numpy(duration)).numpy()
    groups = Reference(duration, time).group(duration)
    for k in range(GROUPS):
        inside = (groups == k) & ~np.isnan(duration)
        assert levels[inside].mean() == pytest.approx(0.5, abs=0.02)
    ascending = made.level(torch.linspace(-1, 200, 500), torch.full((500,), 20.0))
    assert (ascending.diff() >= 0).all() and ascending[0] == 0 and ascending[-1] == 1


def test_the_loss_is_the_squared_error_of_the_level_and_its_gradient_moves_the_head():
    duration, time = log(300)
    task = D2qOptions(type="d2q", name="watch", label="ms", duration="length", groups=GROUPS, quantiles=POINTS)
    built = task.build(_schema())
    built.distributions.double()
    built.fit(time, {DURATION: duration})
    logit = torch.randn(300, dtype=torch.float64, requires_grad=True)
    logits = {"watch": logit, DURATION: torch.from_numpy(duration)}
    (output,) = built.outputs
    loss = output.correction.loss(built.scores(logits)["watch"], torch.from_numpy(time), {}, logits)
    loss.backward()
    p = 1 / (1 + np.exp(-logit.detach().numpy()))
    reference = Reference(duration, time)
    levels = np.array([reference.level(t, d) for t, d in zip(time, duration, strict=True)])
    assert float(loss.detach()) == pytest.approx(np.mean((p - levels) ** 2))
    np.testing.assert_allclose(logit.grad.numpy(), 2 * (p - levels) * p * (1 - p) / 300, atol=1e-9)


def _schema():
    return small("d2q").recipe.features.model_copy(update={"item": (_length(),)})


def _length():
    price = next(f for f in small("d2q").recipe.features.item if f.name == "price")
    return price.model_copy(update={"name": "length"})


def test_the_duration_decides_the_time_of_one_level():
    duration, time = log()
    made = fitted(duration, time)
    half = torch.full((3,), 0.5, dtype=torch.float64)
    short, middle, long = made.time(half, torch.tensor([2.0, 20.0, 400.0])).tolist()
    assert short < middle < long


def test_a_log_without_any_duration_has_one_distribution():
    time = np.random.default_rng(0).random(1000)
    made = fitted(np.full(1000, np.nan), time)
    assert made.time(torch.tensor([0.5]), torch.tensor([np.nan]))[0] == pytest.approx(0.5, abs=0.05)


def test_the_statistics_are_saved_with_the_run_and_a_run_that_continues_it_keeps_them(tiny_recipe, tables, tmp_path):
    shown = tables["impressions"]
    shown["watched"] = np.random.default_rng(0).random(len(shown)) * (1 + shown["click"])
    task = {"type": "d2q", "name": "watch", "label": "watched", "duration": "length", "groups": 2, "quantiles": 8}
    changes = {"tasks": [task], "extra_evaluations": [], "training.epochs": 1}
    options = {"cache": tmp_path / "cache", "reading_steps": 0, "quiet": True}
    metrics = train(tiny_recipe(tables, changes), tmp_path / "run", **options)
    measured = metrics["parts"]["test"]["outputs"]["watch"]
    assert measured["kind"] == "value" and measured["rmse"] < 1
    table = open_run(tmp_path / "run").ranker.statistics["watch"].table
    assert 0.5 < table[0, 4] < 1.2 and table[0, -1] > 1.5
    # Times have doubled; the weights belong to the earlier distribution.
    doubled = tables | {"impressions": shown.assign(watched=2 * shown["watched"])}
    train(tiny_recipe(doubled, changes), tmp_path / "next", start=tmp_path / "run", **options)
    assert torch.equal(open_run(tmp_path / "next").ranker.statistics["watch"].table, table)


def test_an_ensemble_has_the_distributions_in_every_member_and_scores_by_them(tiny_recipe, tables, tmp_path):
    shown = tables["impressions"]
    shown["watched"] = np.random.default_rng(0).random(len(shown)) * (1 + shown["click"])
    task = {"type": "d2q", "name": "watch", "label": "watched", "duration": "length", "groups": 2, "quantiles": 8}
    changes = {"tasks": [task], "extra_evaluations": [], "training.epochs": 1, "training.ensemble": 2}
    options = {"cache": tmp_path / "cache", "reading_steps": 0, "quiet": True}
    metrics = train(tiny_recipe(tables, changes), tmp_path / "run", **options)
    assert metrics["parts"]["test"]["outputs"]["watch"]["rmse"] < 1
    ranker = open_run(tmp_path / "run").ranker
    table = ranker.statistics["watch"].table
    assert torch.equal(ranker.others[0].statistics["watch"].table, table) and table[0, -1] > 1.5


def test_a_duration_that_is_no_numeric_item_feature_is_refused():
    task = {"type": "d2q", "name": "watch", "label": "log1p(watch_ms)", "duration": "shop"}
    with pytest.raises(RecipeError, match="'watch' names 'shop', which is no numeric item feature"):
        small("d2q", tasks=[task])


def test_the_loss_of_a_ranker_reads_the_item():
    model = small("d2q")
    batch = training_batch(model, 64, 3)
    with torch.no_grad():
        loss = model.ranker.losses(batch)["watch_time"]
        missing = model.ranker.losses(batch | {"item_numerics": batch["item_numerics"] * np.nan})["watch_time"]
    assert loss != missing and torch.isfinite(missing)
