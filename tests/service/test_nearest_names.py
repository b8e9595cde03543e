"""Every listed name of the service that matches nothing is told with the nearest one that is there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from features import FeatureError, FeatureSchema
from features.layouts import Layouts
from service.addresses.redis_url import address_of
from service.api.body import parse
from service.api.routes.features import by_schema
from service.api.routes.rank import RankRequest
from service.api.routes.rollout import RolloutRequest
from service.bundle.verify import BundleRejected, read_manifest
from service.errors import InvalidRequest
from service.fusion import FusionError, FusionProfiles, bind, read_profiles
from service.rollout.rollout import Limits
from service.rules.bound import bind_rules
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets

TASKS = ("pctr", "pctcvr")
NUMERICS = ("price", "quality")
SUM = {"kind": "weighted_sum", "weights": {"pctr": 1}}
ARM = {"name": "a", "profile": "default", "percent": 50}
SCHEMA = FeatureSchema.model_validate(
    {
        "item": [{"name": "price", "type": "numeric"}, {"name": "tag", "type": "categorical"}],
        "context": [{"name": "tab", "type": "categorical"}],
    }
)


def bound(profile: object = SUM, scenes: object = None, experiments: object = None) -> object:
    document = {"profiles": {"default": profile}, "scenes": scenes or {}, "experiments": experiments or {}}
    return bind(FusionProfiles.model_validate(document), TASKS, NUMERICS)


def formula(**more: object) -> object:
    return bound({"kind": "formula", "formula": "pctr * w", "weights": {"w": 1}} | more)


def with_weights(profile: object, name: str) -> object:
    fusion = bind(FusionProfiles.model_validate({"profiles": {"default": profile}}), TASKS)
    return fusion.with_weights(fusion.for_scene(None), {name: 1.0})


def rules(*rule: object) -> object:
    layout = Layouts.of(SCHEMA).item
    return bind_rules(RuleSets.model_validate({"rules": {"default": list(rule)}}), layout, TASKS)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "a weight's task": (lambda: bound({"kind": "weighted_sum", "weights": {"pcctr": 1}}), "pctr"),
    "a bound's task": (lambda: bound(SUM | {"bounds": {"pctrr": {"min": 0, "max": 1}}}), "pctr"),
    "a formula's name": (lambda: formula(formula="pctr * prize"), "price"),
    "a formula's function": (lambda: formula(formula="log1(pctr)"), "log1p"),
    "a formula's missing": (lambda: formula(missing={"qualty": 0}), "quality"),
    "a formula's bound": (
        lambda: formula(weights={"boost": 1}, formula="pctr * boost", bounds={"bost": {"min": 0, "max": 1}}),
        "boost",
    ),
    "a scene's profile": (lambda: bound(scenes={"home": "defualt"}), "default"),
    "an experiment's scene": (
        lambda: bound(scenes={"home": "default"}, experiments={"e": {"scene": "hme", "arms": [ARM]}}),
        "home",
    ),
    "an arm's profile": (lambda: bound(experiments={"e": {"arms": [ARM | {"profile": "defaul"}]}}), "default"),
    "a request's weight": (lambda: with_weights(SUM, "pctvr"), "pctcvr"),
    "a request's weight of a formula": (
        lambda: with_weights({"kind": "formula", "formula": "pctr * boost", "weights": {"boost": 1}}, "bosst"),
        "boost",
    ),
    "a request's scene": (
        lambda: bind(
            FusionProfiles.model_validate({"profiles": {"default": SUM}, "scenes": {"home": "default"}}), TASKS
        ).for_scene("Home"),
        "home",
    ),
    "a request's key": (lambda: parse(RankRequest, b'{"user_id": "1", "candidates": ["1"], "topk": 5}'), "top_k"),
    "a candidate's key": (
        lambda: parse(RankRequest, b'{"user_id": "1", "candidates": [{"item_id": "1", "feature": {}}]}'),
        "features",
    ),
    "a change's key": (lambda: parse(RolloutRequest, b'{"canery": null}'), "canary"),
    "a limit's key": (lambda: parse(RolloutRequest, b'{"limits": {"latency_ration": 2}}'), "latency_ratio"),
    "a request's feature": (lambda: Layouts.of(SCHEMA).context.pack({"tabb": 1}), "tab"),
    "a rule's feature": (lambda: rules({"type": "quota", "feature": "tagg", "at_most": 1, "window": 5}), "tag"),
    "a rule's formula": (lambda: rules({"type": "boost", "formula": "score * prise"}), "price"),
    "a rule's vector": (
        lambda: rules({"type": "diversity", "method": "mmr", "weight": 0.3, "vector": "pric"}),
        "price",
    ),
    "an arm's rules": (
        lambda: RuleSets.model_validate(
            {"rules": {"default": []}, "experiments": {"e": {"arms": [{"name": "a", "rules": "defalt", "percent": 5}]}}}
        ),
        "default",
    ),
    "an option of the Redis URL": (lambda: address_of("rediss://h/0?ssl_ca_cert=/x"), "ssl_ca_certs"),
}
REFUSALS = (FusionError, InvalidRequest, FeatureError, RulesError, ValidationError, ValueError)


@pytest.mark.parametrize("case", CASES)
def test_a_misspelt_name_is_told_with_the_nearest(case: str) -> None:
    refused, right = CASES[case]
    with pytest.raises(REFUSALS) as error:
        refused()
    assert f"; did you mean '{right}'?" in str(error.value)


async def test_a_misspelt_feature_of_a_write_is_told_with_the_nearest() -> None:
    with pytest.raises(InvalidRequest) as error:
        await by_schema([Layouts.of(SCHEMA).item], "item", [("1", {"price": 1.0, "tga": "a"})])
    assert [(e.field, e.message) for e in error.value.errors] == [
        ("items[0].features.tga", "unknown feature; did you mean 'tag'?")
    ]


def test_a_misspelt_key_of_the_fusion_file_is_told_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "fusion.yaml"
    file.write_text("profiles:\n  default: {kind: weighted_sum, weight: {pctr: 1}, weights: {pctr: 1}}\n")
    with pytest.raises(FusionError, match=r"profiles\.default\.weight: unknown field; did you mean 'weights'\?"):
        read_profiles(file)


def test_a_truth_value_is_no_weight(tmp_path: Path) -> None:
    file = tmp_path / "fusion.yaml"
    file.write_text("profiles:\n  default: {kind: weighted_sum, weights: {pctr: yes}}\n")
    with pytest.raises(
        FusionError, match=r"fusion\.yaml:2: profiles\.default\.weights\.pctr: a number is needed, and yes"
    ):
        read_profiles(file)


@pytest.mark.parametrize(
    ("name", "version", "advice"),
    [
        ("synthetic", "10", "; did you mean '1'?"),
        ("synthetic", "9", "; published: 1, 2024-01-01"),
        ("synthetic", "2024-01-11", "; did you mean '2024-01-01'?"),
        ("sinthetic", "1", "; did you mean 'synthetic'?"),
    ],
)
def test_a_version_that_is_not_published_is_told_with_the_nearest(
    tmp_path: Path, kit: SimpleNamespace, name: str, version: str, advice: str
) -> None:
    for published in ("1", "2024-01-01"):
        kit.publish(tmp_path, published)
    with pytest.raises(BundleRejected) as error:
        read_manifest(tmp_path / name / version)
    assert error.value.detail.endswith(f"does not exist{advice}")


def test_the_limits_are_known_by_the_names_of_the_page() -> None:
    assert {"psi", "latency_ratio", "error_rate"} <= set(Limits.model_fields)
