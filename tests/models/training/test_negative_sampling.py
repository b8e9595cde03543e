"""Tests training on a share of the negatives: which ones, what they count, and that the probabilities stay true."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.data.batches import shuffled_batches
from models.data.cache import labels_of, open_data
from models.data.sampling import trained_rows
from models.network.build import build_model
from models.recipe import RecipeError
from models.simulators.base import recipe_of, sigmoid, trained, write_tables
from models.simulators.batch_norm import FEATURES, world
from models.train import train
from models.training.evaluation import scores_of
from models.training.outcome import summary_lines
from models.training.statistics import fit_weights

SHARE = 0.25
SAMPLED = {"training.negative_sampling": SHARE}
WATCH = {"type": "independent", "name": "watch_time", "label": "battery", "kind": "value"}


def rows_of(tiny_recipe, tmp_path, changes):
    data = open_data(tiny_recipe(None, SAMPLED | changes), tmp_path / "cache")
    return data, data.trained_rows


def rows_of_seed(data, seed):
    """The rows that another seed chooses of the same data."""
    training = data.recipe.training.model_copy(update={"seed": seed})
    return replace(data, recipe=data.recipe.model_copy(update={"training": training})).trained_rows


def positive(data):
    return np.any([labels_of(data, "train", [name]) > 0 for name in data.recipe.binary_columns], axis=0)


def test_every_positive_stays_and_a_share_of_the_others(tiny_recipe, tmp_path):
    data, _ = rows_of(tiny_recipe, tmp_path, {})
    is_positive = positive(data)
    assert data.recipe.binary_columns == ("click", "like", "long_view") and 0.2 < is_positive.mean() < 0.9
    others = int((~is_positive).sum())
    counts = []
    for seed in range(200):
        rows = rows_of_seed(data, seed)
        assert (np.diff(rows) > 0).all() and np.isin(np.flatnonzero(is_positive), rows).all()
        counts.append(int((~is_positive[rows]).sum()))
    # Each seed keeps a binomial number; five deviations of the mean of 200 of them.
    assert abs(np.mean(counts) - SHARE * others) < 5 * np.sqrt(others * SHARE * (1 - SHARE) / 200)
    assert np.std(counts) == pytest.approx(np.sqrt(others * SHARE * (1 - SHARE)), rel=0.25)


def test_the_seed_alone_decides_and_a_larger_share_keeps_what_a_smaller_one_keeps(tiny_recipe, tmp_path):
    _, one = rows_of(tiny_recipe, tmp_path, {})
    _, again = rows_of(tiny_recipe, tmp_path, {"training.batch_size": 32})
    _, other = rows_of(tiny_recipe, tmp_path, {"training.seed": 2})
    _, more = rows_of(tiny_recipe, tmp_path, {"training.negative_sampling": 0.5})
    assert one.tolist() == again.tolist() != other.tolist()
    assert set(one) < set(more)


@pytest.mark.parametrize("lists", [{}, {"pctr": {"type": "pairwise"}}])
def test_an_epoch_has_each_of_them_once_and_validation_is_whole(tiny_recipe, tmp_path, lists):
    data, rows = rows_of(tiny_recipe, tmp_path, {"training.list_losses": lists})
    epochs = [torch.cat([b["request_time"] for b in shuffled_batches(data, "train", 64, 1, e)]) for e in (0, 1)]
    expected = np.sort(data.parts["train"].time[rows])
    for times in epochs:
        assert np.sort(times.numpy()).tolist() == expected.tolist()
    assert epochs[0].tolist() != epochs[1].tolist()
    validation = sum(len(b["request_time"]) for b in shuffled_batches(data, "validation", 64, 1, 0))
    assert validation == len(data.parts["validation"])


def test_the_sampled_loss_is_that_of_all_impressions_in_expectation(tiny_recipe, tmp_path):
    data, _ = rows_of(tiny_recipe, tmp_path, {"data.weight": "place"})
    model = build_model(data.recipe, data.encoding).eval()
    weights = model.objective.weights
    weights.share = 1.0
    (whole,) = shuffled_batches(
        open_data(tiny_recipe(None, {"data.weight": "place"}), tmp_path / "cache"), "train", 10**6, 1, 0
    )
    place = whole["weight/place"].double()
    with torch.no_grad():
        logits = {name: p.yes.double() - p.no.double() for name, p in model.factor_scores(whole).items()}
    of_click = torch.nn.functional.softplus(logits["pctr"]) - whole["label/click"] * logits["pctr"]
    full = float((place * of_click).sum())
    weights.share = SHARE
    seen = []
    for seed in range(300):
        rows = rows_of_seed(data, seed)
        batch = {name: values[rows] for name, values in whole.items()}
        seen.append(float((weights.plain(batch, "pctr").double() * of_click[rows]).sum()))
    assert abs(np.mean(seen) - full) < 5 * np.std(seen) / np.sqrt(len(seen))
    assert np.std(seen) < 0.1 * full
    # The mean divides the sum by the same weights.
    fit_weights(model, data)
    rows = data.trained_rows
    batch = {name: values[rows] for name, values in whole.items()}
    assert weights.means["pctr"] == pytest.approx(float(weights.plain(batch, "pctr").double().mean()), rel=1e-6)


def test_weights_are_exact_for_every_label_where_a_shift_of_logits_is_not():
    """Exact rates of two labels that depend on each other, in float64: in each cell of x, over all four outcomes."""
    share = 0.1
    joint = np.array([[0.80, 0.05, 0.10, 0.05], [0.40, 0.40, 0.05, 0.15], [0.97, 0.01, 0.01, 0.01]])
    click = np.array([0, 0, 1, 1])
    save = np.array([0, 1, 0, 1])
    share_kept = np.where(click + save > 0, 1.0, share)
    seen = joint * share_kept
    seen /= seen.sum(1, keepdims=True)
    weight = 1 / share_kept
    for label in (click, save):
        truth = (joint * label).sum(1)
        weighted = (seen * weight * label).sum(1) / (seen * weight).sum(1)
        np.testing.assert_allclose(weighted, truth, rtol=1e-14)
        plain = (seen * label).sum(1)
        shifted = plain / (plain + (1 - plain) / share)
        assert (np.abs(shifted / truth - 1) > 0.05).any() and not (np.abs(weighted / truth - 1) > 1e-12).any()


@pytest.mark.slow  # two trainings on 50,000 impressions
@pytest.mark.parametrize("batch_norm", [[], ["trunk", "towers"]], ids=["plain", "batch_norm"])
def test_chains_and_tasks_beside_them_are_true_online(batch_norm: list[str], tmp_path: Path) -> None:
    """The truth of every impression is known, and the test part is whole; an item may be saved without a click."""
    tables, shown = world(np.random.default_rng([7, 1]), 50_000, 1.0)
    rng = np.random.default_rng(8)
    quality = [tables["items"][f"quality_{k}"].to_numpy()[shown.item_id] for k in range(3)]
    truth = {"pctr": shown.truth.to_numpy(), "pcvr": sigmoid(quality[0] - 0.5), "psave": sigmoid(quality[2] - 2.5)}
    truth["pctcvr"] = truth["pctr"] * truth["pcvr"]
    buys = (rng.random(len(shown)) < truth["pcvr"]) & (shown.click > 0)
    saves = rng.random(len(shown)) < truth["psave"]
    tables["impressions"] = tables["impressions"].assign(buy=buys.astype(int), save=saves.astype(int))
    write_tables(tmp_path, tables)
    # Train on a fifth of the impressions without any of the three labels.
    tasks = [{"type": "esmm", "click": "click", "conversion": "buy"}]
    tasks += [{"type": "independent", "name": "psave", "label": "save"}]
    model: dict[str, Any] = {"architecture": "mmoe", "trunk": {"type": "mmoe", "expert_hidden": [32, 16]}}
    model |= {"batch_norm": batch_norm} if batch_norm else {}
    training = {"negative_sampling": 0.2, "epochs": 4, "batch_size": 64, "averaging": 0.95}
    ranker, data = trained(recipe_of("sampled", FEATURES, tasks, model, training=training), tmp_path, 1)
    scores = {name: np.exp(score.astype(np.float64)) for name, score in scores_of(ranker, data, "test").items()}
    # Without the weights the click would come out about twice as likely.
    clicks = labels_of(data, "train", ["click"])
    assert clicks[data.trained_rows].mean() / clicks.mean() > 2
    test = (tables["impressions"].part == "test").to_numpy()
    bias = {name: float(scores[name].mean() / values[test].mean() - 1) for name, values in truth.items()}
    assert abs(bias["pctr"]) < 0.1 and abs(bias["psave"]) < 0.1 and abs(bias["pctcvr"]) < 0.2, bias
    # pcvr is defined on clicks.
    clicked = (tables["impressions"].click > 0).to_numpy()[test]
    assert abs(scores["pcvr"][clicked].mean() / truth["pcvr"][test][clicked].mean() - 1) < 0.15
    assert np.corrcoef(scores["pctr"], truth["pctr"][test])[0, 1] > 0.7


def test_a_run_says_what_it_trained_on_and_measures_all(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, SAMPLED | {"training.epochs": 1})
    metrics = train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    data = open_data(recipe, tmp_path / "cache")
    of_train = metrics["parts"]["train"]
    assert of_train["trained"] == len(data.trained_rows) < of_train["impressions"] == len(data.parts["train"])
    assert metrics["parts"]["validation"]["impressions"] == len(data.parts["validation"])
    begin = f"trained on {of_train['trained']:,} of {of_train['impressions']:,} impressions: "
    line = next(line for line in summary_lines(metrics, tmp_path / "run") if line.startswith(begin))
    assert line == f"{begin}all with a positive label, and the share training.negative_sampling of the others"


def test_the_impressions_are_chosen_once_for_all_epochs_the_weights_and_the_report(tiny_recipe, tmp_path, monkeypatch):
    chosen: list[int] = []

    def counted(recipe, labels, ids):
        chosen.append(len(labels))
        return trained_rows(recipe, labels, ids)

    monkeypatch.setattr("models.data.cache.trained_rows", counted)
    data = open_data(tiny_recipe(None, SAMPLED), tmp_path / "cache")
    n = sum(len(batch["user_rows"]) for epoch in range(2) for batch in shuffled_batches(data, "train", 64, 1, epoch))
    fit_weights(build_model(data.recipe, data.encoding, data.cross_values), data)
    assert n == 2 * data.trained_count == 2 * len(data.trained_rows)
    assert chosen == [len(data.parts["train"])]


def test_a_share_of_1_is_the_recipe_without_the_key(tiny_recipe, tmp_path):
    data, rows = rows_of(tiny_recipe, tmp_path, {"training.negative_sampling": 1.0})
    assert rows is None and data.recipe == tiny_recipe(None)
    assert "negative_sampling" not in data.recipe.model_dump()["training"]


def test_what_cannot_be_sampled_is_refused(tiny_recipe, tables, tmp_path):
    with pytest.raises(RecipeError, match=r"negative_sampling: no task has a label of 0 or 1"):
        tiny_recipe(None, SAMPLED | {"tasks": [WATCH], "extra_evaluations": [], "features.context": []})
    dcmt = {"type": "dcmt", "click": "click", "conversion": "like"}
    recipe = tiny_recipe(None, SAMPLED | {"model.architecture": "dcmt", "tasks": [dcmt], "extra_evaluations": []})
    data = open_data(recipe, tmp_path / "cache")
    with pytest.raises(RecipeError, match=r"negative_sampling: the loss of 'pcvr' divides by the sums"):
        build_model(recipe, data.encoding)
    for share in (0, 1.5, -1):
        with pytest.raises(RecipeError, match="negative_sampling"):
            tiny_recipe(None, {"training.negative_sampling": share})
    tables["impressions"][["click", "like", "long_view"]] = 0
    data = open_data(tiny_recipe(tables, {"training.negative_sampling": 1e-9}), tmp_path / "cache")
    with pytest.raises(RecipeError, match=r"none of the 622 impressions without a positive label is kept at a share"):
        _ = data.trained_rows


def test_a_share_that_keeps_no_negative_is_refused_and_not_trained_on_positives_alone(tiny_recipe, tables, tmp_path):
    """Beside positives too: a model that never sees a negative predicts 1."""
    data, _ = rows_of(tiny_recipe, tmp_path, {})
    training = data.recipe.training.model_copy(update={"negative_sampling": 1e-9})
    few = replace(data, recipe=data.recipe.model_copy(update={"training": training}))
    negatives = int((~positive(data)).sum())
    with pytest.raises(RecipeError, match=rf"none of the {negatives} impressions .* at a share of 1e-09"):
        _ = few.trained_rows
    # Without any negative there is none to lose.
    tables["impressions"]["click"] = 1
    whole = open_data(tiny_recipe(tables, {"training.negative_sampling": 1e-9}), tmp_path / "cache")
    assert whole.trained_rows.tolist() == list(range(len(whole.parts["train"])))
