"""Figures of an imagined machine, whose plan can be computed by hand."""

import pytest

from loadtest.capacity.figures import Figures, RankingCost


@pytest.fixture
def figures() -> Figures:
    return Figures(
        machine={"processor": "imagined", "cores": 1},
        model="none",
        behaviours=50,
        ranking_ms=RankingCost(fixed=0.5, per_candidate=0.005, per_missing_item=0.002),
        redis_ms=RankingCost(fixed=0.02, per_missing_item=0.001),
        request_bytes=RankingCost(fixed=300, per_candidate=10),
        answer_bytes=RankingCost(fixed=200, per_candidate=90),
        redis_bytes=RankingCost(fixed=3000, per_missing_item=200),
        log_bytes=RankingCost(fixed=100, per_candidate=20),
        floor_ms=0.2,
        service_times=(1.0, 1.0),
        worker_mib=100,
        cached_item_bytes=512,
        user_bytes=8000,
        item_bytes=400,
    )
