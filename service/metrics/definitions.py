"""Makes Prometheus metrics with the prefix of the service, and those that are copied from caches and logs."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.families import OverWorkers


class Definitions:
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

    def __init__(self, define: Definitions) -> None:
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


class ReplicaMetrics:
    """Counts of reads from replicas of the store, copied from its reader."""

    def __init__(self, define: Definitions) -> None:
        self._reads = define.counter("replica_reads", "Rankings whose rows came from replicas of Redis.")
        self._fallbacks = define.counter(
            "replica_fallbacks", "Rankings that read from primaries because a replica failed."
        )
        self._staleness = define.max_gauge(
            "replica_staleness_seconds", "Age of the oldest write that a replica in use may lack; 0: none in use."
        )

    def bring_over(self, counts: Mapping[str, int]) -> None:
        """Add the counts since the last call, and set the staleness. A store without replicas has none."""
        self._reads.inc(counts.get("replica_reads", 0))
        self._fallbacks.inc(counts.get("replica_fallbacks", 0))
        self._staleness.set(counts.get("replica_staleness_ms", 0) / 1000)


class ExposureLogMetrics:
    """Counts of the exposure log, copied from its queue and its files."""

    def __init__(self, define: Definitions) -> None:
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
