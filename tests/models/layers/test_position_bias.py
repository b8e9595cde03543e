"""Tests the position tower over several heads and features: numbers, gradients, data, refusals, what is served."""

import numpy as np
import pytest
import torch
from small_rankers import small, training_batch

from models.data.cache import open_data
from models.data.split import PARTS
from models.layers.position_bias import PositionSection, PositionTower
from models.network.build import build_model
from models.recipe import RecipeError
from models.reports.report import _position
from models.train import train
from models.training.checkpoint import RESUME_FILE, load_whole
from models.training.diagnostics.position import position_curve
from models.training.loop import learn

HEADS = ("pctr", "plike")
TWO = {"column": "place", "cross": ["tab", "page"], "max_position": 10, "head": ["pctr", "plong_view"]}


def tower_of(heads, cross_values=2):
    tower = PositionTower(PositionSection(column="position", cross="device", max_position=5, head=heads), cross_values)
    with torch.no_grad():
        tower.bias.weight.normal_(generator=torch.Generator().manual_seed(1))
    return tower.double()


def test_each_head_has_the_bias_of_the_reference_and_its_gradient():
    """bias_h(position, cross) = W_h[position, cross]; d loss_h / d W_h sums d loss_h / d shift_h by cell."""
    tower = tower_of(HEADS).eval()
    rng = np.random.default_rng(2)
    position = rng.integers(0, 6, 200)
    cross = rng.integers(0, 3, 200)
    upstream = rng.normal(size=(2, 200))
    cells = tower.bias.weight.detach().numpy().reshape(6, 3, 2)
    shifts = tower(torch.from_numpy(position), torch.from_numpy(cross))
    assert tuple(shifts) == HEADS
    sum((shifts[head] * torch.from_numpy(up)).sum() for head, up in zip(HEADS, upstream, strict=True)).backward()
    expected = np.zeros((6, 3, 2))
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(shifts[head].detach(), cells[position, cross, i], rtol=0, atol=0)
        np.add.at(expected[..., i], (position, cross), upstream[i])
    np.testing.assert_allclose(tower.bias.weight.grad.numpy().reshape(6, 3, 2), expected, atol=1e-12)


def test_the_constants_are_the_missing_position_of_each_head_averaged_over_cross_values():
    tower = tower_of(HEADS)
    tower.train()(torch.ones(100, dtype=torch.int64), torch.tensor([0] * 20 + [1] * 50 + [2] * 30))
    cells = tower.bias.weight.detach().numpy().reshape(6, 3, 2)
    expected = np.array([0.2, 0.5, 0.3]) @ cells[0]
    got = tower.missing_constants()
    np.testing.assert_allclose([got[head].item() for head in HEADS], expected, rtol=1e-12)


def test_one_drop_hides_the_position_from_all_heads():
    tower = tower_of(HEADS)
    torch.manual_seed(0)
    shifts = tower.train()(torch.full((2000,), 4), torch.ones(2000, dtype=torch.int64))
    missing = tower.bias.weight.detach()[1]
    dropped = [shifts[head].detach() == missing[i] for i, head in enumerate(HEADS)]
    assert torch.equal(*dropped) and 0.07 < dropped[0].float().mean() < 0.13


def test_a_head_over_a_part_of_the_funnel_learns_its_bias_from_that_part_alone():
    tasks = [
        {"type": "independent", "name": "pctr", "label": "click"},
        {"type": "independent", "name": "pcvr", "label": "like", "space": "click"},
    ]
    model = small("mmoe", position={"head": ["pctr", "pcvr"], "drop_rate": 0.0}, tasks=tasks)
    batch = training_batch(model, 64, 3)
    clicked = batch["label/click"] > 0
    # One position of the clicks, another one of the others.
    batch |= {"position": torch.where(clicked, 2, 7), "position_cross": torch.zeros(64, dtype=torch.int64)}
    sum(model.ranker.train().losses(batch).values()).backward()
    gradient = model.ranker.position.bias.weight.grad.reshape(11, 4, 2)[:, 0]
    assert (gradient[[2, 7], 0] != 0).all()
    assert gradient[2, 1] != 0 and gradient[7, 1] == 0


def test_the_position_shifts_its_heads_in_training_and_no_order_at_serving():
    model = small("mmoe", position={"head": list(HEADS)})
    batch = training_batch(model, 16, 3)
    moved = batch | {"position": torch.full((16,), 9)}
    with torch.no_grad():
        for name, value in model.ranker.eval()(batch).items():
            assert torch.equal(value, model.ranker(moved)[name])
        model.ranker.train()
        model.ranker.position.drop_rate = 0.0
        for head in HEADS:
            assert (model.ranker(batch)[head] - model.ranker(moved)[head]).abs().max() > 0.01


def test_one_head_in_a_list_trains_the_bits_of_one_head(tiny_recipe, tables, tmp_path):
    tables["impressions"]["page"] = 1
    weights = []
    for i, (cross, head) in enumerate((("tab", "pctr"), (["tab"], ["pctr"]))):
        recipe = tiny_recipe(tables, {"position": {"column": "place", "cross": cross, "head": head}})
        learn(recipe, open_data(recipe, tmp_path / "cache"), tmp_path / f"run-{i}", quiet=True)
        weights.append(load_whole(tmp_path / f"run-{i}" / RESUME_FILE)["weights"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_columns_are_crossed_by_their_combinations_and_the_report_has_every_head(tiny_recipe, tables, tmp_path):
    shown = tables["impressions"]
    shown["page"] = np.arange(len(shown)) // 7 % 2
    recipe = tiny_recipe(tables, {"position": TWO})
    data = open_data(recipe, tmp_path / "cache")
    assert data.cross_values == 6
    pairs = set()
    for part in PARTS:
        pairs |= set(zip(*_raw_and_crossed(data, part, shown), strict=True))
    assert len(pairs) == 6 and len({raw for raw, _ in pairs}) == 6
    ranker = build_model(recipe, data.encoding, data.cross_values)
    torch.nn.init.normal_(ranker.position.bias.weight)
    curve = position_curve(ranker, data)
    (other,) = curve["others"]
    assert (curve["head"], other["head"], other["cross"]) == ("pctr", "plong_view", "tab x page")
    assert len(curve["curve"]) == len(other["curve"]) == 6 and curve["curve"] != other["curve"]
    constants = {head: value.item() for head, value in ranker.position_constants().items()}
    assert constants == {"pctr": curve["constant"], "plong_view": other["constant"]}
    assert [part for part in _position(curve) if "plong_view" in str(part)]


def _raw_and_crossed(data, part, shown):
    """The combination of the raw values of each impression of a part, and its cross value."""
    by_time = shown.drop_duplicates("time_ms").set_index("time_ms")
    raw = by_time.loc[np.asarray(data.parts[part].time)]
    return list(zip(raw["tab"], raw["page"], strict=True)), data.parts[part].position_cross.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": ["pctr", "pctr"]}, "position.head.*names one twice"),
        ({"cross": ["tab", "tab"]}, "position.cross.*names one twice"),
        ({"head": []}, "position.head"),
        ({"cross": ["tab", "click"]}, "position.cross: 'click' is a label and cannot be crossed with the position"),
        ({"cross": "place"}, "position.cross: 'place' is the position and cannot be crossed with the position"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(tiny_recipe, tables, changes, message):
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(tables, {"position": TWO | changes})


def test_unknown_heads_and_columns_and_a_log_without_positions_are_refused(tiny_recipe, tables, tmp_path):
    tables["impressions"]["page"] = 1
    with pytest.raises(RecipeError, match="position.head: 'plong_vew' is not a head of one logit"):
        train(tiny_recipe(tables, {"position": TWO | {"head": ["pctr", "plong_vew"]}}), tmp_path / "run", quiet=True)
    with pytest.raises(RecipeError, match=r"no column 'scene'.*position\.cross"):
        open_data(tiny_recipe(tables, {"position": TWO | {"cross": ["tab", "scene"]}}), tmp_path / "cache")
    tables["impressions"]["place"] = None
    with pytest.raises(RecipeError, match="position.column: no impression of the training part has a position"):
        open_data(tiny_recipe(tables, {"position": TWO}), tmp_path / "cache")
