"""Tests HoME against a float64 reference of the paper's equations: forward, gradients, the hierarchy, its gates."""

import numpy as np
import pytest
import torch
from paper_checks import assert_gradients, assert_one_row_equals_repeated, weighted

from models.errors import RecipeError
from models.layers.input_part import InputPart
from models.trunks.base import TrunkInput, TrunkSpec
from models.trunks.home import Home, HomeOptions

WIDTHS = (5, 3)
HEADS = ("click", "like", "view")
GROUPS = (("click", "view"), ("like",))
GROUP_OF = (0, 1, 0)
META = (6, 4)
HIDDEN = (5,)
EXPERTS = pytest.mark.parametrize("experts", [1, 2])


def f64(t):
    return t.detach().double().numpy()


def trunk(experts=2, groups=GROUPS) -> Home:
    """A network whose weights and statistics all differ from their initial values."""
    torch.manual_seed(0)
    parts = tuple(InputPart(width, i == 1, 4) for i, width in enumerate(WIDTHS))
    raw = {"type": "home", "groups": groups, "experts": experts, "meta_hidden": META, "expert_hidden": HIDDEN}
    options = HomeOptions.model_validate(raw | {"rank": 3})
    model = options.build(TrunkSpec(parts, HEADS, dropout=0.0)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for level in (model.meta, model.tasks):
            level.last.mean.normal_()
            level.last.variance.uniform_(0.5, 2)
    return model.eval()


def parts_of(x):
    return TrunkInput([torch.from_numpy(x[:, :5]), torch.from_numpy(x[:, 5:])])


def example(n=9):
    return np.random.default_rng(1).normal(size=(n, sum(WIDTHS)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def feature_gate(level, module, v, of_down, of_weights):
    """Fea(v) of one module for impressions `[n, I]`, LoRA by LoRA."""
    rank = level.up.shape[2]
    weights = softmax(v @ of_weights)
    gate = 0
    for i in range(weights.shape[1]):
        low = of_down[:, i * rank : (i + 1) * rank] @ f64(level.up)[module, i]
        gate = gate + weights[:, i : i + 1] * 2 * sigmoid(v @ low)
    return gate


def expert_of(level, number, x, in_batch):
    """Swish(BN(MLP(x))) of one expert; `in_batch`: by the statistics of these impressions."""
    for layer in level.first.layers:
        x = np.maximum(x @ f64(layer.weight)[number] + f64(layer.bias)[number], 0)
    y = x @ f64(level.last.weight)[number]
    mean = y.mean(0) if in_batch else f64(level.last.mean)[number]
    variance = y.var(0) if in_batch else f64(level.last.variance)[number]
    y = f64(level.last.gamma)[number] * (y - mean) / np.sqrt(variance + level.last.eps) + f64(level.last.beta)[number]
    return y * sigmoid(y)


def mixture(weights, experts):
    return sum(weights[:, i : i + 1] * expert for i, expert in enumerate(experts))


def own_mixture(raw, experts):
    return mixture(sigmoid(raw) if len(experts) == 1 else softmax(raw), experts)


def reference(model, x, in_batch=False):
    """`[H, n, X]`, module by module and head by head."""
    n = model.meta.experts
    groups = len(set(model.group.tolist()))
    group_of = model.group.tolist()
    # The columns of the one product on the input.
    columns = np.concatenate([f64(w) for w in model.of_input.weights])
    mapped, own, of_groups, of_shared = np.split(columns, np.cumsum(model.sizes)[:-1], 1)
    mapped, own = np.split(mapped, groups + 1, 1), np.split(own, groups + 1, 1)
    of_groups = np.split(of_groups, groups, 1)
    down = model.meta.sizes[0]
    experts = []
    for module in range(groups + 1):
        gate = feature_gate(model.meta, module, x, mapped[module][:, :down], mapped[module][:, down:])
        experts.append([expert_of(model.meta, module * n + i, x * gate, in_batch) for i in range(n)])
    shared = experts[groups]
    z = [mixture(softmax(x @ of_groups[c]), experts[c] + shared) for c in range(groups)]
    z.append(mixture(softmax(x @ of_shared), [e for module in experts for e in module]))
    z = [z[k] + own_mixture(x @ own[k], experts[k]) for k in range(groups + 1)]
    # The second level: a module of each head, of each group, and a shared one.
    heads = len(group_of)
    source = [*group_of, *range(groups), groups]
    experts = []
    for module, k in enumerate(source):
        weights = f64(model.of_source)[module]
        gate = feature_gate(model.tasks, module, z[k], weights[:, :down], weights[:, down:])
        experts.append([expert_of(model.tasks, module * n + i, z[k] * gate, in_batch) for i in range(n)])
    outs = []
    for head, c in enumerate(group_of):
        gates = softmax(np.concatenate([z[c], z[groups]], 1) @ f64(model.gates)[head])
        out = mixture(gates, experts[head] + experts[heads + c] + experts[heads + groups])
        outs.append(out + own_mixture(z[c] @ f64(model.self_gates)[head], experts[head]))
    return np.stack(outs)


@EXPERTS
@pytest.mark.parametrize("groups", [GROUPS, (), (("view",), ("like",), ("click",))])
def test_equals_the_papers_equations(experts, groups):
    model = trunk(experts, groups)
    x = example()
    np.testing.assert_allclose(f64(model(parts_of(x))), reference(model, x), atol=1e-12)


def test_training_normalises_the_experts_by_the_batch():
    model = trunk().train()
    x = example(30)
    expected = reference(model, x, in_batch=True)
    np.testing.assert_allclose(f64(model(parts_of(x))), expected, atol=1e-12)


def test_a_head_mixes_experts_of_its_own_its_group_and_the_shared_ones_alone():
    """What only another group's experts and heads have is out of reach: the paper's hierarchy mask."""
    model = trunk()
    assert model.group.tolist() == list(GROUP_OF)
    model(parts_of(example()))[1].sum().backward()  # the like, in a group of its own
    of_task_experts = model.tasks.last.weight.grad.abs().sum((1, 2)).unflatten(0, (-1, 2)).sum(1)
    reached = (of_task_experts > 0).tolist()
    assert reached == [False, True, False, False, True, True]  # click, like, view; watching, liking; shared
    assert (model.of_source.grad.abs().sum((1, 2)) > 0).tolist() == reached
    # The other group's experts of the first level reach the like through the shared mixture.
    assert (model.meta.last.weight.grad.abs().sum((1, 2)) > 0).all()


def test_feature_gates_start_near_one_and_stay_between_zero_and_two():
    torch.manual_seed(0)
    parts = (InputPart(40, False, 8), InputPart(24, True, 8))
    model = HomeOptions(type="home").build(TrunkSpec(parts, HEADS, 0.0))
    for scale, near in ((1.0, 0.2), (1e4, 1.0)):
        with torch.no_grad():
            mapped = model.of_input([scale * torch.randn(500, 40), scale * torch.randn(500, 24)])[:, : model.sizes[0]]
            gates = model.meta.feature_gates(mapped.unflatten(-1, (2, -1)).transpose(0, 1))
        assert (gates - 1).abs().max() <= near


def test_a_single_expert_has_a_sigmoid_gate_and_several_have_a_softmax():
    """With one expert, a softmax would always be one, so the gate would not close."""
    model = trunk(experts=1)
    with torch.no_grad():
        model.self_gates.zero_()
    gates, experts = model.second_level(model.first_level(parts_of(example())))
    own = model(parts_of(example())) - (gates.unsqueeze(-1) * experts[model.seen_by_head].transpose(1, 2)).sum(2)
    torch.testing.assert_close(own, 0.5 * experts[:3])


@EXPERTS
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(experts, training):
    model = trunk(experts).train(training)
    x = example(12)
    assert_gradients(model, lambda: weighted(model(parts_of(x))), atol=1e-5)


def test_a_user_part_of_one_row_equals_the_same_row_repeated():
    parts = [torch.randn(rows, width, dtype=torch.float64) for rows, width in ((1, 5), (8, 3))]
    assert_one_row_equals_repeated(trunk(), TrunkInput(parts))


def test_gates_are_reported_over_the_experts_that_a_head_sees():
    gating = trunk().gating(parts_of(example()))
    assert list(gating.gates) == list(HEADS) and gating.experts.shape == (12, 9, 5)
    for name, mean in trunk().gate_means(parts_of(example())).items():
        assert mean.shape == (6,) and mean.sum().item() == pytest.approx(1)
        torch.testing.assert_close(mean, gating.gates[name].mean(0))


@pytest.mark.parametrize("groups", ["click like", "click like, like view", "clik like view"])
def test_groups_that_are_no_partition_of_the_heads_are_refused(groups):
    with pytest.raises(RecipeError, match="each of the heads is in one group: click, like, view"):
        trunk(groups=[group.split() for group in groups.split(", ")])
