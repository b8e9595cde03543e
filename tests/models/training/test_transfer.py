"""Tests the four ways to learn a new task from, or together with, a trained model."""

import pytest
import torch

from models.recipe import RecipeError
from models.train import train
from models.training.run import open_run
from models.training.transfer import narrowed

TASKS = [
    {"type": "independent", "name": "pctr", "label": "click"},
    {"type": "independent", "name": "plong_view", "label": "long_view"},
    {"type": "rank_weights", "name": "prank", "label": "click", "features": ["length"]},
    {"type": "independent", "name": "plike", "label": "like"},
]
CHANGES = {
    "model.architecture": "dupn",
    "model.encoders": [{"type": "dupn", "hidden": 6, "user_hidden": 5, "attention_hidden": 4}],
    "tasks": TASKS[:3],
    "extra_evaluations": [],
    "training.epochs": 1,
    "training.averaging": 0.0,
}


@pytest.fixture
def trained(tiny_recipe, tmp_path):
    """A finished run on the first three tasks, and a function that trains the fourth in one of the four ways."""
    base = tmp_path / "base"
    options = {"cache": tmp_path / "cache", "quiet": True, "reading_steps": 0}
    train(tiny_recipe(changes=CHANGES), base, **options)

    def learn(mode, **changes):
        transfer = {"mode": mode, "task": "plike"} | ({} if mode.startswith("retrain") else {"from": str(base)})
        out = tmp_path / mode
        train(tiny_recipe(changes=CHANGES | {"tasks": TASKS, "training.transfer": transfer} | changes), out, **options)
        return open_run(out)

    return open_run(base), learn


def weights(run):
    return dict(run.ranker.named_parameters())


def of_representation(run):
    return {n: p for n, p in weights(run).items() if n.startswith(("inputs.", "encoders."))}


def test_retrain_single_learns_the_new_task_alone_from_the_beginning(trained):
    base, learn = trained
    run = learn("retrain_single")
    assert [o.name for o in run.ranker.outputs] == ["plike"]
    table, before = (r.ranker.inputs.table.weight for r in (run, base))
    assert (table - before).abs().max() > 1e-3


def test_retrain_all_learns_every_task(trained):
    _, learn = trained
    assert [o.name for o in learn("retrain_all").ranker.outputs] == ["pctr", "plong_view", "prank", "plike"]


def test_representation_transfer_keeps_the_representation_as_it_was(trained):
    base, learn = trained
    run = learn("representation_transfer")
    assert [o.name for o in run.ranker.outputs] == ["plike"]
    source_weights = of_representation(run)
    before = of_representation(base)
    assert set(source_weights) == set(before)
    for name, parameter in source_weights.items():
        torch.testing.assert_close(parameter, before[name], atol=0, rtol=0, msg=name)
    assert run.metrics["plike"]["impressions"] > 0


def test_fine_tune_starts_there_and_moves_on(trained):
    base, learn = trained
    rate = 1e-6
    run = learn("fine_tune", **{"training.learning_rate": rate})
    steps = 100
    for name, parameter in of_representation(run).items():
        moved = (parameter - of_representation(base)[name]).abs().max()
        assert moved <= 2 * rate * steps, name
    assert (run.ranker.inputs.table.weight != base.ranker.inputs.table.weight).any()


def test_a_low_representation_rate_keeps_what_was_taken_over_near_where_it_was(trained, tmp_path):
    base, learn = trained
    carefully = {"mode": "fine_tune", "task": "plike", "from": str(tmp_path / "base"), "representation_rate": 0.01}
    before = of_representation(base)
    moved = {}
    for rate, run in (("full", learn("fine_tune")), ("low", learn("fine_tune", **{"training.transfer": carefully}))):
        moved[rate] = max(float((p - before[n]).detach().abs().max()) for n, p in of_representation(run).items())
    assert 0 < moved["low"] < 0.1 * moved["full"]


def test_embeddings_go_by_key_when_rows_have_moved(tiny_recipe, tables, tmp_path):
    options = {"cache": tmp_path / "cache", "quiet": True, "reading_steps": 0}
    train(tiny_recipe(changes=CHANGES), tmp_path / "base", **options)
    base = open_run(tmp_path / "base")
    tables["impressions"] = tables["impressions"][
        tables["impressions"].user_id > 10
    ]  # the rarer ids leave the vocabulary, the rest move up
    transfer = {"mode": "representation_transfer", "task": "plike", "from": str(tmp_path / "base")}
    train(tiny_recipe(tables, CHANGES | {"tasks": TASKS, "training.transfer": transfer}), tmp_path / "moved", **options)
    run = open_run(tmp_path / "moved")
    old, new = (
        dict(zip(r.encoding.vocabulary.keys.tolist(), r.encoding.vocabulary.rows.tolist(), strict=True))
        for r in (base, run)
    )
    common = sorted(set(old) & set(new))
    assert any(old[k] != new[k] for k in common)
    before, after = (r.ranker.inputs.table.weight for r in (base, run))
    torch.testing.assert_close(after[[new[k] for k in common]], before[[old[k] for k in common]], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        ({"mode": "fine_tune", "task": "plike"}, "needs 'from'"),
        ({"mode": "retrain_all", "task": "plike", "from": "somewhere"}, "remove 'from'"),
        (
            {"mode": "fine_tune", "task": "plike", "from": "nowhere"},
            "training.transfer.from: nowhere has no recipe.yaml",
        ),
        ({"mode": "retrain_all", "task": "plike", "representation_rate": 0.1}, "does not take 'representation_rate'"),
        ({"mode": "retrain_single", "task": "pbuy"}, "no task has the name 'pbuy'"),
    ],
)
def test_a_transfer_that_cannot_be_is_refused(tiny_recipe, tmp_path, transfer, message):
    with pytest.raises(RecipeError, match=message):
        train(
            tiny_recipe(changes=CHANGES | {"tasks": TASKS, "training.transfer": transfer}),
            tmp_path / "out",
            cache=tmp_path / "cache",
            quiet=True,
        )


def test_another_encoder_or_sequence_is_refused(tiny_recipe, tmp_path):
    options = {"cache": tmp_path / "cache", "quiet": True, "reading_steps": 0}
    clicks = {"actions": ["click"], "length": 3, "encoders": [{"type": "pooling"}]}
    train(tiny_recipe(changes=CHANGES | {"model.sequences": {"clicks": clicks}}), tmp_path / "base", **options)
    transfer = {"mode": "fine_tune", "task": "plike", "from": str(tmp_path / "base")}
    others = {"model.encoders": [{"type": "pooling"}]}, {"model.sequences": {"clicks": clicks | {"length": 4}}}
    for other in others:
        changes = CHANGES | {"tasks": TASKS[:2] + TASKS[3:], "model.sequences": {"clicks": clicks}} | other
        with pytest.raises(RecipeError, match=r"other encoders; copy model\.encoders of its recipe, and model\.seq"):
            train(tiny_recipe(changes=changes | {"training.transfer": transfer}), tmp_path / "out", **options)


def test_the_run_of_a_transfer_opens_without_the_run_it_came_from(trained, tmp_path):
    _, learn = trained
    learn("fine_tune")
    (tmp_path / "base").rename(tmp_path / "gone")
    section = open_run(tmp_path / "fine_tune").recipe.training.transfer
    assert (section.mode, section.source) == ("fine_tune", str(tmp_path / "base"))


def test_a_task_of_the_representation_can_be_learnt_alone(tiny_recipe, tmp_path):
    transfer = {"mode": "retrain_single", "task": "prank"}
    options = {"cache": tmp_path / "cache", "quiet": True, "reading_steps": 2}
    train(tiny_recipe(changes=CHANGES | {"tasks": TASKS, "training.transfer": transfer}), tmp_path / "run", **options)
    run = open_run(tmp_path / "run")
    assert (run.ranker.heads, [o.name for o in run.ranker.outputs]) == ((), ["prank"])
    assert run.metrics["prank"]["auc"] is not None


def test_what_the_recipe_says_of_the_other_tasks_goes_with_them(tiny_recipe):
    settings = {
        "tasks": TASKS,
        "training.transfer": {"mode": "retrain_single", "task": "plike"},
        "training.loss_weights": {"pctr": 0.5, "plike": 2.0},
        "training.weighting": {"type": "decayed", "decay": {"pctr": 0.9}},
        "training.select_on": ["pctr", "plike"],
        "calibration": {"negative_sampling": {"pctr": 0.1}},
        "data.task_weights": {"pctr": "place", "plike": "place"},
        "training.gains": {"click": 1.0, "like": 5.0},
        "extra_evaluations": [{"score": "pctr", "label": "like"}],
        "position": {"column": "place", "head": "pctr"},
    }
    alone = narrowed(tiny_recipe(changes=CHANGES | settings))
    assert [task.name for task in alone.tasks] == ["plike"]
    assert alone.training.loss_weights == {"plike": 2.0} and alone.training.select_on == ("plike",)
    assert alone.training.weighting.type == "static" and alone.calibration.negative_sampling == {}
    assert alone.data.task_weights == {"plike": "place"} and alone.training.gains == {"like": 5.0}
    assert alone.extra_evaluations == () and alone.position is None
    assert narrowed(alone) == alone


@pytest.mark.parametrize(("heads", "own"), [(["pctr", "plike"], "plike"), ("plike", "plike"), (["pctr"], None)])
def test_a_task_that_learns_alone_keeps_its_own_head_of_the_position_tower(tiny_recipe, heads, own):
    settings = {
        "tasks": TASKS,
        "training.transfer": {"mode": "retrain_single", "task": "plike"},
        "extra_evaluations": [],
        "position": {"column": "place", "head": heads},
    }
    alone = narrowed(tiny_recipe(changes=CHANGES | settings))
    assert (alone.position and alone.position.head) == own
