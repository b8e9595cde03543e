"""Tests the measures of collapsed gates: their values by hand, their log and plot, and the warnings."""

import json
import math

import pytest
import torch
from small_rankers import small, training_batch

from models import train as training
from models.layers.gates import Gating, entropy, similarity
from models.training.diagnostics.warnings import gate_warnings
from models.training.evaluation import most_alike

GATED = ("mmoe", "omoe", "cgc", "ple", "youtube2019")


def test_entropy_is_one_for_even_gates_and_zero_for_polarised_ones():
    assert entropy(torch.full((5, 4), 0.25)).item() == pytest.approx(1)
    assert entropy(torch.eye(4)).item() == 0, (
        "each impression has one expert, although all four are used alike on average"
    )
    assert entropy(torch.tensor([[0.5, 0.5, 0.0, 0.0]])).item() == pytest.approx(math.log(2) / math.log(4))
    assert entropy(torch.ones(3, 1)).item() == 1


def test_similarity_is_one_for_equal_experts_and_zero_for_unrelated_ones():
    torch.manual_seed(0)
    a = torch.relu(torch.randn(2000, 8))
    b = torch.relu(torch.randn(2000, 8))
    cosines = similarity(torch.stack([a, 3 * a + 1, b]))
    assert cosines[0, 1].item() == pytest.approx(1, abs=1e-5), "scale and offset make no other expert"
    assert abs(cosines[0, 2].item()) < 0.05
    cosine, one, other = most_alike(cosines.tolist())
    assert (cosine, one, other) == (pytest.approx(1, abs=1e-5), 1, 0)


@pytest.mark.parametrize("architecture", GATED)
def test_every_gated_model_shows_its_gates_and_experts(architecture):
    model = small(architecture)
    batch = training_batch(model, 32, 4)
    with torch.no_grad():
        gate_values = model.ranker.gating(batch)
        means = model.ranker.gate_means(batch)
    assert isinstance(gate_values, Gating)
    assert list(gate_values.gates) == list(means)
    for head, gates in gate_values.gates.items():
        torch.testing.assert_close(gates.mean(0), means[head])
        torch.testing.assert_close(gates.sum(-1), torch.ones(32))
    assert gate_values.experts.dim() == 3 and gate_values.experts.shape[1] == 32


def test_a_model_without_gates_has_none():
    model = small("shared_bottom")
    assert model.ranker.gating(training_batch(model, 8, 2)) is None


def test_a_collapse_is_warned_about_and_health_is_not():
    healthy = {"entropy": {"pctr": 0.7}, "similarity": [[1.0, 0.2], [0.2, 1.0]]}
    collapsed = {"entropy": {"pctr": 0.01, "plike": 0.7}, "similarity": [[1.0, 0.999], [0.999, 1.0]]}
    assert list(gate_warnings(healthy)) == [] and list(gate_warnings({})) == []
    polarised, alike = gate_warnings(collapsed)
    assert "gate of pctr" in polarised and "polarised" in polarised
    assert "experts 1 and 2" in alike


def test_a_run_logs_and_plots_the_gates_health(tiny_recipe, tmp_path):
    metrics = training.train(tiny_recipe(), tmp_path / "run", cache=tmp_path / "cache", quiet=True, reading_steps=0)
    assert set(metrics["gate_health"]["entropy"]) == {"pctr", "pcvr", "plong_view"}
    assert len(metrics["gate_health"]["similarity"]) == 4
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert all(0 < share <= 1 for e in history["evaluations"] for share in e["gate_health"]["entropy"].values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "entropy of the gates" in page and "cosine between experts" in page
