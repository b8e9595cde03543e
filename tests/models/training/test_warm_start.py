"""Tests that a run continues another one on new days: weights by key, the optimiser's state, the provenance."""

import hashlib

import numpy as np
import pytest
import torch

from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.network.build import build_model
from models.prediction.rows import score_run
from models.recipe import RecipeError
from models.train import train
from models.training.run import open_run
from models.training.updates.optimisation import Optimiser
from models.training.warm_start import MemberStart, continue_from

TABLE = "inputs.table.weight"
STILL = {"training.learning_rate": 1e-12, "training.epochs": 1}


def of_users(tables, users):
    impressions = tables["impressions"]
    return tables | {"impressions": impressions[impressions.user_id.isin(users)]}


@pytest.fixture
def run(tmp_path):
    def trained(recipe, name, **options):
        options = {"reading_steps": 0} | options
        return train(recipe, tmp_path / name, cache=tmp_path / "cache", quiet=True, **options)

    return trained


@pytest.fixture
def days(tables):
    """The tables of two days: the second has users that the first lacks, and lacks some of the first."""
    return of_users(tables, range(25)), of_users(tables, range(10, 40))


def test_every_earlier_id_keeps_its_vector_and_new_ids_get_rows_behind_them(tiny_recipe, days, run, tmp_path):
    run(tiny_recipe(days[0]), "monday")
    metrics = run(tiny_recipe(days[1], STILL), "tuesday", start=tmp_path / "monday")
    monday, tuesday = (open_run(tmp_path / name) for name in ("monday", "tuesday"))
    old, new = (
        dict(zip(r.encoding.vocabulary.keys, r.encoding.vocabulary.rows, strict=True)) for r in (monday, tuesday)
    )
    assert old.items() <= new.items()
    rows = monday.encoding.vocabulary.n_rows
    assert sorted(new[key] for key in new.keys() - old.keys()) == list(
        range(rows, rows + metrics["started_from"]["new_rows"])
    )
    assert metrics["started_from"]["new_rows"] > 0
    before, after = (r.ranker.state_dict() for r in (monday, tuesday))
    torch.testing.assert_close(after[TABLE][:rows], before[TABLE], atol=1e-9, rtol=0)
    for name in before.keys() - {TABLE}:
        torch.testing.assert_close(after[name], before[name], atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize("rule", ["adam", "adagrad"])
def test_the_next_step_is_the_one_that_the_earlier_run_would_have_made(tiny_recipe, days, tmp_path, rule):
    changes = {"training.optimiser": rule, "model.embedding.unknown_rate": 0.0, "training.averaging": 0.0}
    recipe = tiny_recipe(days[0], changes)
    data = open_data(recipe, tmp_path / "cache")
    batches = [batch for _, batch in zip(range(3), ordered_batches(data, "train", 64), strict=False)]
    torch.manual_seed(1)
    model = build_model(recipe, data.encoding)
    optimiser = Optimiser(model, recipe.training, 100)

    def step(ranker, rule, batch):
        rule.zero_grad()
        torch.stack([*ranker.losses(batch).values()]).sum().backward()
        assert rule.step(0)

    for batch in batches[:2]:
        step(model, optimiser, batch)
    # The earlier run stops here; another network continues it on a grown vocabulary.
    start = MemberStart({n: v.clone() for n, v in model.state_dict().items()}, copied(optimiser.state()))
    grown = open_data(tiny_recipe(days[1], changes), tmp_path / "cache", data.encoding).encoding
    assert grown.vocabulary.n_rows > data.encoding.vocabulary.n_rows
    torch.manual_seed(2)
    other = build_model(recipe, grown)
    untouched = other.state_dict()[TABLE][data.encoding.vocabulary.n_rows :].clone()
    continued = Optimiser(other, recipe.training, 100)
    continue_from(start, recipe, other, continued)
    step(model, optimiser, batches[2])
    step(other, continued, batches[2])
    after = other.state_dict()
    rows = data.encoding.vocabulary.n_rows
    for name, value in model.state_dict().items():
        assert torch.equal(after[name][:rows] if name == TABLE else after[name], value), name
    assert torch.equal(after[TABLE][rows:], untouched)


def copied(state):
    by_name = {n: {k: v.clone() for k, v in tensors.items()} for n, tensors in state["by_name"].items()}
    return state | {"by_name": by_name}


def test_the_run_and_its_checkpoint_are_named(tiny_recipe, days, run, tmp_path):
    assert run(tiny_recipe(days[0]), "monday")["started_from"] is None
    run(tiny_recipe(days[1], {"training.epochs": 1}), "tuesday", start=tmp_path / "monday")
    tuesday = open_run(tmp_path / "tuesday")
    digest = hashlib.sha256((tmp_path / "monday" / "checkpoint.pt").read_bytes()).hexdigest()
    start = tuesday.provenance["started_from"]
    assert start["checkpoint_sha256"] == digest and start["run"] == str(tmp_path / "monday") and start["optimiser"]
    assert f"checkpoint {digest[:12]}" in tuesday.report.decode()
    assert "cold start" in open_run(tmp_path / "monday").report.decode()


def test_a_continued_run_is_scored_continued_and_found_finished_like_any_other(tiny_recipe, days, run, tmp_path):
    run(tiny_recipe(days[0]), "monday")
    recipe = tiny_recipe(days[1], {"training.epochs": 1})
    metrics = run(recipe, "tuesday", start=tmp_path / "monday")
    assert len(score_run(tmp_path / "tuesday", "test", tmp_path / "cache").scores["pctr"]) > 0
    assert run(recipe, "tuesday", start=tmp_path / "monday", resume=True) == metrics
    with pytest.raises(RecipeError, match="made with another data"):
        run(recipe, "tuesday", resume=True)
    third = run(recipe, "wednesday", start=tmp_path / "tuesday")
    assert third["started_from"]["new_rows"] == 0
    assert third["data"]["embedding_rows"] == metrics["data"]["embedding_rows"]


def test_every_member_of_an_ensemble_continues_its_own(tiny_recipe, days, run, tmp_path):
    run(tiny_recipe(days[0], {"training.ensemble": 2, "training.epochs": 1}), "monday")
    run(tiny_recipe(days[1], STILL | {"training.ensemble": 2}), "tuesday", start=tmp_path / "monday")
    before, after = (open_run(tmp_path / name).ranker.state_dict() for name in ("monday", "tuesday"))
    assert not torch.equal(before["towers.layers.0.weight"], before["others.0.towers.layers.0.weight"])
    for name in ("towers.layers.0.weight", "others.0.towers.layers.0.weight"):
        torch.testing.assert_close(after[name], before[name], atol=1e-9, rtol=0)


def test_a_run_without_the_optimisers_state_is_continued_and_the_report_says_so(tiny_recipe, days, run, tmp_path):
    run(tiny_recipe(days[0]), "monday")
    (tmp_path / "monday" / "optimiser.pt").unlink()
    metrics = run(tiny_recipe(days[1], {"training.epochs": 1}), "tuesday", start=tmp_path / "monday")
    assert metrics["started_from"]["optimiser"] is False
    assert "no optimiser" in open_run(tmp_path / "tuesday").report.decode()


def test_statistics_of_numerics_stay_those_that_the_weights_know(tiny_recipe, days, run, tmp_path):
    run(tiny_recipe(days[0]), "monday")
    shifted = days[1]["items"].assign(length=days[1]["items"].length * 7)
    run(tiny_recipe(days[1] | {"items": shifted}, STILL), "tuesday", start=tmp_path / "monday")
    before, after = (open_run(tmp_path / name).encoding.numerics["item"] for name in ("monday", "tuesday"))
    np.testing.assert_array_equal(after.mean, before.mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.tower_hidden": [6]}, r"'towers\..*' has the shape .* there and .* here"),
        ({"model.architecture": "ple"}, "only the network (here|there) has"),
        ({"features.context": [{"name": "tab", "type": "categorical"}]}, "was trained on other features"),
        ({"training.ensemble": 2}, "has training.ensemble 1, here it is 2"),
        ({"training.transfer": {"mode": "retrain_all", "task": "plong_view"}}, "names its own run"),
    ],
)
def test_a_recipe_that_does_not_continue_the_run_is_refused(tiny_recipe, days, run, tmp_path, changes, message):
    run(tiny_recipe(days[0], {"training.epochs": 1}), "monday")
    with pytest.raises(RecipeError, match=message):
        run(tiny_recipe(days[1], changes), "tuesday", start=tmp_path / "monday")
    assert not (tmp_path / "tuesday").exists()


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        (
            "sequences",
            {"seen": {"actions": ["click"], "length": 3, "encoders": [{"type": "pooling"}]}},
            {"seen": {"actions": ["exposure"], "length": 3, "encoders": [{"type": "pooling"}]}},
        ),
        ("encoders", [{"type": "matches", "features": ["tags"]}], [{"type": "matches", "features": ["item_id"]}]),
    ],
)
def test_weights_of_the_same_shapes_that_read_something_else_are_refused(
    tiny_recipe, days, run, tmp_path, key, before, after
):
    """Another action of a sequence, or another feature of an encoder, changes no shape."""
    once = {"training.epochs": 1}
    run(tiny_recipe(days[0], once | {f"model.{key}": before}), "monday")
    with pytest.raises(RecipeError, match=rf"--from: .*monday has other model\.{key}; take the recipe of that run"):
        run(tiny_recipe(days[1], once | {f"model.{key}": after}), "tuesday", start=tmp_path / "monday")
    run(tiny_recipe(days[1], once | {f"model.{key}": before}), "tuesday", start=tmp_path / "monday")


def test_a_folder_that_is_no_run_or_the_new_one_is_refused(tiny_recipe, run, tmp_path):
    with pytest.raises(RecipeError, match=r"--from: .*nowhere has no recipe\.yaml"):
        run(tiny_recipe(), "tuesday", start=tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="give another --out"):
        run(tiny_recipe(), "tuesday", start=tmp_path / "tuesday")
