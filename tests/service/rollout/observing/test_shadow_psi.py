"""Tests that the PSI of a shadow ends with it, because its alert would go on."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from service.metrics.metrics import Metrics
from service.rollout.observing.shadow import ScoreSamples, Shadow, _Pair


def values(metrics: Metrics) -> list[float]:
    return [sample.value for family in metrics.shadow_psi.collect() for sample in family.samples]


def test_the_psi_of_a_shadow_ends_with_the_shadow() -> None:
    metrics = Metrics()
    shadow = Shadow(metrics)
    live: Any = SimpleNamespace(line="", bundle=SimpleNamespace(label="synthetic/2"))
    pair = _Pair("synthetic/2", "synthetic/1", ScoreSamples(["pctr"]), ScoreSamples(["pctr"]))
    for _ in range(300):
        pair.of_shadow.add(np.linspace(0.5, 1.0, 50, dtype=np.float32)[None])
        pair.of_stable.add(np.linspace(0.0, 0.5, 50, dtype=np.float32)[None])
    shadow.follow(live)
    shadow._report_psi("", pair)
    assert len(values(metrics)) == 1 and values(metrics)[0] > 1
    shadow.follow(live)
    assert len(values(metrics)) == 1
    # A ranking that was in work when the shadow ended reports nothing.
    shadow.follow(None)
    shadow._report_psi("", pair)
    assert values(metrics) == []
    shadow.thread.close()
