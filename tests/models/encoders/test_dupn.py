"""DUPN's encoder against a float64 loop of the paper's LSTM and attention equations."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from paper_checks import assert_graph_equals_torch
from small_rankers import raw_inputs, score, small

from export.graph import to_onnx
from models.encoders.base import View
from models.encoders.dupn import Dupn, PropertyGatedLstm
from models.recipe import RecipeError

I = 6
P = 4
U = 5
K = 3
L = 7


def wide(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def dupn(user=U, context=K, **options):
    return wide(Dupn(I, P, user, context, 8, 9, 10, **options))


def views(n, seed=1):
    rng = np.random.default_rng(seed)
    mask = np.arange(L) < rng.integers(0, L + 1, n)[:, None]
    mask[0] = True
    mask[1] = False
    arrays = (
        rng.normal(size=(n, L, I + P)),
        mask,
        rng.normal(size=(n, I)),
        rng.normal(size=(n, U)),
        rng.normal(size=(n, K)),
    )
    return View(*(torch.from_numpy(a) if a.dtype == bool else torch.from_numpy(a).float() for a in arrays))


def f64(t):
    return t.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states(lstm, items, properties):
    """The state after each behaviour, newest first as given; the loop goes from the oldest to the newest."""
    e_of, p_of, h_of, b_of = (
        {g: f64(w) for g, w in d.items()} for d in (lstm.of_item, lstm.of_property, lstm.of_state, lstm.bias)
    )
    h = np.zeros(lstm.hidden)
    c = np.zeros(lstm.hidden)
    out = []
    for e, p in zip(items[::-1], properties[::-1], strict=True):
        i, f, o = (sigmoid(e_of[g] @ e + p_of[g] @ p + h_of[g] @ h + b_of[g][:, 0]) for g in "ifo")
        c = f * c + i * np.tanh(e_of["c"] @ e + h_of["c"] @ h + b_of["c"][:, 0])
        h = o * np.tanh(c)
        out.append(h)
    return np.array(out[::-1]).reshape(len(items), lstm.hidden)


def representation(model, behaviours, user, query, places=("lstm", "attention"), candidate=None):
    """[rep_s; u]: rep_s = sum_t softmax_t(MLP2(h_t, q, u, p_t)) h_t over the real behaviours of one request.

    p is empty where `places` does not name the reader; with a `candidate` the query has it too.
    """
    h = states(model.lstm, behaviours[:, :I], behaviours[:, I:] if "lstm" in places else behaviours[:, :0])
    u = f64(model.user.weight) @ user + f64(model.user.bias)
    raw = []
    for h_t, x in zip(h, behaviours, strict=True):
        p = x[I:] if "attention" in places else x[:0]
        first = f64(model.of_step.weight) @ np.concatenate([h_t, p]) + f64(model.of_step.bias)
        if candidate is not None:
            first = first + f64(model.of_candidate.weight) @ candidate
        first = np.maximum(first + f64(model.of_request.weight) @ np.concatenate([u, query]), 0)
        raw.append(f64(model.attention.weight)[0] @ first)
    a = np.exp(np.array(raw) - max(raw, default=0))
    return np.concatenate([(a[:, None] * h).sum(0) / a.sum() if len(a) else np.zeros(model.lstm.hidden), u])


def test_the_fused_lstm_equals_the_papers_loop():
    lstm = wide(PropertyGatedLstm(I, P, 8))
    view = views(9)
    got = f64(lstm(view.behaviours, view.mask))
    for row, mask, x in zip(got, view.mask.numpy(), f64(view.behaviours), strict=True):
        np.testing.assert_allclose(row[mask], states(lstm, x[mask, :I], x[mask, I:]), atol=1e-6)
        assert (row[~mask] == 0).all(), "padding leaves the state at exactly zero"


def test_the_representation_equals_the_papers_equations():
    model = dupn()
    view = views(9)
    got = f64(model(view))
    assert got.shape == (9, 8 + 9)
    for i, mask in enumerate(view.mask.numpy()):
        expected = representation(model, f64(view.behaviours)[i][mask], f64(view.user)[i], f64(view.context)[i])
        np.testing.assert_allclose(got[i], expected, atol=1e-6)


ABLATIONS = {"nobp": (), "bplstm": ("lstm",), "bpatt": ("attention",), "all": ("lstm", "attention")}


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_ablations_leave_the_properties_out_of_one_place_or_both(name):
    places = ABLATIONS[name]
    model = dupn(properties=places)
    view = views(9)
    got = f64(model(view))
    for i, mask in enumerate(view.mask.numpy()):
        given = f64(view.behaviours)[i][mask], f64(view.user)[i], f64(view.context)[i]
        np.testing.assert_allclose(got[i], representation(model, *given, places), atol=1e-6)
    moved = torch.cat([view.behaviours[..., :I], torch.randn(9, L, P)], -1)
    reads = (f64(model(view._replace(behaviours=moved))) - got)[0]
    assert (np.abs(reads).max() > 1e-3) == bool(places)


def test_the_candidate_as_the_query_is_in_the_attention_alone():
    model = dupn(sees_candidate=True)
    view = views(9)
    got = f64(model(view))
    for i, mask in enumerate(view.mask.numpy()):
        given = f64(view.behaviours)[i][mask], f64(view.user)[i], f64(view.context)[i]
        expected = representation(model, *given, candidate=f64(view.target)[i])
        np.testing.assert_allclose(got[i], expected, atol=1e-6)
    other = f64(model(view._replace(target=torch.randn(9, I))))
    assert np.abs(other - got)[0, :8].max() > 1e-3
    np.testing.assert_array_equal(other[:, 8:], got[:, 8:])


def test_one_user_for_all_candidates_of_the_query_equals_the_user_repeated():
    model = dupn(sees_candidate=True)
    view = View(*(None if t is None else t[:1] for t in views(2)))
    targets = torch.randn(6, I)
    repeated = View(*(None if t is None else t.expand(6, *t.shape[1:]) for t in view))._replace(target=targets)
    torch.testing.assert_close(model(view._replace(target=targets)), model(repeated))


def test_a_ranker_with_the_candidate_as_the_query_scores_in_the_graph_as_in_torch():
    encoder = {"type": "dupn", "hidden": 8, "query": "candidate", "properties": ["attention"]}
    assert_graph_equals_torch(small("mmoe", encoders=[encoder]))


def test_a_task_on_the_users_representation_refuses_the_candidate_as_the_query():
    with pytest.raises(RecipeError, match="a task reads the user's representation"):
        small("dupn", encoders=[{"type": "dupn", "query": "candidate"}])


def test_the_cells_candidate_never_sees_the_properties():
    lstm = wide(PropertyGatedLstm(I, P, 8))
    stacked, _ = lstm._stacked("ifco")
    assert (stacked[16:24, I : I + P] == 0).all()
    assert "c" not in lstm.of_property, "so no step of training can change that"
    with torch.no_grad():
        for gate in "ifo":
            lstm.of_property[gate].zero_()
    x = torch.randn(2, L, I + P)
    mask = torch.ones(2, L, dtype=torch.bool)
    moved = torch.cat([x[..., :I], torch.randn(2, L, P)], -1)
    torch.testing.assert_close(lstm(x, mask), lstm(moved, mask), atol=0, rtol=0)


def test_order_matters_and_the_oldest_is_read_first():
    lstm = wide(PropertyGatedLstm(I, P, 8))
    x = torch.randn(1, L, I + P)
    mask = torch.ones(1, L, dtype=torch.bool)
    states_1LH = lstm(x, mask)
    torch.testing.assert_close(
        states_1LH[:, 3:], lstm(x[:, 3:], mask[:, 3:])
    )  # a newer behaviour changes no older state
    assert (states_1LH[:, 0] - lstm(x.flip(1), mask)[:, 0]).abs().max() > 0.01


@pytest.mark.parametrize("padding", [1, 9])
def test_padding_behind_the_oldest_changes_nothing(padding):
    model = dupn()
    view = views(9)
    behaviours = torch.cat([view.behaviours, torch.randn(9, padding, I + P)], 1)
    mask = torch.cat([view.mask, torch.zeros(9, padding, dtype=torch.bool)], 1)
    torch.testing.assert_close(model(view), model(view._replace(behaviours=behaviours, mask=mask)), atol=1e-6, rtol=0)


def test_no_behaviours_leave_the_users_own_part():
    model = dupn()
    view = views(3)
    none = view._replace(behaviours=view.behaviours[:, :0], mask=view.mask[:, :0])
    got = model(none)
    assert (got[:, :8] == 0).all()
    torch.testing.assert_close(got[:, 8:], model.user(view.user))


def test_the_candidate_is_not_looked_at():
    model = dupn()
    view = views(4)
    torch.testing.assert_close(model(view), model(view._replace(target=torch.randn(4, I))), atol=0, rtol=0)


def test_a_schema_without_user_or_context_has_a_representation_too():
    model = dupn(user=0, context=0)
    view = views(4)._replace(user=None, context=None)
    assert model(view).shape == (4, model.out_width) == (4, 8)


@pytest.fixture(scope="module")
def exported():
    model = small("dupn")
    return model, to_onnx(model.graph, model.encoding)


def test_the_lstm_is_one_native_op_of_the_graph(exported):
    _, graph = exported
    (node,) = [n for n in graph.graph.node if n.op_type == "LSTM"]
    assert node.domain in ("", "ai.onnx")
    assert not [n for n in graph.graph.node if n.op_type in ("Loop", "Scan", "If")]


def test_the_native_op_equals_the_papers_loop(exported):
    """Up to the LSTM's output, on the raw request, with ONNX Runtime."""
    model, graph = exported
    (node,) = [n for n in graph.graph.node if n.op_type == "LSTM"]
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    opened.graph.output.extend([onnx.ValueInfoProto(name=node.input[0]), onnx.ValueInfoProto(name=node.output[0])])
    session = ort.InferenceSession(opened.SerializeToString())
    lstm = model.ranker.encoders[0].lstm
    width = lstm.of_item["i"].shape[1]
    for length in (0, 1, 2, 50):
        x, got = session.run([node.input[0], node.output[0]], raw_inputs(model, 3, length))
        assert got.shape == (length + 1, 1, 1, lstm.hidden)
        real = x[:length, 0, :-1].astype(np.float64)
        expected = states(lstm, real[:, :width], real[:, width:])
        np.testing.assert_allclose(got[:length, 0, 0], expected, atol=1e-6)


def test_the_graph_scores_as_torch_does_without_behaviours(exported):
    model, graph = exported
    session = ort.InferenceSession(graph.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    for candidates in (1, 5):
        inputs = raw_inputs(model, candidates, 0)
        expected = score(model, inputs)
        for name, got in zip(names, session.run(names, inputs), strict=True):
            np.testing.assert_allclose(got, expected[name], atol=1e-6)
