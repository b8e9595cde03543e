"""Owns the Prometheus metrics: their names, labels and buckets, and how those of all worker processes become one page.

No label holds an id. Children are bound once, because finding one by its labels costs more than counting.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.metrics.tally import Count, Distribution, Tallies

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
STAGES = ("store", "assemble", "score", "fuse", "respond")
_SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5)
_COUNTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class ItemCacheMetrics:
    """The item caches' own counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters = {
            "hits": Counter("funnelrank_item_cache_hits", "Candidates whose row was in memory.", registry=registry),
            "misses": Counter(
                "funnelrank_item_cache_misses", "Candidates whose row was read from Redis.", registry=registry
            ),
            "evictions": Counter(
                "funnelrank_item_cache_evictions", "Rows that made room for others.", registry=registry
            ),
            "invalidations": Counter(
                "funnelrank_item_cache_invalidations", "Changes of item rows that Redis told of.", registry=registry
            ),
        }
        self._bytes = Gauge(
            "funnelrank_item_cache_bytes",
            "Memory of the item rows kept.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def bring_over(self, found: Mapping[str, int]) -> None:
        """Add what was counted since the last time; `bytes` is the size now."""
        for name, counter in self._counters.items():
            counter.inc(found[name])
        self._bytes.set(found["bytes"])


class Metrics:
    """The metrics of one worker process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        tallies = self.tallies = Tallies()
        self.requests = Counter(
            "funnelrank_requests", "Requests by route and outcome.", ["route", "outcome"], registry=registry
        )
        self._outcomes: dict[tuple[str, str], Count] = {}
        stages = Histogram(
            "funnelrank_stage_duration_seconds",
            "Time per stage of a ranking.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = {stage: tallies.distribution(stages.labels(stage)) for stage in STAGES}
        self._durations = Histogram(
            "funnelrank_request_duration_seconds",
            "Time from the first byte read to the last byte written.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._duration_children: dict[str, Distribution] = {}
        self.candidates = tallies.distribution(
            Histogram("funnelrank_candidates", "Candidates per ranking.", buckets=_COUNTS, registry=registry)
        )
        behaviours = Histogram(
            "funnelrank_behaviours", "Behaviours per ranking.", buckets=(0, *_COUNTS[:8]), registry=registry
        )
        self.behaviours = tallies.distribution(behaviours)
        self.degraded = Counter(
            "funnelrank_degraded", "Rankings that were degraded, by reason.", ["reason"], registry=registry
        )
        self.corrupt_rows = Counter(
            "funnelrank_corrupt_rows", "Stored rows that did not fit the schema.", ["entity"], registry=registry
        )
        self.item_cache = ItemCacheMetrics(registry)
        self.events = Counter("funnelrank_events", "Behaviours written to the store.", registry=registry)
        self.feature_rows = Counter(
            "funnelrank_feature_rows", "Feature rows written to the store.", ["entity"], registry=registry
        )
        self.model_info = Gauge(
            "funnelrank_model_info",
            "1 for the model version in use, 0 for one that was.",
            ["name", "version", "role"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.swaps = Counter(
            "funnelrank_model_swaps", "Model versions taken into use or refused.", ["result"], registry=registry
        )
        self.load_seconds = Histogram(
            "funnelrank_model_load_seconds", "Time to load, verify and warm a bundle.", registry=registry
        )
        rankings = Counter(
            "funnelrank_rankings",
            "Rankings by the version's role and whether they failed.",
            ["role", "result"],
            registry=registry,
        )
        self.rankings = {
            (role, failed): tallies.count(rankings.labels(role, "failed" if failed else "ok"))
            for role in ("stable", "canary")
            for failed in (False, True)
        }
        self.experiments = Counter(
            "funnelrank_experiment_rankings",
            "Rankings by experiment and arm.",
            ["experiment", "arm"],
            registry=registry,
        )
        self.rollbacks = Counter(
            "funnelrank_automatic_rollbacks", "Versions that a worker took back by itself.", ["role"], registry=registry
        )
        self.document_errors = Gauge(
            "funnelrank_document_unreadable",
            "1 while a document of the registry cannot be followed and its last good state is.",
            ["document"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._shadow_metrics(registry)
        self.inflight = Gauge(
            "funnelrank_inflight_requests", "Requests in work.", multiprocess_mode="livesum", registry=registry
        )
        self.workers = Gauge("funnelrank_workers", "Worker processes.", multiprocess_mode="livesum", registry=registry)
        self.ready = Gauge(
            "funnelrank_ready_workers",
            "Worker processes with a model in use.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def _shadow_metrics(self, registry: CollectorRegistry) -> None:
        shadow = Counter(
            "funnelrank_shadow_rankings",
            "Rankings that the shadow repeated, failed at, or had no budget for.",
            ["result"],
            registry=registry,
        )
        self.shadow = {result: shadow.labels(result) for result in ("scored", "failed", "dropped")}
        self.shadow_rank_correlation = Histogram(
            "funnelrank_shadow_rank_correlation",
            "Spearman's rank correlation of the shadow's ranking with the stable one's.",
            buckets=(-0.5, 0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "funnelrank_shadow_top10_overlap_ratio",
            "Share of the stable version's first ten that are among the shadow's.",
            buckets=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
            registry=registry,
        )
        self.shadow_score = Histogram(
            "funnelrank_shadow_score",
            "Task scores of the shadow, four candidates per ranking.",
            ["task"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 10.0, 100.0),
            registry=registry,
        )
        self.shadow_psi = Gauge(
            "funnelrank_shadow_score_psi",
            "PSI of the shadow's scores against the stable version's; the worst worker's.",
            ["task"],
            multiprocess_mode="livemax",
            registry=registry,
        )

    def finished(self, route: str, outcome: str, seconds: float) -> None:
        """Count one request."""
        count = self._outcomes.get((route, outcome))
        if count is None:
            count = self._outcomes[route, outcome] = self.tallies.count(self.requests.labels(route, outcome))
        count.inc()
        durations = self._duration_children.get(route)
        if durations is None:
            durations = self._duration_children[route] = self.tallies.distribution(self._durations.labels(route))
        durations.observe(seconds)
        self.tallies.soon()

    def page(self) -> bytes:
        """The text that Prometheus scrapes: all workers together where they share a directory, the others as of a moment ago."""
        self.tallies.bring_over()
        directory = os.environ.get(DIRECTORY_VARIABLE)
        if not directory:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def forget_dead_workers() -> None:
    """Drop the gauges of processes that are gone, so that a killed worker is not counted for ever."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory:
        return
    for path in Path(directory).glob("gauge_live*_*.db"):
        pid = path.stem.rsplit("_", 1)[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            mark_process_dead(int(pid), directory)  # type: ignore[no-untyped-call]


def forget_this_worker() -> None:
    if os.environ.get(DIRECTORY_VARIABLE):
        mark_process_dead(os.getpid(), os.environ[DIRECTORY_VARIABLE])  # type: ignore[no-untyped-call]
