"""Tests the naive export that the bench compares with: it is the same model in another form."""

import numpy as np
import onnxruntime as ort
import pytest
from small_rankers import raw_inputs, score, small

from bench.contenders.naive import Naive, tiled, to_onnx


@pytest.mark.parametrize(("architecture", "encoder"), [("mmoe", "din+pooling"), ("esmm", "pooling")])
def test_the_naive_export_scores_as_the_ranker_does(architecture: str, encoder: str) -> None:
    model = small(architecture, encoder)
    outputs = [o.name for o in model.ranker.outputs]
    example = tiled(model.graph, raw_inputs(model, 7, 11))
    session = ort.InferenceSession(to_onnx(Naive(model.ranker), example, outputs).SerializeToString())
    for candidates, behaviours in ((1, 0), (1, 5), (33, 17)):
        inputs = raw_inputs(model, candidates, behaviours, seed=candidates)
        got = dict(zip(outputs, session.run(outputs, tiled(model.graph, inputs)), strict=True))
        for name, values in score(model, inputs).items():
            np.testing.assert_allclose(got[name], values, atol=1e-5)
