"""NFwFM against a float64 double loop: FwFM's equation 4, its linear term by field, NFM's bi-interaction."""

import numpy as np
import onnx
import torch
from small_rankers import small

from export.graph import to_onnx
from models.layers.input_part import InputPart
from models.trunks.base import TrunkInput
from models.trunks.nfwfm import Nfwfm

D = 4
# The user has 2 embeddings, 1 number, 1 binned; the candidate has 2 embeddings, 3 numbers; one encoder reads the
# candidate, one does not.
PARTS = (
    InputPart(width=3 * D + 1, of_candidate=False, dim=D, embedded=2, numerics=1, binned=1),
    InputPart(width=2 * D + 3, of_candidate=True, dim=D, embedded=2, numerics=3),
    InputPart(width=7, of_candidate=False, dim=D),
    InputPart(width=5, of_candidate=True, dim=D),
)
HIDDEN = (6, 5)
USER_FIELDS = 5
ITEM_FIELDS = 6


def nfwfm():
    torch.manual_seed(0)
    model = Nfwfm(PARTS, HIDDEN, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def inputs(n, users=None, seed=0):
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(rng.normal(size=(n if part.of_candidate else users or n, part.width))).float()
        for part in PARTS
    ]


def f64(t):
    return t.detach().double().numpy()


def fields_of(model, parts):
    """Every field's x_i v_i of one impression, the user's first, then the candidate's."""
    owned = {False: [], True: []}
    for part, fields, x in zip(PARTS, model.fields, parts, strict=True):
        vectors = owned[part.of_candidate]
        if not part.embedded:
            vectors.append(f64(fields.of_whole.weight) @ x + f64(fields.of_whole.bias))
            continue
        numbers = x[part.embedded * D : part.embedded * D + part.numerics]
        vectors += [x[i * D : (i + 1) * D] for i in range(part.embedded)]
        start = part.embedded * D + part.numerics
        vectors += [x[start + i * D : start + (i + 1) * D] for i in range(part.binned)]
        vectors += [number * vector for number, vector in zip(numbers, f64(fields.of_numerics), strict=True)]
    return owned[False] + owned[True]


def weight_of_pair(model, i, j):
    """r_ij of FwFM for i < j over the fields in that order."""
    pairs = model.interaction
    if i < USER_FIELDS <= j:
        return f64(pairs.item_user)[j - USER_FIELDS, i]
    n, keep_rate, shift = (
        (USER_FIELDS, pairs.user_user, 0) if j < USER_FIELDS else (ITEM_FIELDS, pairs.item_item, USER_FIELDS)
    )
    order = [(a, b) for a in range(n) for b in range(a + 1, n)]
    return f64(keep_rate)[order.index((i - shift, j - shift))]


def reference(model, parts):
    """[MLP(sum_{i<j} r_ij v_i x_i * v_j x_j); linear] of one impression."""
    v = fields_of(model, parts)
    assert len(v) == USER_FIELDS + ITEM_FIELDS
    h = np.zeros(D)
    for i in range(len(v)):
        for j in range(i + 1, len(v)):
            h += weight_of_pair(model, i, j) * v[i] * v[j]
    for layer in model.network.layers:
        h = np.maximum(h @ f64(layer.weight)[0] + f64(layer.bias)[0, 0], 0)
    linear = sum(x @ f64(w)[:, 0] for x, w in zip(parts, model.linear.weights, strict=True)) + f64(model.linear.bias)[0]
    return np.concatenate([h, [linear]])


def test_equals_the_papers_equations():
    model = nfwfm().double()
    parts = [p.double() for p in inputs(9)]
    got = f64(model(TrunkInput(parts)))
    assert got.shape == (1, 9, HIDDEN[-1] + 1)
    expected = np.stack([reference(model, [f64(p)[i] for p in parts]) for i in range(9)])
    np.testing.assert_allclose(got[0], expected, atol=1e-9)


def test_equals_them_in_single_precision_too():
    model = nfwfm()
    parts = inputs(9)
    np.testing.assert_allclose(
        f64(model(TrunkInput(parts))),
        f64(model.double()(TrunkInput([p.double() for p in parts]))),
        atol=1e-5,
        rtol=1e-6,
    )


def test_a_user_of_one_row_equals_the_same_user_repeated():
    model = nfwfm()
    parts = inputs(8, users=1)
    repeated = [p if part.of_candidate else p.expand(8, -1) for p, part in zip(parts, PARTS, strict=True)]
    torch.testing.assert_close(model(TrunkInput(parts)), model(TrunkInput(repeated)))


def test_with_all_pair_weights_one_it_is_neural_fm():
    model = Nfwfm(PARTS, HIDDEN, dropout=0.0).eval()
    users = torch.randn(3, USER_FIELDS, D)
    items = torch.randn(3, ITEM_FIELDS, D)
    v = torch.cat([users, items], 1)
    bi_interaction = ((v.sum(1) ** 2) - (v**2).sum(1)) / 2
    torch.testing.assert_close(model.interaction(users, items), bi_interaction, atol=1e-5, rtol=1e-5)


def test_a_user_without_features_leaves_the_candidates_pairs():
    model = Nfwfm(PARTS[1:2], HIDDEN, dropout=0.0).eval()
    assert model(TrunkInput([torch.randn(3, PARTS[1].width)])).shape == (1, 3, HIDDEN[-1] + 1)


def test_user_pairs_are_summed_once_per_request_in_the_graph():
    """In products with a row per field, only those with the candidate's fields grow with the number of candidates."""
    model = small("nfwfm", "pooling", tower_hidden=[])
    graph = onnx.shape_inference.infer_shapes(to_onnx(model.graph, model.encoding), data_prop=True).graph
    shapes = {
        v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim]
        for v in [*graph.value_info, *graph.output]
    }
    shapes |= {t.name: list(t.dims) for t in graph.initializer}
    dim = model.ranker.inputs.table.embedding_dim
    products = [
        shapes[n.output[0]] for n in graph.node if n.op_type == "MatMul" and shapes.get(n.output[0], [0])[-1] == dim
    ]
    of_fields = [shape for shape in products if len(shape) == 3]
    per_candidate = [shape for shape in of_fields if shape[0] != 1]
    assert len(of_fields) >= 3, of_fields
    assert len(per_candidate) == 1, of_fields


def test_with_an_empty_tower_the_tasks_split_at_the_last_layer():
    ranker = small("nfwfm", tower_hidden=[]).ranker
    assert [tuple(layer.weight.shape) for layer in ranker.towers.layers] == [
        (len(ranker.heads), ranker.trunk.out_width, 1)
    ]
