"""Tests that a run with two hashes, widths and bfloat16 tables at once is exported and scores as torch does."""

import numpy as np
import torch

from export.bundle import publish_run
from export.graph import ServingGraph
from models import train as training
from models.training.run import open_run
from service.bundle.loading import load_bundle

OPTIONS = {
    "model.embedding": {"dim": 6, "widths": {"item_id": 4, "tab": 2}, "hash_buckets": {"item_id": 9}, "hashes": 2},
    "training.embedding_updates": "rowwise_adagrad",
    "training.embedding_dtype": "bfloat16",
    "training.averaging": 0.9,
}


def test_the_bundle_scores_as_torch_does_with_its_table_beside_the_graph(tiny_recipe, tmp_path):
    training.train(tiny_recipe(None, OPTIONS), tmp_path / "run", cache=tmp_path / "c", quiet=True, reading_steps=0)
    run = open_run(tmp_path / "run")
    bundle = load_bundle(publish_run(run, tmp_path, "1", external_bytes=1).folder, 1, 100)
    assert bundle.tables is not None
    inputs = {
        name: value[:5] if name.startswith(("item", "candidate")) else value for name, value in bundle.golden.items()
    }
    # Items that training never saw have two rows too.
    inputs["item_keys"] = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, inputs["item_keys"].shape)
    with torch.no_grad():
        graph = ServingGraph(run.ranker, run.encoding).eval()
        scores = graph({name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()})
    for task, served in zip(bundle.tasks, bundle.score(inputs), strict=True):
        np.testing.assert_allclose(served, scores[task].numpy(), atol=1e-6)
