"""Tests SIM against a float64 reference of the paper's equations: search, attention, masks, one user, the graph."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_graph_equals_torch, weighted
from small_rankers import raw_inputs, small

from models.encoders.base import EncoderSpec, Keys, View
from models.encoders.din import Din
from models.encoders.sim import Sim, SimOptions
from models.errors import RecipeError

ITEM = 3
PROPERTY = 2
WIDTH = 4
KNOWN = 3  # rows 0 to 2 are missing or unknown values
COLUMNS = {"tags": slice(0, 2), "shop": slice(2, 3), "item_id": slice(3, 4)}
ONE_VALUE = pytest.mark.parametrize("category", ["tags", "shop"])


def f64(t):
    return t.detach().double().numpy()


def encoder(top=3, recent=2, heads=2, category="tags") -> Sim:
    torch.manual_seed(0)
    options = SimOptions(
        type="sim", category=category, top=top, recent=recent, attention_heads=heads, width=WIDTH, hidden=(4,)
    )
    model = options.build(EncoderSpec(ITEM, PROPERTY, key_columns=COLUMNS, first_known_row=KNOWN)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def example(n=6, behaviours=9, seed=0):
    """Behaviours, mask, candidates and the rows of both: few values, so that many match; some missing or unknown."""
    rng = np.random.default_rng(seed)
    mask = np.arange(behaviours) < rng.integers(0, behaviours + 1, n)[:, None]
    mask[0] = True
    rows = rng.integers(0, KNOWN + 4, (n, behaviours, 4)) * mask[..., None]
    return (
        rng.normal(size=(n, behaviours, ITEM + PROPERTY)),
        mask,
        rng.normal(size=(n, ITEM)),
        rows,
        rng.integers(0, KNOWN + 4, (n, 4)),
    )


def view(behaviours, mask, target, rows, target_rows):
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in (behaviours, mask, target, rows, target_rows)]
    return View(*tensors[:3], keys=Keys(*tensors[3:]))


def places_of_matches(model, mask, rows, target_rows):
    """The places of the newest matches, by sets of values."""
    columns = model.category
    values = {int(row) for row in target_rows[columns] if row >= KNOWN}
    places = [j for j in range(len(mask)) if mask[j] and values & set(rows[j][columns].tolist())]
    return places[: model.top]


def reference(model, behaviours, mask, target, rows, target_rows):
    """U of one impression `[Q G]`, head by head."""
    places = places_of_matches(model, mask, rows, target_rows)
    z = behaviours[places]
    heads = []
    for head in range(model.heads):
        of = slice(head * WIDTH, (head + 1) * WIDTH)
        raw = z @ f64(model.of_behaviour.weight)[of].T @ (f64(model.of_candidate.weight)[of] @ target)
        weights = np.exp(raw) / np.exp(raw).sum() if len(places) else raw
        heads.append(weights @ z)
    return np.concatenate(heads)


@ONE_VALUE
@pytest.mark.parametrize("top", [1, 3, 50])
@pytest.mark.parametrize("heads", [1, 2])
def test_equals_the_papers_equations(category, top, heads):
    model = encoder(top, 0, heads, category)
    inputs = example(40)
    counts = [len(places_of_matches(model, *(inputs[i][row] for i in (1, 3, 4)))) for row in range(40)]
    assert min(counts) == 0 and max(counts) >= min(top, 3)
    expected = np.stack([reference(model, *(values[row] for values in inputs)) for row in range(40)])
    np.testing.assert_allclose(f64(model(view(*inputs))), expected, atol=1e-12)


def test_the_newest_behaviours_of_any_category_are_read_by_din_beside():
    model = encoder(recent=2)
    inputs = view(*example())
    assert isinstance(model.short, Din)
    recent = model.short(inputs._replace(behaviours=inputs.behaviours[:, :2], mask=inputs.mask[:, :2]))
    out = model(inputs)
    torch.testing.assert_close(out, torch.cat([model.attention(inputs), recent], -1))
    assert out.shape[1] == model.out_width == 2 * 5 + 5


def test_missing_and_unknown_values_are_no_category():
    model = encoder(recent=0)
    behaviours, mask, target, rows, _ = example()
    for value in range(KNOWN):
        same = np.full_like(rows, value)
        out = model(view(behaviours, mask, target, same, np.full((len(target), 4), value)))
        assert (out == 0).all()


def test_padding_changes_nothing_whatever_it_holds():
    model = encoder()
    behaviours, mask, target, rows, target_rows = example()
    other = np.where(mask[..., None], behaviours, 1e3)
    other_rows = np.where(mask[..., None], rows, target_rows[:, None])
    expected = model(view(behaviours, mask, target, rows, target_rows))
    torch.testing.assert_close(model(view(other, mask, target, other_rows, target_rows)), expected)


def test_behaviours_beyond_the_newest_matches_and_the_recent_ones_change_nothing():
    model = encoder(top=2, recent=1)
    inputs = example(30)
    behaviours, mask, *_, rows, target_rows = inputs
    is_read = model.reads(Keys(torch.from_numpy(rows), torch.from_numpy(target_rows)), torch.from_numpy(mask)).numpy()
    for row in range(30):
        expected = {*places_of_matches(model, mask[row], rows[row], target_rows[row]), 0}
        assert set(np.flatnonzero(is_read[row])) == expected
    other = np.where(is_read[..., None], behaviours, 7.0)
    torch.testing.assert_close(model(view(other, *inputs[1:])), model(view(*inputs)))


@pytest.mark.parametrize("behaviours", [0, 1, 9])
def test_one_user_for_all_candidates_equals_the_behaviours_repeated(behaviours):
    model = encoder()
    sequence, _, _, rows, _ = example(1, behaviours)
    mask = np.ones((1, behaviours), bool)
    rng = np.random.default_rng(1)
    targets, target_rows = rng.normal(size=(7, ITEM)), rng.integers(0, KNOWN + 4, (7, 4))
    once = model(view(sequence, mask, targets, rows, target_rows))
    repeated = model(view(sequence.repeat(7, 0), mask.repeat(7, 0), targets, rows.repeat(7, 0), target_rows))
    torch.testing.assert_close(once, repeated)


def test_gradients_are_those_of_finite_differences():
    model = encoder()
    inputs = view(*example(12))
    assert_gradients(model, lambda: weighted(model(inputs)))


@pytest.mark.slow
def test_the_graph_equals_torch_at_any_length_up_to_a_thousand():
    options = {"type": "sim", "category": "tag", "top": 3, "recent": 2, "width": 4, "hidden": [4]}
    model = small("sim", encoders=[options])
    assert model.ranker.encoders[0].category == slice(1, 3)
    requests = [raw_inputs(model, *size, seed=sum(size)) for size in ((1, 0), (7, 3), (20, 1000))]
    assert_graph_equals_torch(model, requests)


def test_the_category_is_the_first_feature_that_is_not_the_id_unless_it_is_named():
    spec = EncoderSpec(ITEM, PROPERTY, key_columns=COLUMNS)
    assert SimOptions(type="sim").build(spec).category == slice(0, 2)
    assert SimOptions(type="sim", category="item_id").build(spec).category == slice(3, 4)
    assert small("sim").ranker.encoders[0].category == slice(0, 1)  # the shop; its id is the last of the features
    assert small("sim", features={"item_id_feature": None}).ranker.encoders[0].category == slice(0, 1)
    with pytest.raises(RecipeError, match=r"model\.encoders: 'tag' is no item feature .*'tags'\?"):
        SimOptions(type="sim", category="tag").build(spec)
