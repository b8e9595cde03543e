"""Tests ensembles: the mean of the members' logits, one bundle, the chain's products, resuming, provenance."""

import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from small_rankers import Small, raw_inputs, score, small, training_batch

from export.bundle import export_run
from export.graph import to_onnx
from models import train as training
from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.network.build import build_ensemble, build_model, members_together
from models.training import loop
from models.training.members import SEED_STEP
from models.training.outcome import summary_lines
from models.training.run import open_run
from service.bundle.loading import load_bundle

OF_REPRESENTATION = [
    {"type": "independent", "name": "pctr", "label": "click"},
    {"type": "rank_weights", "name": "prank", "label": "click", "features": ["length"]},
    {"type": "class_preference", "name": "plength", "label": "click", "feature": "length", "edges": [20.0, 40.0]},
]
DUPN = {
    "tasks": OF_REPRESENTATION,
    "extra_evaluations": [],
    "model.architecture": "dupn",
    "model.encoders": [{"type": "dupn", "hidden": 8}],
}
CALIBRATED = {"training.ensemble": 2, "calibration": {"method": "platt"}}


def run(recipe, tmp_path, name="run", **options):
    options = {"reading_steps": 0} | options
    return training.train(recipe, tmp_path / name, cache=tmp_path / "cache", quiet=True, **options)


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_an_ensemble_gives_the_mean_of_the_logits_of_runs_with_its_seeds(tiny_recipe, tmp_path):
    metrics = run(tiny_recipe(None, {"training.ensemble": 2, "training.seed": 4}), tmp_path)
    recipe = tiny_recipe()
    for seed in (4, 4 + SEED_STEP):
        run(tiny_recipe(None, {"training.seed": seed}), tmp_path, str(seed))
    members = [open_run(tmp_path / name).ranker for name in ("4", str(4 + SEED_STEP))]
    ensemble = open_run(tmp_path / "run").ranker
    for batch in ordered_batches(open_data(recipe, tmp_path / "cache"), "test", 64):
        with torch.no_grad():
            expected = [member.logits(batch) for member in members]
            for head, logit in ensemble.logits(batch).items():
                torch.testing.assert_close(logit, (expected[0][head] + expected[1][head]) / 2)
    assert [member["seed"] for member in metrics["members"]] == [4, 4 + SEED_STEP]
    lines = summary_lines(metrics, tmp_path / "run")
    assert any(line.startswith(f"2 members: {metrics['best']['score']:.4f} on validation together") for line in lines)
    assert not (tmp_path / "run" / "members").exists(), "what only resuming needs is removed"
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [member["seed"] for member in history["members"]] == [4, 4 + SEED_STEP]


def test_an_ensemble_is_one_graph_whose_chain_still_multiplies(tiny_recipe, tmp_path):
    run(tiny_recipe(None, CALIBRATED), tmp_path)
    published = export_run(tmp_path / "run", tmp_path / "registry", None)
    assert published.manifest.parity.max_abs_difference < 1e-5
    assert [member["seed"] for member in published.manifest.provenance["members"]] == [1, 1001]
    assert published.manifest.composition["members"] == "2"
    bundle = load_bundle(published.folder, threads=1, largest=20)
    scores = dict(zip(bundle.tasks, bundle.score(dict(bundle.golden)), strict=True))
    np.testing.assert_array_equal(scores["pctcvr"], scores["pctr"] * scores["pcvr"])
    assert (scores["pctcvr"] <= scores["pctr"]).all()
    # The members look the keys up once, together.
    graph = (published.folder / "model.onnx").read_bytes()
    assert graph.count(b"LabelEncoder") == 1
    assert len(ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_outputs()) == len(bundle.tasks)


def test_calibration_is_fitted_after_the_mean(tiny_recipe, tmp_path):
    metrics = run(tiny_recipe(None, CALIBRATED), tmp_path)
    ranker = open_run(tmp_path / "run").ranker
    assert ranker.calibration is not None
    slope = metrics["calibration"]["factors"]["pctr"]["slope"]
    assert float(ranker.calibration.maps["pctr"].line[0]) == pytest.approx(slope)
    assert slope != 1
    assert all(other.calibration.maps["pctr"].line.tolist() == [1, 0] for other in ranker.others)


@pytest.mark.parametrize("killed_in", [0, 1])
def test_a_killed_ensemble_goes_on_to_the_same_bits(tiny_recipe, tmp_path, monkeypatch, killed_in):
    recipe = tiny_recipe(None, {"training.ensemble": 2, "model.dropout": 0.2})
    run(recipe, tmp_path, "whole")
    member_steps = len(open_data(recipe, tmp_path / "cache").parts["train"]) // 64 * 2
    plain = loop.train_step
    steps = 0

    def killed(state, batch, epoch):
        nonlocal steps
        steps += 1
        if steps == 4 + member_steps * killed_in:
            raise KeyboardInterrupt
        return plain(state, batch, epoch)

    monkeypatch.setattr(loop, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path, "killed", checkpoint_steps=3)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    before = steps
    run(recipe, tmp_path, "killed", resume=True, checkpoint_steps=3)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert steps - before <= (2 - killed_in) * (member_steps + 2), "finished members are not trained again"


def test_a_run_that_replaces_an_earlier_one_takes_no_member_of_it(tiny_recipe, tmp_path, monkeypatch):
    """The earlier run was stopped in its second member, and this one is stopped in its first."""
    plain = loop.train_step
    member_steps = len(open_data(tiny_recipe(), tmp_path / "cache").parts["train"]) // 64 * 2
    for rate, steps in ((0.01, member_steps + 8), (0.02, 8)):
        counted = iter(range(steps))

        def stopped(state, batch, epoch, counted=counted):
            if next(counted, None) is None:
                raise KeyboardInterrupt
            return plain(state, batch, epoch)

        monkeypatch.setattr(loop, "train_step", stopped)
        recipe = tiny_recipe(None, {"training.ensemble": 2, "training.learning_rate": rate})
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path, checkpoint_steps=3)
    # With the checkpoint of another run, this one could not be continued.
    assert [path.parent.name for path in tmp_path.rglob("resume.pt")] == ["1"]


def test_one_member_is_the_run_of_before(tiny_recipe, tmp_path):
    run(tiny_recipe(), tmp_path, "plain")
    run(tiny_recipe(None, {"training.ensemble": 1}), tmp_path, "one")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "one"))
    assert "ensemble" not in tiny_recipe().training.model_dump()


def test_the_constants_of_the_position_towers_are_averaged():
    of = small("mmoe", position=True)
    recipe = of.recipe.model_copy(update={"training": of.recipe.training.model_copy(update={"ensemble": 2})})
    members = [build_model(recipe, of.encoding, 3) for _ in range(2)]
    for shift, member in enumerate(members):
        member.position.cross_counts += 1
        torch.nn.init.constant_(member.position.bias.weight, float(shift))
    ensemble = build_ensemble(recipe, of.encoding, 3)
    ensemble.load_state_dict(members_together([member.state_dict() for member in members]))
    assert {head: value.item() for head, value in ensemble.position_constants().items()} == {"pctr": 0.5}


def small_ensemble():
    """Two members and their ensemble, with the tasks on the user's representation."""
    members = [small("dupn", seed=seed) for seed in range(2)]
    of = members[0]
    recipe = of.recipe.model_copy(update={"training": of.recipe.training.model_copy(update={"ensemble": 2})})
    ensemble = build_ensemble(recipe, of.encoding)
    ensemble.load_state_dict(members_together([member.ranker.state_dict() for member in members]))
    return [member.ranker for member in members], Small(recipe, of.encoding, ensemble.eval())


def class_logits(member, batch):
    """What the softmax of the class preference takes, float64 `[n, C]`."""
    seen = []
    hook = member.of_representation["pprice"].of_class.register_forward_hook(lambda *call: seen.append(call[2]))
    member(batch)
    hook.remove()
    return seen[0].double().numpy()


def test_an_ensemble_averages_the_tasks_on_the_representation_too():
    members, ensemble = small_ensemble()
    batch = training_batch(small("dupn"), 64, 4)
    preference = next(output.kind for output in ensemble.ranker.outputs if output.name == "pprice")
    with torch.no_grad():
        got = {name: value.double().exp().numpy() for name, value in ensemble.ranker(batch).items()}
        of_members = [member.logits(batch) for member in members]
        of_classes = [class_logits(member, batch) for member in members]
    for name in ("pctr", "plike", "prank"):
        mean = np.mean([logits[name].double().numpy() for logits in of_members], axis=0)
        np.testing.assert_allclose(got[name], 1 / (1 + np.exp(-mean)), atol=1e-6)
    # The class preference of an ensemble is the softmax of the members' mean logits by class.
    mean = np.mean(of_classes, axis=0)
    p = np.exp(mean - mean.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    own = preference.class_of(batch["item_numerics"].numpy())
    assert len(set(own.tolist())) == 5, "every class occurs"
    np.testing.assert_allclose(got["pprice"], p[np.arange(64), own], atol=1e-6)


def test_the_class_probabilities_of_an_ensemble_sum_to_one_in_torch_and_in_the_graph():
    _, ensemble = small_ensemble()
    inputs = raw_inputs(ensemble, 5, 4)
    inputs["item_numerics"][:, 0] = [np.nan, -2.0, -0.5, 0.5, 2.0]  # the price, an item of every class
    session = ort.InferenceSession(to_onnx(ensemble.graph, ensemble.encoding).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    of_graph = dict(zip(names, session.run(names, inputs), strict=True))
    for name, expected in score(ensemble, inputs).items():
        np.testing.assert_allclose(of_graph[name], expected, atol=1e-5)
    assert float(of_graph["pprice"].sum()) == pytest.approx(1.0, abs=1e-5)


def test_an_ensemble_with_tasks_on_the_representation_trains_and_is_exported(tiny_recipe, tmp_path):
    metrics = run(tiny_recipe(None, DUPN | {"training.ensemble": 2, "training.epochs": 1}), tmp_path)
    assert list(metrics["parts"]["test"]["outputs"]) == ["pctr", "prank", "plength"]
    published = export_run(tmp_path / "run", tmp_path / "registry", None)
    assert published.manifest.parity.max_abs_difference < 1e-5
    assert published.manifest.composition["members"] == "2"
