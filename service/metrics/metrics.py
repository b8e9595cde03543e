"""Defines the Prometheus metrics of one worker, and writes the page of all workers.

No label contains an id. The label `line` is written only if there are several lines. On the hot path, labelled children
are looked up once in advance, because a lookup costs more than counting.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values

from service.metrics.families import Families, OverWorkers, families_of, page_of
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


class _Definitions:
    """Makes metrics in one registry. The prefix `funnelrank_` is added here."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.gauges: dict[str, OverWorkers] = {}

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"funnelrank_{name}", text, labels, registry=self.registry)

    def histogram(self, name: str, buckets: tuple[float, ...], text: str, *labels: str) -> Histogram:
        return Histogram(f"funnelrank_{name}", text, labels, buckets=buckets, registry=self.registry)

    def sum_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge that is summed over the living workers."""
        return self._gauge(name, text, labels, "sum")

    def max_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge for which the largest value of the living workers is reported."""
        return self._gauge(name, text, labels, "max")

    def _gauge(self, name: str, text: str, labels: tuple[str, ...], over_workers: OverWorkers) -> Gauge:
        self.gauges[f"funnelrank_{name}"] = over_workers
        return Gauge(f"funnelrank_{name}", text, labels, registry=self.registry)


class ItemCacheMetrics:
    """Counts of the item cache, copied from the cache itself."""

    def __init__(self, define: _Definitions) -> None:
        self._counters = {
            "hits": define.counter("item_cache_hits", "Candidates whose row was in memory."),
            "misses": define.counter("item_cache_misses", "Candidates whose row was read from Redis."),
            "evictions": define.counter("item_cache_evictions", "Rows removed to make room for others."),
            "invalidations": define.counter("item_cache_invalidations", "Changed item rows that Redis announced."),
        }
        self._bytes = define.sum_gauge("item_cache_bytes", "Memory of the cached item rows.")

    def bring_over(self, counts: Mapping[str, int]) -> None:
        """Add the counts since the last call; `bytes` is the present size."""
        for name, counter in self._counters.items():
            counter.inc(counts[name])
        self._bytes.set(counts["bytes"])


class ExposureLogMetrics:
    """Counts of the exposure log, copied from its queue and its files."""

    def __init__(self, define: _Definitions) -> None:
        self._records = define.counter(
            "exposure_log_records", "Records of the exposure log by outcome.", "kind", "outcome"
        )
        self._removed = define.counter("exposure_log_files_removed", "Files of the log removed before they were taken.")
        self._queued = define.sum_gauge("exposure_log_queued", "Records of the exposure log that wait to be written.")
        skews = "Values of the last verified hours that differ between serving and training."
        self._skews = define.max_gauge("exposure_log_skews", skews, "name")
        self._skewed: set[str] = set()
        # Every worker shows the same counts: those of the one shipper.
        self._shipped = define.max_gauge(
            "exposure_log_shipped", "Files sent to the log's target, by outcome.", "outcome"
        )
        refused = "Records that the log's target refused for good."
        self._refused = define.max_gauge("exposure_log_refused_records", refused)
        self._waiting = define.max_gauge(
            "exposure_log_waiting_bytes", "Closed files that wait to be sent to the target."
        )
        self._known: dict[tuple[str, str], int] = {}
        self._known_removed = 0

    def bring_over(self, counts: Mapping[tuple[str, str], int], removed: int, queued: int) -> None:
        """Copy the counts since the start of the worker."""
        for (kind, outcome), count in counts.items():
            self._records.labels(kind, outcome).inc(count - self._known.get((kind, outcome), 0))
            self._known[kind, outcome] = count
        self._removed.inc(removed - self._known_removed)
        self._known_removed = removed
        self._queued.set(queued)

    def set_skews(self, skews: Mapping[str, int]) -> None:
        """Set the counts of the last verification, by feature or task; a name that is no longer there is 0."""
        self._skewed |= skews.keys()
        for name in self._skewed:
            self._skews.labels(name).set(skews.get(name, 0))

    def set_shipped(self, counts: Mapping[str, int]) -> None:
        """Set the counts of the shipper since its start; there are none without a target."""
        for name, outcome in (("sent_files", "sent"), ("failed_attempts", "failed")):
            if name in counts:
                self._shipped.labels(outcome).set(counts[name])
        self._refused.set(counts.get("refused_records", 0))
        self._waiting.set(counts.get("waiting_bytes", 0))


class Metrics:
    """The metrics of one worker. Workers share the run-time folder `folder`; a single worker needs none."""

    def __init__(self, folder: Path | None = None) -> None:
        define = self._define = _Definitions()
        tallies = self.tallies = Tallies()
        self.records = WorkerRecords(folder)
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

    async def publish(self) -> None:
        """Write this worker's record repeatedly, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            # A single worker writes no record, so its metrics need not be collected for one.
            if self.records.shared:
                self.tallies.bring_over()
                await loop.run_in_executor(self._files, self._write)
            await self.records.changed(_WRITE_SECONDS)

    def close(self) -> None:
        """Write the last record; the counters of this worker stay in the sums of the ended workers."""
        self.tallies.bring_over()
        self._files.submit(self._write)
        self._files.submit(self.records.close)
        self._files.shutdown(wait=False)

    def _families(self) -> Families:
        return families_of(self._define.registry, self._define.gauges)

    def _page(self) -> bytes:
        self._write()
        return page_of(self.records.families(self._families()))

    def _write(self) -> None:
        self.records.write(self._families())
