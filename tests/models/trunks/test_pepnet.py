"""Tests PEPNet against a float64 reference of the paper's equations: forward, gradients, stops, gates at the start."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_one_row_equals_repeated, weighted
from small_rankers import raw_inputs, score, small

from models.layers.input_part import InputPart
from models.trunks.base import TrunkInput, TrunkSpec
from models.trunks.pepnet import Pepnet
from models.trunks.separate import Separate

WIDTHS = (5, 3, 4)  # of the user, of the item, of an encoder, which is no prior
CONTEXT = 2
HEADS = ("a", "b")
HIDDEN = (6, 4)


def f64(t):
    return t.detach().double().numpy()


def trunk(context=CONTEXT) -> Pepnet:
    torch.manual_seed(0)
    parts = (InputPart(5, False, 4, embedded=1, numerics=1), InputPart(3, True, 4, numerics=3), InputPart(4, True, 4))
    return Pepnet(TrunkSpec(parts, HEADS, 0.0, context), HIDDEN, scene_hidden=7, gate_hidden=8).double().eval()


def example(n=9, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, sum(WIDTHS))), rng.normal(size=(n, CONTEXT))


def inputs_of(x, context):
    parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in np.split(x, [5, 8], 1)]
    return TrunkInput(parts, None if context is None else torch.from_numpy(context))


def gate_of(gate, x):
    first = np.maximum(x @ np.concatenate([f64(w) for w in gate.first.weights]) + f64(gate.first.bias), 0)
    return 2 / (1 + np.exp(-(first @ f64(gate.last.weight).T + f64(gate.last.bias))))


def reference(model, x, context, stopped=None):
    """`[H, B, X]`, head by head. `stopped`: (E, O_ep) as constants in place of what the gates read."""
    scene = [] if context is None else [context]
    gated = gate_of(model.scene_gate, np.concatenate([*scene, x if stopped is None else stopped[0]], 1)) * x
    read = np.concatenate([x[:, :8], gated if stopped is None else stopped[1]], 1)
    outs = []
    for head in range(len(HEADS)):
        h = gated
        for depth, width in enumerate(HIDDEN):
            of = slice(head * width, (head + 1) * width)
            if depth == 0:
                weight = np.concatenate([f64(w) for w in model.first.weights])[:, of]
                bias = f64(model.first.bias)[of]
            else:
                weight, bias = f64(model.rest[depth - 1].weight)[head], f64(model.rest[depth - 1].bias)[head]
            h = np.maximum(h @ weight + bias, 0) * gate_of(model.gates[depth], read)[:, of]
        outs.append(h)
    return np.stack(outs)


@pytest.mark.parametrize("context", [CONTEXT, 0])
def test_equals_the_papers_equations(context):
    model = trunk(context)
    x, scene = example()
    scene = scene if context else None
    np.testing.assert_allclose(f64(model(inputs_of(x, scene))), reference(model, x, scene), atol=1e-12)


def test_gates_without_weights_are_one_and_leave_a_network_per_head():
    model = trunk()
    with torch.no_grad():
        for gate in (model.scene_gate, *model.gates):
            gate.last.weight.zero_()
    plain = Separate(WIDTHS, HEADS, HIDDEN, 0.0).double().eval()
    with torch.no_grad():
        plain.first.load_state_dict(model.first.state_dict())
        plain.rest.layers[0].load_state_dict(model.rest[0].state_dict())
    inputs = inputs_of(*example())
    torch.testing.assert_close(model(inputs), plain(inputs))


def test_gates_start_near_one_and_stay_between_zero_and_two():
    torch.manual_seed(0)
    parts = (InputPart(40, False, 8, embedded=5), InputPart(24, True, 8, embedded=3))
    model = Pepnet(TrunkSpec(parts, HEADS, 0.0, 8), (128, 64), 32, 64)
    x = [torch.randn(500, 40), torch.randn(500, 24)]
    with torch.no_grad():
        gates = model.scene_gate([torch.randn(500, 8), *x])
        assert 0.95 < gates.mean() < 1.05 and (gates - 1).abs().max() < 0.7
        extreme = model.scene_gate([torch.randn(500, 8), *(1e4 * part for part in x)])
    assert extreme.min() >= 0 and extreme.max() <= 2


def test_the_input_gets_the_gradient_of_the_equations_with_their_stops():
    """The finite differences of the reference in which what sg() stops is constant."""
    model = trunk()
    x, scene = example(4)
    inputs = inputs_of(x, scene)
    parts = [part.requires_grad_() for part in inputs.parts]
    weight = np.random.default_rng(2).normal(size=(len(HEADS), 4, HIDDEN[-1]))
    (model(inputs) * torch.from_numpy(weight)).sum().backward()
    got = np.concatenate([part.grad.numpy() for part in parts], 1)
    gated = gate_of(model.scene_gate, np.concatenate([scene, x], 1)) * x

    def loss(values):
        return (reference(model, values, scene, (x, gated)) * weight).sum()

    for row, column in ((0, 0), (1, 4), (2, 6), (3, 7), (0, 9), (2, 11)):
        step = np.zeros_like(x)
        step[row, column] = 1e-6
        expected = (loss(x + step) - loss(x - step)) / 2e-6
        assert got[row, column] == pytest.approx(expected, abs=1e-6)


def test_the_gates_of_the_tasks_teach_the_scenes_gate_nothing():
    """Every parameter has the gradient of the reference in which the gates of PPNet read a constant O_ep."""
    model = trunk()
    x, scene = example()
    gated = gate_of(model.scene_gate, np.concatenate([scene, x], 1)) * x
    assert_gradients(
        model,
        lambda: weighted(model(inputs_of(x, scene))),
        differenced=lambda: weighted(torch.from_numpy(reference(model, x, scene, (x, gated)))),
    )


def test_a_user_part_of_one_row_equals_the_same_row_repeated():
    parts = [torch.randn(rows, width, dtype=torch.float64) for rows, width in zip((1, 8, 8), WIDTHS, strict=True)]
    assert_one_row_equals_repeated(trunk(), TrunkInput(parts, torch.randn(1, CONTEXT, dtype=torch.float64)))


def test_the_scene_moves_the_scores():
    model = small("pepnet")
    inputs = raw_inputs(model, 5, 3)
    other = dict(inputs)
    other["context_numerics"] = inputs["context_numerics"] + 3
    other["context_numerics"][np.isnan(other["context_numerics"])] = 1.0
    before, after = score(model, inputs), score(model, other)
    for name, values in before.items():
        assert np.abs(values - after[name]).max() > 1e-4
