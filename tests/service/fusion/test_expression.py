"""Tests fusion formulas: their values, that nothing else is allowed, and that an error names its column."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.fusion import FusionError, FusionProfiles, bind
from service.fusion.expression import ExpressionError, parse

TASKS = ("pctr", "pctcvr")
NUMERICS = ("price", "quality")
SCORES = np.array([[0.5, 0.1, 0.9], [0.2, 0.4, 0.0]], dtype=np.float32)
ITEMS = np.array([[10.0, 1.0], [np.nan, 2.0], [3.0, np.nan]], dtype=np.float32)
A = {"a": np.array([0.25, 4.0]), "b": np.array([-1.0, 2.0])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ** 0.5 * 2", [1.0, 4.0]),
        ("-a + +b / 2", [-0.75, -3.0]),
        ("(a > 1) * b", [0.0, 2.0]),
        ("where(b < 0, 0, a)", [0.0, 4.0]),
        ("clip(b, 0, 1)", [0.0, 1.0]),
        ("max(a, 1) - min(a, 1)", [0.75, 3.0]),
        ("log1p(expm1(a))", [0.25, 4.0]),
        ("log(exp(a)) + sqrt(a) - abs(b)", [-0.25, 4.0]),
        ("sigmoid(0) + tanh(0)", [0.5, 0.5]),
        ("1", [1.0, 1.0]),
    ],
)
def test_a_formula_is_computed_over_all_candidates(text: str, expected: list[float]) -> None:
    assert parse(text).compute(A, 2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("a.real", 1),
        ("1 + __import__('os').system('x')", 5),
        ("a + 'x'", 5),
        ("(lambda: 1)()", 1),
        ("a if b else 1", 1),
        ("a[0]", 1),
        ("1 + log(a, b)", 5),
        ("0 < a < 1", 1),
        ("a @ b", 1),
        ("a // b", 1),
        ("[x for x in a]", 1),
        ("(a := 1)", 2),
        ("log", 1),
        ("log(*a)", 1),
        ("log(x=a)", 1),
        ("a and b", 1),
        ("f'{a}'", 1),
        ("1e999", 1),
        ("1j * a", 1),
        ("True", 1),
        ("a +", 4),
        ("a b", 1),
        ("", 1),
        ("(" * 400, 201),
        ("-" * 120 + "a", 42),
        ("a\x00", 1),
        ("+".join(["a"] * 300), 1),
    ],
)
def test_what_is_no_formula_is_told_with_its_column(text: str, column: int) -> None:
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert abs(refused.value.column - column) <= 3, str(refused.value)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab.+-*/()<>=, 0123456789_[]{}'log1pexpwhere"), max_size=40))
def test_no_text_does_anything_but_compute_or_be_refused(text: str) -> None:
    try:
        expression = parse(text)
    except ExpressionError:
        return
    values = dict.fromkeys(expression.names, np.array([0.5, 2.0]))
    assert expression.compute(values, 2).shape == (2,)


def fused(profile: dict[str, object]) -> np.ndarray:
    profiles = FusionProfiles.model_validate({"profiles": {"default": {"kind": "formula"} | profile}})
    return bind(profiles, TASKS, NUMERICS).for_scene(None).fuse(SCORES, ITEMS)


def test_a_numeric_that_an_item_lacks_counts_as_the_profile_says() -> None:
    assert fused({"formula": "pctr * log1p(price)"}) == pytest.approx([0.5 * np.log(11), 0, 0.9 * np.log(4)])
    assert fused({"formula": "pctr * price", "missing": {"price": 7}}) == pytest.approx([5, 0.7, 2.7])


def test_what_cannot_be_computed_for_an_item_is_no_score_for_that_item() -> None:
    scores = fused({"formula": "pctr / pctcvr + sqrt(quality - 1.5)", "missing": {"quality": 2}})
    assert np.isfinite(scores).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("profile", "detail"),
    [
        ({"formula": "pctr * colour"}, r"column 8: unknown name 'colour'; known: pctr, pctcvr, price, quality"),
        ({"formula": "price * 2"}, "reads no task score"),
        (
            {"formula": "pctr * price", "weights": {"price": 2}},
            "column 8: 'price' is ambiguous: task, numeric feature or weight",
        ),
        ({"formula": "pctr", "missing": {"pctr": 2}}, "missing: pctr"),
        ({"formula": "pctr", "bounds": {"x": {"min": 0, "max": 1}}}, "bounds x"),
    ],
)
def test_a_formula_that_does_not_fit_the_model_is_refused(profile: dict[str, object], detail: str) -> None:
    with pytest.raises(FusionError, match=detail):
        fused(profile)


def test_a_formulas_own_weights_can_be_overridden_within_their_bounds() -> None:
    profile = {
        "kind": "formula",
        "formula": "pctr ** a * pctcvr ** b",
        "weights": {"a": 1, "b": 1},
        "bounds": {"a": {"min": 0, "max": 2}},
    }
    fusion = bind(FusionProfiles.model_validate({"profiles": {"default": profile}}), TASKS, NUMERICS)
    formula = fusion.for_scene(None)
    assert fusion.with_weights(formula, {"a": 2}).fuse(SCORES) == pytest.approx([0.05, 0.004, 0])
    for name, weight, detail in (
        ("a", 2.5, "outside 0..2"),
        ("b", 1, "the operator does not allow to change this weight; allowed: a"),
        ("c", 1, "no weight 'c'"),
    ):
        with pytest.raises(InvalidRequest, match=detail):
            fusion.with_weights(formula, {name: weight})


def test_parts_of_a_formula_say_what_an_items_own_value_moved() -> None:
    profiles = FusionProfiles.model_validate(
        {"profiles": {"default": {"kind": "formula", "formula": "2 * pctr + price"}}}
    )
    detail = {e.name: e for e in bind(profiles, TASKS, NUMERICS).for_scene(None).explain(SCORES, ITEMS)}
    assert detail["pctr"].parts == pytest.approx(2 * (SCORES[0] - SCORES[0].mean()), abs=1e-6)
    assert detail["price"].values.tolist() == [10, 0, 3]
    assert detail["pctr"].is_score and not detail["price"].is_score


def test_a_formula_is_parsed_once_and_a_bounded_number_is_remembered() -> None:
    assert parse("pctr + 77.5 * pcvr") is parse("pctr + 77.5 * pcvr")
    for number in range(1000):
        parse(f"pctr + {number}.25")
    assert parse.cache_info().currsize < 500
    for _ in range(2):
        with pytest.raises(ExpressionError, match="column 9"):
            parse("pctr + -'x'")
