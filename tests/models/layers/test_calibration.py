"""Tests the calibration: its formulas, that it changes no order, that chains stay products, and its part of
the graph.
"""

import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from small_rankers import Small, raw_inputs, small, training_batch

from export.bundle import export_run
from export.graph import to_onnx
from models import train as training
from models.layers.calibration import CalibrationSection, Isotonic, Platt
from models.metrics.ranking import auc
from models.network.build import build_model
from models.recipe import RecipeError
from models.training.calibrating import isotonic, platt
from models.training.run import open_run


def calibrated(architecture, method="platt", wild=True, **options):
    """A small ranker with a calibration whose maps are far from the identity."""
    plain = small(architecture)
    section = CalibrationSection(method=method, knots=6, **options)
    recipe = plain.recipe.model_copy(update={"calibration": section})
    ranker = build_model(recipe, plain.encoding)
    ranker.load_state_dict(plain.ranker.state_dict(), strict=False)
    for i, chosen in enumerate(ranker.calibration.maps.values() if wild else ()):
        if isinstance(chosen, Isotonic):
            chosen.set([(-2.0, -4.0 + i), (-0.5, -1.0 + i), (0.5, -0.9 + i), (3.0, 2.0 + i)])
        else:
            chosen.set(0.6 + 0.2 * i, -0.5 - i)
    return plain, Small(recipe, plain.encoding, ranker.eval())


def probabilities(model, batch):
    with torch.no_grad():
        return {name: score.exp().double() for name, score in model.ranker(batch).items()}


def test_sampled_negatives_are_corrected_by_p_over_p_plus_one_minus_p_over_r():
    plain, corrected = calibrated("mmoe", "none", negative_sampling={"pctr": 0.1})
    batch = training_batch(plain, 64, 4)
    before = probabilities(plain, batch)
    after = probabilities(corrected, batch)
    p = before["pctr"]
    torch.testing.assert_close(after["pctr"], p / (p + (1 - p) / 0.1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(after["plike"], before["plike"])


def test_sampling_is_corrected_back_to_the_true_rate():
    rng = np.random.default_rng(0)
    label = rng.random(200_000) < 0.02
    sampled = label | (rng.random(len(label)) < 0.1)
    p = label[sampled].mean()
    assert p > 0.15
    assert p / (p + (1 - p) / 0.1) == pytest.approx(label.mean(), rel=0.05)


def test_platt_finds_the_line_that_made_the_labels_and_agrees_with_logistic_regression():
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 1.5, 100_000)
    label = (rng.random(len(logit)) < expit(0.7 * logit - 0.4)).astype(float)
    slope, intercept = platt(label, logit)
    assert slope == pytest.approx(0.7, abs=0.02) and intercept == pytest.approx(-0.4, abs=0.05)
    other = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], label)
    assert slope == pytest.approx(other.coef_[0, 0], abs=1e-4) and intercept == pytest.approx(
        other.intercept_[0], abs=1e-4
    )


def test_platt_stays_finite_on_logits_that_separate_the_labels():
    rng = np.random.default_rng(0)
    label = np.r_[np.ones(30), np.zeros(300)]
    logit = np.r_[rng.uniform(-1.0, 1.0, 30), rng.uniform(-5, -1.2, 300)]
    slope, intercept = platt(label, logit)
    # scikit-learn's fit to Platt's targets: a row counts as a positive with its target as weight, as a negative with
    # the rest.
    target = np.where(label > 0, 31 / 32, 1 / 302)
    twice = np.r_[logit, logit][:, None]
    weight = np.r_[target, 1 - target]
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    other.fit(twice, np.r_[np.ones(330), np.zeros(330)], sample_weight=weight)
    assert slope == pytest.approx(other.coef_[0, 0], abs=1e-3) and slope < 10
    assert intercept == pytest.approx(other.intercept_[0], abs=1e-3)
    assert expit(slope * -1.3 + intercept) > 1e-3, "a click on a later day, just below the border, is not impossible"


def test_platt_never_turns_the_ranks_around():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=5000)
    slope, intercept = platt((rng.random(5000) < expit(-logit)).astype(float), logit)
    assert slope == 1.0
    assert expit(logit + intercept).mean() == pytest.approx(0.5, abs=0.02)


def test_isotonic_knots_are_those_of_isotonic_regression_over_the_groups():
    rng = np.random.default_rng(1)
    logit = rng.normal(size=4000)
    label = (rng.random(4000) < expit(np.sin(2 * logit) + logit)).astype(float)
    points = isotonic(label, logit, 25)
    assert len(points) <= 25
    x, y = np.array(points).T
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
    groups = np.array_split(np.argsort(logit), 25)
    shares = np.array([(label[g].sum() + 0.5) / (len(g) + 1) for g in groups])
    expected = IsotonicRegression().fit_transform(np.arange(25), shares, sample_weight=[len(g) for g in groups])
    np.testing.assert_allclose(np.unique(expit(y).round(2)), np.unique(expected.round(2)), atol=0.011)


def test_the_isotonic_map_goes_through_its_points_in_straight_lines_and_rises_everywhere():
    chosen = Isotonic(20)
    points = [(-3.0, -5.0), (-1.0, -2.0), (0.5, -1.9), (2.0, 4.0)]
    chosen.set(points)
    x = torch.linspace(-8, 8, 1001)
    y = chosen(x)
    inside = (x >= -3) & (x <= 2)
    torch.testing.assert_close(
        y[inside], torch.from_numpy(np.interp(x[inside], *zip(*points, strict=True))).float(), atol=1e-5, rtol=1e-5
    )
    assert (y.diff() > 0).all()
    torch.testing.assert_close(chosen(torch.tensor([-10.0, 10.0])), torch.tensor([-12.0, 12.0]))


def test_a_single_point_shifts_and_a_cleared_map_is_the_identity():
    chosen = Isotonic(5)
    chosen.set([(0.5, -1.0)])
    torch.testing.assert_close(chosen(torch.tensor([-2.0, 3.0])), torch.tensor([-3.5, 1.5]))
    for cleared in (chosen, Platt()):
        cleared.clear()
        torch.testing.assert_close(cleared(torch.tensor([-2.0, 3.0])), torch.tensor([-2.0, 3.0]))


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("architecture", ["esmm", "esm2"])
def test_a_chain_stays_a_chain_after_calibration(architecture, method):
    plain, model = calibrated(architecture, method, negative_sampling={"pctr": 0.2})
    batch = training_batch(plain, 64, 4)
    scores = probabilities(model, batch)
    torch.testing.assert_close(scores["pctcvr"], scores["pctr"] * scores["pcvr"], rtol=1e-5, atol=1e-9)
    assert (scores["pctcvr"] <= scores["pctr"]).all()
    if architecture == "esm2":
        assert (scores["pctavr"] <= scores["pctr"]).all()
    assert (scores["pctr"] - probabilities(plain, batch)["pctr"]).abs().max() > 0.05


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_leaves_training_alone(method):
    plain, model = calibrated("esm2", method, negative_sampling={"pctr": 0.2})
    batch = training_batch(plain, 64, 4)
    plain.ranker.train(), model.ranker.train()
    with torch.no_grad():
        for name, loss in plain.ranker.losses(batch).items():
            torch.testing.assert_close(loss, model.ranker.losses(batch)[name])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("architecture", ["mmoe", "esmm", "esm2"])
def test_the_onnx_graph_is_calibrated_as_torch_is(architecture, method):
    plain, model = calibrated(architecture, method, negative_sampling={"pctr": 0.2})
    session = ort.InferenceSession(
        to_onnx(model.graph, model.encoding).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    assert "pavr" not in names, "a factor that is no output stays inside"
    for candidates, behaviours in ((1, 0), (64, 7)):
        inputs = raw_inputs(model, candidates, behaviours)
        given = {n: torch.from_numpy(v) for n, v in inputs.items()}
        with torch.no_grad():
            expected = model.graph(given)
            uncalibrated = plain.graph(given)
        for name, got in zip(names, session.run(names, inputs), strict=True):
            np.testing.assert_allclose(got, expected[name].numpy(), atol=1e-5)
        assert (expected["pctr"] - uncalibrated["pctr"]).abs().max() > 0.01


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_run_fits_on_validation_and_tells_the_ece_before_and_after_in_report_and_manifest(
    tiny_recipe, tmp_path, method
):
    changes = {"training.epochs": 4, "calibration": {"method": method, "negative_sampling": {"pctr": 0.05}}}
    recipe = tiny_recipe(None, changes)
    metrics = training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    fitted = metrics["calibration"]
    after = metrics["parts"]["validation"]["outputs"]
    assert set(fitted["factors"]) == {"pctr", "pcvr", "plong_view"}
    assert fitted["fitted_on"] == "validation"
    assert after["pctr"]["mean_prediction"] == pytest.approx(after["pctr"]["mean_label"], abs=0.02), (
        "the fit outweighs a wrong sampling rate"
    )
    plain = training.train(
        tiny_recipe(None, {"training.epochs": 4}),
        tmp_path / "plain",
        cache=tmp_path / "cache",
        quiet=True,
        reading_steps=0,
    )
    for part in ("validation", "test"):
        for name, ece in fitted["ece_before"][part].items():
            assert ece == pytest.approx(plain["parts"][part]["outputs"][name]["ece"]), (
                "before means without any calibration"
            )
    assert plain["parts"]["test"]["outputs"]["pctr"]["auc"] == pytest.approx(
        metrics["parts"]["test"]["outputs"]["pctr"]["auc"], abs=2e-4
    )

    page = (tmp_path / "run" / "report.html").read_text()
    assert "What the calibration changed" in page and "pctr 0.05" in page
    manifest = json.loads(
        (export_run(tmp_path / "run", tmp_path / "registry", None).folder / "manifest.json").read_text()
    )
    assert manifest["metrics"]["pctr"]["ece_before_calibration"] == pytest.approx(fitted["ece_before"]["test"]["pctr"])
    assert manifest["metrics"]["pctr"]["ece"] == pytest.approx(metrics["parts"]["test"]["outputs"]["pctr"]["ece"])
    assert manifest["provenance"]["calibration"]["method"] == method
    assert open_run(tmp_path / "run").ranker.calibration.enabled


def test_a_factor_with_too_few_positives_keeps_the_identity(tiny_recipe, tables, tmp_path):
    clicks = np.flatnonzero((tables["impressions"].like == 1) & (tables["impressions"].time_ms >= 1_651_680_000_000))
    tables["impressions"].loc[clicks[10:], "like"] = 0
    recipe = tiny_recipe(tables, {"calibration": {"method": "isotonic"}, "training.epochs": 1})
    metrics = training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert "fewer than 20" in metrics["calibration"]["factors"]["pcvr"]["skipped"]
    fitted = metrics["calibration"]["factors"]["pcvr"]
    (warning,) = [line for line in metrics["warnings"] if "not calibrated" in line]
    assert warning.startswith(
        "pcvr: it is not calibrated, the validation part has fewer than 20 positives or negatives"
    )
    assert f"({fitted['positives']:,} positives of {fitted['impressions']:,})" in warning
    assert not open_run(tmp_path / "run").ranker.calibration.maps["pcvr"].shift.any()


def test_a_sampling_rate_of_no_factor_is_refused_with_the_nearest(tiny_recipe, tmp_path):
    recipe = tiny_recipe(None, {"calibration": {"negative_sampling": {"pctcvr": 0.1}}})
    with pytest.raises(RecipeError, match="calibration.negative_sampling: 'pctcvr' is not a factor of a score"):
        training.train(recipe, tmp_path / "run", cache=tmp_path / "cache", quiet=True)


def test_calibration_keeps_the_order():
    plain, model = calibrated("mmoe", "isotonic")
    batch = training_batch(plain, 200, 4)
    before = probabilities(plain, batch)
    after = probabilities(model, batch)
    label = batch["label/click"].numpy()
    for name in before:
        assert auc(label, before[name].numpy()) == pytest.approx(auc(label, after[name].numpy()), abs=1e-4)
