"""Tests fusion: the kinds of profiles, the scenes, and the names that a profile must not use."""

from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.fusion import FusionError, FusionProfiles, bind, read_profiles
from service.fusion.document import DOCUMENT

TASKS = ("pctr", "pcvr")
SCORES = np.array([[0.5, 0.1, 0.0], [0.2, 0.9, 0.4]], dtype=np.float32)


def profiles(**kinds: dict[str, float]) -> FusionProfiles:
    return FusionProfiles.model_validate(
        {"profiles": {n: {"kind": "weighted_sum", "weights": w} for n, w in kinds.items()}, "scenes": {}}
    )


def product(weights: dict[str, float]) -> FusionProfiles:
    return FusionProfiles.model_validate({"profiles": {"default": {"kind": "weighted_product", "weights": weights}}})


def test_weighted_sum_is_the_sum_of_its_parts() -> None:
    formula = bind(profiles(default={"pctr": 2.0, "pcvr": -0.5}), TASKS).for_scene(None)
    assert np.allclose(formula.fuse(SCORES), 2 * SCORES[0] - 0.5 * SCORES[1], atol=1e-7)
    assert np.allclose(formula.parts(SCORES).sum(axis=0), formula.fuse(SCORES), atol=1e-12)


def test_weighted_product_is_the_product_of_its_factors() -> None:
    formula = bind(product({"pctr": 0.6, "pcvr": 1.2}), TASKS).for_scene(None)
    expected = SCORES[0, :2].astype(float) ** 0.6 * SCORES[1, :2].astype(float) ** 1.2
    assert np.allclose(formula.fuse(SCORES)[:2], expected, rtol=1e-12)
    assert np.allclose(formula.parts(SCORES).prod(axis=0), formula.fuse(SCORES), rtol=1e-9)


def test_a_zero_score_in_a_product_is_the_lowest_and_no_error() -> None:
    scores = bind(product({"pctr": 0.6, "pcvr": 1.2}), TASKS).for_scene(None).fuse(SCORES)
    assert np.isfinite(scores).all()
    assert scores.argmin() == 2


def test_a_weight_of_a_task_that_the_profile_leaves_out_can_be_given() -> None:
    fusion = bind(profiles(default={"pctr": 1.0}), TASKS)
    formula = fusion.with_weights(fusion.for_scene(None), {"pcvr": 3.0})
    assert formula.overridden
    assert np.allclose(formula.fuse(SCORES), SCORES[0] + 3 * SCORES[1].astype(float))


def test_a_profile_with_a_task_that_the_model_lacks_is_refused_by_name() -> None:
    with pytest.raises(FusionError, match=r"profile 'home' names plike, which the model lacks; it has pctr, pcvr"):
        bind(profiles(default={"pctr": 1.0}, home={"plike": 1.0}), TASKS)


def test_an_unknown_scene_or_weight_names_the_known_ones() -> None:
    fusion = bind(
        FusionProfiles.model_validate(profiles(default={"pctr": 1.0}).model_dump() | {"scenes": {"home": "default"}}),
        TASKS,
    )
    with pytest.raises(InvalidRequest, match="unknown scene 'shop'; known: home"):
        fusion.for_scene("shop")
    with pytest.raises(InvalidRequest, match="no task 'plike'; known: pctr, pcvr"):
        fusion.with_weights(fusion.for_scene("home"), {"plike": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: {home: {kind: weighted_sum, weights: {pctr: 1}}}", "'default' is needed"),
        ("profiles: {default: {kind: magic, weights: {pctr: 1}}}", "kind"),
        ("profiles: {default: {kind: weighted_sum, weights: {pctr: .nan}}}", "finite"),
        ("profiles: {default: {kind: weighted_sum, weights: {}}}", "at least 1"),
        ("profiles: {default: {kind: weighted_sum, weights: {pctr: 1}}}\nscenes: {home: shop}", "no profile 'shop'"),
        ("profiles: [", "not YAML"),
        (
            "profiles: {default: {kind: weighted_sum, weights: {pctr: 1.0, pctr: 0.001}}}",
            "pctr: this key occurs twice here",
        ),
        (
            "profiles: {default: {kind: weighted_sum, weights: {pctr: 1}}, default: {}}",
            "default: this key occurs twice here",
        ),
        ("", "fusion.yaml"),
    ],
)
def test_a_bad_fusion_file_is_told_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "fusion.yaml").write_text(text)
    with pytest.raises(FusionError, match=message):
        read_profiles(tmp_path / "fusion.yaml")


def test_a_missing_fusion_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FusionError, match="No such file"):
        read_profiles(tmp_path / "fusion.yaml")


def test_a_key_that_stands_twice_in_the_document_is_an_error_with_its_name(tmp_path: Path) -> None:
    text = '{"revision": 1, "profiles": {"default": {"kind": "weighted_sum", "weights": {"pctr": 1, "pctr": 0.001}}}}'
    (tmp_path / "fusion.json").write_text(text)
    with pytest.raises(FusionError, match="the key 'pctr' occurs twice"):
        DOCUMENT.read(tmp_path)


def test_profiles_that_no_request_is_ranked_by_are_named() -> None:
    weights = {"kind": "weighted_sum", "weights": {"pctr": 1.0}}
    document = FusionProfiles.model_validate(
        {
            "profiles": {"default": weights, "home": weights, "arm": weights, "forgotten": weights},
            "scenes": {"home": "home"},
            "experiments": {"e": {"scene": "home", "arms": [{"name": "a", "profile": "arm", "percent": 10}]}},
        }
    )
    assert document.unused() == ["forgotten"]
