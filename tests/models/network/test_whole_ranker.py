"""Holds a whole ranker to numbers: raw keys and packed numbers to every output, in float64 numpy from the papers.

MMoE (KDD 2018, equations 6 and 7), DIN (KDD 2018, equation 3) and mean pooling, ESMM (SIGIR 2018, equation 1), numbers
by ESM2's equation 17 with quantile bins, and the user-bias tower. The reference uses only the model's weights. The
parts have tests of their own; this one tests the connections between them, such as the unit of an age.
"""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from small_rankers import Small, random_encoding, raw_inputs, score, small

from export.graph import to_onnx
from features import RowLayout
from models.data.encoding.vocabulary import behaviour_column_vocabularies, key_column_vocabularies
from models.network.build import build_model
from models.network.embedding.inputs import Inputs

TASKS = [
    {"type": "esmm", "click": "click", "conversion": "like"},
    {"type": "independent", "name": "pcart", "label": "cart"},
]
DIM = 4
SIZES = ((1, 0), (1, 1), (13, 0), (13, 1), (13, 9))


def f64(t):
    return t.detach().double().numpy()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.fixture(scope="module")
def model() -> Small:
    """A ranker with every part, whose ages vary as real ones do: hours to weeks."""
    made = small("mmoe", "din+pooling", tasks=TASKS, user_bias={"hidden": 6, "encoders": [{"type": "pooling"}]})
    encoding = random_encoding(made.recipe, 0)
    stats = encoding.numerics["behaviour"]
    mean = np.r_[stats.mean[:-1], np.float32(12.0)]
    deviation = np.r_[stats.deviation[:-1], np.float32(1.5)]
    behaviour = replace(stats, mean=mean, deviation=deviation)
    encoding = replace(encoding, numerics={**encoding.numerics, "behaviour": behaviour})
    torch.manual_seed(0)
    ranker = build_model(made.recipe, encoding)
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            parameter.normal_(std=0.5 if "table" in name or parameter.dim() < 2 else 0.2)
        ranker.inputs.table.weight[0].zero_()
    return Small(made.recipe, encoding, ranker.eval())


class Reference:
    """The papers' equations with the weights of one model."""

    def __init__(self, of: Small) -> None:
        self.encoding = of.encoding
        self.schema = of.encoding.schema
        self.weights = {name: f64(t) for name, t in of.ranker.state_dict().items()}
        self.row_of_key = dict(zip(of.encoding.vocabulary.keys.tolist(), of.encoding.vocabulary.rows, strict=True))

    def scores(self, raw):
        """Every output `[C]` of one request."""
        user = self.group(self.schema.user, "user", raw["user_keys"], raw["user_numerics"])
        context = self.group(self.schema.context, "context", raw["context_keys"], raw["context_numerics"])
        item = self.group(self.schema.item, "item", raw["item_keys"], raw["item_numerics"])
        behaviours = self.behaviours(raw)
        pooled = self.pooled(behaviours)
        targets = self.targets(raw)
        logits = []
        for c in range(len(item)):
            interest = self.din(behaviours, targets[c])
            x = np.concatenate([user[0], context[0], item[c], interest, pooled])
            logits.append(self.heads(x) + self.bias(np.concatenate([user[0], pooled])))
        p = sigmoid(np.array(logits))
        return {"pctr": p[:, 0], "pcvr": p[:, 1], "pctcvr": p[:, 0] * p[:, 1], "pcart": p[:, 2]}

    def embedded(self, keys, vocabularies):
        """The vectors of keys `[n, K]` -> `[n, K, D]`: zeros for a missing key, the vocabulary's vector for an unknown
        one.
        """
        vocabulary = self.encoding.vocabulary
        rows = np.zeros(keys.shape, dtype=int)
        for (line, column), key in np.ndenumerate(keys):
            unknown = vocabulary.unknown_rows[vocabularies[column]]
            rows[line, column] = 0 if key == 0 else self.row_of_key.get(int(key), unknown)
        return self.weights["inputs.table.weight"][rows]

    def numbers(self, name, stats, log1p, raw):
        """tanh((f - mean) / deviation), a learned value for a missing one, and the vectors of the quantile bins."""
        out = []
        for i, log in enumerate(log1p):
            value = raw[:, i].astype(float)
            scaled = np.sign(value) * np.log1p(np.abs(value)) if log else value
            scaled = np.tanh((scaled - stats.mean[i].astype(float)) / stats.deviation[i].astype(float))
            out.append(np.where(np.isnan(value), self.weights[f"{name}.numerics.missing"][i], scaled)[:, None])
        with_bins = np.flatnonzero(np.isfinite(stats.edges).any(1)) if stats.edges.shape[1] else []
        for number, i in enumerate(with_bins):
            place = [0 if np.isnan(v) else 1 + int((stats.edges[i] <= v).sum()) for v in raw[:, i]]
            bins = stats.edges.shape[1] + 2
            out.append(self.weights[f"{name}.bins.table.weight"][number * bins + np.array(place, dtype=int)])
        return out

    def group(self, features, name, keys, raw):
        """Single values in order, then the sum or mean of several, then numbers and bins -> `[n, G]`."""
        return self.vectors(features, f"inputs.groups.{name}", self.encoding.numerics[name], keys, raw)

    def vectors(self, features, name, stats, keys, raw):
        embedded = self.embedded(keys, key_column_vocabularies(features))
        columns = RowLayout(features).key_columns
        singles = [embedded[:, columns[f.name]][:, 0] for f in features if f.type == "categorical"]
        several = []
        for feature in features:
            if feature.type == "multi_categorical":
                vectors = embedded[:, columns[feature.name]]
                present = (keys[:, columns[feature.name]] != 0).sum(1, keepdims=True)
                total = vectors.sum(1)
                several.append(total / np.maximum(present, 1) if feature.pooling == "mean" else total)
        log1p = [f.transform == "log1p" for f in features if f.type == "numeric"]
        return np.concatenate([*singles, *several, *self.numbers(name, stats, log1p, raw)], axis=1)

    def item_part(self, keys, raw):
        """A behaviour's item, or a candidate in the same form -> `[n, I]`."""
        stats = self.encoding.numerics["behaviour"]
        n = raw.shape[1]
        of_items = replace(stats, mean=stats.mean[:n], deviation=stats.deviation[:n], edges=stats.edges[:n])
        return self.vectors(self.schema.behaviour_item_features, "inputs.behaviour_item", of_items, keys, raw)

    def behaviours(self, raw):
        """Real behaviours only, newest first: item part, action, scene, log(1 + age in seconds) -> `[L, G]`."""
        keys = raw["behaviour_keys"]
        items = self.item_part(keys[:, :-2], raw["behaviour_numerics"])
        self.item_width = items.shape[1]
        embedded = self.embedded(keys, behaviour_column_vocabularies(self.schema))
        seconds = (raw["request_time"] - raw["behaviour_times"]) / 1000.0
        stats = self.encoding.numerics["behaviour"]
        of_age = replace(stats, mean=stats.mean[-1:], deviation=stats.deviation[-1:], edges=stats.edges[-1:])
        age = self.numbers("inputs.behaviour_property", of_age, [True], seconds[:, None])
        return np.concatenate([items, embedded[:, -2], embedded[:, -1], *age], axis=1)

    def targets(self, raw):
        """The candidates as the item part of a behaviour `[C, I]`: the same features by the same statistics."""
        layout = RowLayout(self.schema.item)
        keys = []
        numbers = []
        for feature in self.schema.behaviour_item_features:
            if feature.name in layout.key_columns:
                keys.append(raw["item_keys"][:, layout.key_columns[feature.name]])
            if feature.name in layout.numeric_columns:
                numbers.append(raw["item_numerics"][:, layout.numeric_columns[feature.name]])
        return self.item_part(np.concatenate(keys, axis=1), np.stack(numbers, axis=1))

    def pooled(self, behaviours):
        n = len(behaviours)
        return np.r_[behaviours.sum(0) / max(n, 1), np.log1p(n) / 4.0]

    def din(self, behaviours, v):
        """sum_j a(e_j, v) e_j, a() on [e, v, e - v, e * v] and the properties; PReLU between the layers."""
        total = np.zeros(behaviours.shape[1])
        w = self.weights
        for behaviour in behaviours:
            e = behaviour[: self.item_width]
            x = np.concatenate([e, v, e - v, e * v]) @ w["encoders.0.unit.weight"]
            x = x + behaviour[self.item_width :] @ w["encoders.0.unit.property_weight"] + w["encoders.0.unit.bias"]
            x = np.where(x > 0, x, w["encoders.0.unit.first_activation.alpha"] * x)
            x = w["encoders.0.unit.layers.0.weight"] @ x + w["encoders.0.unit.layers.0.bias"]
            x = np.where(x > 0, x, w["encoders.0.unit.activations.0.alpha"] * x)
            total = total + (w["encoders.0.unit.out.weight"] @ x + w["encoders.0.unit.out.bias"]) * behaviour
        return total

    def heads(self, x):
        """f^k = sum_i softmax(W_gk x)_i f_i(x), and a tower per head -> three logits."""
        w = self.weights
        first = np.concatenate([w[f"trunk.first.weights.{i}"] for i in range(self.parts())])
        product = x @ first + w["trunk.first.bias"]
        experts, hidden = 4, 128
        outputs = []
        for i in range(experts):
            h = np.maximum(product[i * hidden : (i + 1) * hidden], 0)
            outputs.append(np.maximum(h @ w["trunk.rest.layers.0.weight"][i] + w["trunk.rest.layers.0.bias"][i, 0], 0))
        logits = []
        for k in range(3):
            z = product[experts * hidden + k * experts :][:experts]
            gate = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            h = sum(g * output for g, output in zip(gate, outputs, strict=True))
            h = np.maximum(h @ w["towers.layers.0.weight"][k] + w["towers.layers.0.bias"][k, 0], 0)
            logits.append(float((h @ w["towers.layers.1.weight"][k] + w["towers.layers.1.bias"][k, 0])[0]))
        return np.array(logits)

    def parts(self):
        return sum(name.startswith("trunk.first.weights.") for name in self.weights)

    def bias(self, x):
        w = self.weights
        first = np.concatenate([w["user_bias.first.weights.0"], w["user_bias.first.weights.1"]])
        hidden = np.maximum(x @ first + w["user_bias.first.bias"], 0)
        return w["user_bias.last.weight"] @ hidden + w["user_bias.last.bias"]


def compare(model, scores_of):
    reference = Reference(model)
    for candidates, behaviours in SIZES:
        inputs = raw_inputs(model, candidates, behaviours, seed=10 * candidates + behaviours)
        expected = reference.scores(inputs)
        got = scores_of(inputs)
        assert set(got) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, atol=2e-5, rtol=0, err_msg=f"{name} of {candidates}")


def test_torch_gives_the_papers_numbers(model):
    compare(model, lambda inputs: score(model, inputs))


def test_onnx_runtime_gives_the_papers_numbers(model):
    session = ort.InferenceSession(to_onnx(model.graph, model.encoding).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    compare(model, lambda inputs: dict(zip(names, session.run(names, inputs), strict=True)))


def test_the_scores_of_the_comparison_tell_faults_apart(model):
    inputs = raw_inputs(model, 13, 9, seed=139)
    for values in score(model, inputs).values():
        assert values.std() > 0.005 and values.min() > 0.01 and values.max() < 0.99


def ages_in_minutes(inputs, batch, read):
    """The behaviours in a model that wrongly divides milliseconds by 60,000."""
    age = batch["request_time"].unsqueeze(-1) - batch["behaviour_times"]
    return BEHAVIOURS(inputs, batch | {"behaviour_times": batch["request_time"].unsqueeze(-1) - age // 60}, read)


def newest_last(inputs, batch, read):
    """The behaviours with the time of another one."""
    return BEHAVIOURS(inputs, batch | {"behaviour_times": batch["behaviour_times"].flip(-1)}, read)


def no_missing_mask(inputs, batch, read):
    """The behaviours, one of which is treated as padding."""
    behaviours, mask = BEHAVIOURS(inputs, batch, read)
    return behaviours, mask & (torch.arange(mask.shape[-1]) > 0)


BEHAVIOURS = Inputs.behaviours


@pytest.mark.parametrize("fault", [ages_in_minutes, newest_last, no_missing_mask])
def test_a_planted_fault_makes_the_comparison_fail(model, monkeypatch, fault):
    monkeypatch.setattr(Inputs, "behaviours", fault)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(model, lambda inputs: score(model, inputs))
