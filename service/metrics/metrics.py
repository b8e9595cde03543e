"""Defines the Prometheus metrics of one worker, and writes the page of all workers.

No label contains an id. The label `line` is written only if there are several lines. On the hot path, labelled children
are looked up once in advance, because a lookup costs more than counting.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

from prometheus_client import Histogram, disable_created_metrics, values

from service.metrics.definitions import Definitions, ExposureLogMetrics, ItemCacheMetrics, ReplicaMetrics
from service.metrics.families import Families, families_of, page_of
from service.metrics.history import History
from service.metrics.shared_history import SharedHistory
from service.metrics.tally import Distribution, Tallies
from service.metrics.workers import WorkerRecords

# In memory, even if PROMETHEUS_MULTIPROC_DIR is set: the library's memory-mapped files end the process with SIGBUS when
# their disk is full.
values.ValueClass = values.MutexValue
disable_created_metrics()  # type: ignore[no-untyped-call]

STAGES = ("store", "assemble", "score", "fuse", "respond")
_SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5)
_COUNTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_CORRELATIONS = (-0.5, 0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_BEHAVIOURS = (0, *_COUNTS[:8])
_LOADS = Histogram.DEFAULT_BUCKETS
_SCORES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 10.0, 100.0)
_WRITE_SECONDS = 0.5


class Metrics:
    """The metrics of one worker. Workers share the run-time folder `folder`; a single worker needs none."""

    def __init__(self, folder: Path | None = None) -> None:
        define = self._define = Definitions()
        tallies = self.tallies = Tallies()
        self.records = WorkerRecords(folder)
        self._history = SharedHistory(folder)
        # Records are read and written in this thread only, so that a hanging disk does not block the event loop.
        self._files = ThreadPoolExecutor(1, "metrics")
        self._routes: dict[str, Distribution] = {}
        counter = define.counter
        histogram = define.histogram
        sum_gauge = define.sum_gauge
        max_gauge = define.max_gauge

        # Requests and rankings
        self.requests = tallies.labelled(counter("requests", "Requests by route and outcome.", "route", "outcome"))
        self._durations = histogram("request_duration_seconds", _SECONDS, "Time of a request, in seconds.", "route")
        stages = histogram("stage_duration_seconds", _SECONDS, "Time of each stage of a ranking, in seconds.", "stage")
        self.stages = {stage: tallies.distribution(stages.labels(stage)) for stage in STAGES}
        self.candidates = tallies.distribution(histogram("candidates", _COUNTS, "Candidates per ranking."))
        self.behaviours = tallies.distribution(histogram("behaviours", _BEHAVIOURS, "Behaviours per ranking."))
        rankings = "Rankings by line, by the role of the version and by result."
        self.rankings = tallies.labelled(counter("rankings", rankings, "line", "role", "result"))
        for role in ("stable", "canary"):
            for result in ("ok", "failed"):
                self.rankings.inc("", role, result, amount=0)
        experiments = counter("experiment_rankings", "Rankings by experiment and arm.", "experiment", "arm")
        self.experiments = tallies.labelled(experiments)
        self.degraded = tallies.labelled(counter("degraded", "Degraded rankings by reason.", "reason"))
        self.brownouts = tallies.labelled(counter("brownout_rankings", "Rankings made cheaper, by step.", "step"))
        rule_results = "Rankings in which a rule changed something or was relaxed."
        self.rule_results = tallies.labelled(counter("rule_results", rule_results, "rules", "rule", "result"))
        self.inflight = sum_gauge("inflight_requests", "Requests in work.")

        # Store
        corrupt_rows = counter("corrupt_rows", "Stored rows that do not fit the schema.", "entity")
        self.corrupt_rows = tallies.labelled(corrupt_rows)
        self.item_cache = ItemCacheMetrics(define)
        self.replicas = ReplicaMetrics(define)
        self.events = counter("events", "Behaviours written to the store.")
        self.impressions = counter("impressions", "New impressions received by `/impressions`.")
        self.feature_rows = counter("feature_rows", "Feature rows written to the store.", "entity")

        self.exposure_log = ExposureLogMetrics(define)

        # Versions and documents
        self.model_info = max_gauge("model_info", "1 for a version in use, else 0.", "name", "version", "role", "line")
        self.swaps = counter("model_swaps", "Model versions taken into use or refused.", "result")
        self.load_seconds = histogram("model_load_seconds", _LOADS, "Time to load, verify and warm up a bundle.")
        self.rollbacks = counter("automatic_rollbacks", "Versions that a worker withdrew by itself.", "role", "line")
        fallback = "1 while an earlier version serves, because the stable version cannot be loaded."
        self.fallback = max_gauge("serving_fallback", fallback, "line")
        self.fallback.labels("")
        self.document_errors = max_gauge("document_unreadable", "1 while the last good state is used.", "document")

        # Shadow
        self.shadow = counter(
            "shadow_rankings", "Rankings that the shadow scored, failed or dropped.", "line", "result"
        )
        for result in ("scored", "failed", "dropped"):
            self.shadow.labels("", result)
        correlation = "Spearman's rank correlation of the shadow's ranking with the stable version's."
        self.shadow_rank_correlation = histogram("shadow_rank_correlation", _CORRELATIONS, correlation, "line")
        overlap = "Share of the stable version's first ten items that are among the shadow's first ten."
        self.shadow_overlap = histogram("shadow_top10_overlap_ratio", _RATIOS, overlap, "line")
        self.shadow_score = histogram(
            "shadow_score", _SCORES, "Task scores of the shadow, 4 per ranking.", "line", "task"
        )
        self.shadow_psi = max_gauge(
            "shadow_score_psi", "PSI of the shadow's scores, the worst worker's.", "line", "task"
        )

        self.shadow_rank_correlation.labels("")
        self.shadow_overlap.labels("")

        # Processes
        self.workers = sum_gauge("workers", "Living worker processes.")
        self.connections = sum_gauge("connections", "Open connections.")
        self.connections_cut = counter("connections_cut", "Connections that the service ended, by reason.", "reason")
        self.traces = counter("traces", "Traces that were kept, by outcome.", "outcome")
        self.ready = sum_gauge("ready_workers", "Living worker processes with a model in use.")

    def finished(self, route: str, outcome: str, seconds: float) -> None:
        """Count one request."""
        self.requests.inc(route, outcome)
        durations = self._routes.get(route)
        if durations is None:
            durations = self._routes[route] = self.tallies.distribution(self._durations.labels(route))
        durations.observe(seconds)
        self.tallies.soon()

    async def page(self) -> bytes:
        """Return the text that Prometheus scrapes: all workers together; values of other workers are at most half a
        second old.
        """
        self.tallies.bring_over()
        return await asyncio.get_running_loop().run_in_executor(self._files, self._page)

    async def observed(self) -> tuple[Families, History]:
        """Return the metrics of all workers now, and their history up to now."""
        self.tallies.bring_over()
        return await asyncio.get_running_loop().run_in_executor(self._files, self._observed)

    async def publish(self) -> None:
        """Write this worker's record repeatedly, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            # A single worker writes no record, so its metrics need not be collected for one.
            if self.records.shared:
                self.tallies.bring_over()
                await loop.run_in_executor(self._files, self._write)
            if self._history.is_due():
                self.tallies.bring_over()
                await loop.run_in_executor(self._files, self._sample)
            await self.records.changed(_WRITE_SECONDS)

    def close(self) -> None:
        """Write the last record; the counters of this worker stay in the sums of the ended workers."""
        self.tallies.bring_over()
        self._files.submit(self._write)
        self._files.submit(self.records.close)
        self._files.shutdown(wait=False)

    def _families(self) -> Families:
        return families_of(self._define.registry, self._define.gauges)

    def _observed(self) -> tuple[Families, History]:
        families = self.records.families(self._families())
        return families, self._history.read().with_sample(monotonic(), families)

    def _sample(self) -> None:
        self._history.sample(self.records.families(self._families()))

    def _page(self) -> bytes:
        self._write()
        return page_of(self.records.families(self._families()))

    def _write(self) -> None:
        self.records.write(self._families())
