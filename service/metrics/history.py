"""Keeps the counters of the last three days at steps that grow with their age, for rates over windows of time."""

import bisect
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from service.metrics.families import Families

STEP_SECONDS = 15.0
# (age in seconds up to which it holds, seconds between samples). Each step is a multiple of the one before.
STEPS = ((960.0, STEP_SECONDS), (4_500.0, 60.0), (23_400.0, 300.0), (262_800.0, 1800.0))
_RANK = ("route", "/rank")
# The families that figures and alarms read; of these two, only the series of rankings.
_OF_RANKINGS = frozenset({"funnelrank_requests", "funnelrank_request_duration_seconds"})
_KEPT = _OF_RANKINGS | {
    f"funnelrank_{name}"
    for name in (
        "automatic_rollbacks",
        "brownout_rankings",
        "connections_cut",
        "degraded",
        "document_unreadable",
        "exposure_log_files_removed",
        "exposure_log_records",
        "item_cache_evictions",
        "item_cache_hits",
        "item_cache_invalidations",
        "item_cache_misses",
        "model_swaps",
        "rankings",
        "ready_workers",
        "serving_fallback",
        "shadow_score_psi",
        "stage_duration_seconds",
        "workers",
    )
}
Labels = Mapping[str, str]


@dataclass(frozen=True)
class SeriesKey:
    """One series: its name without the prefix, as `requests_total`, and its labels."""

    name: str
    labels: Labels


@dataclass
class History:
    """Samples of series by time (monotonic seconds), oldest first.

    `rows` has one value per series; rows of times before a series existed are shorter, and its value was 0.
    """

    keys: dict[str, int] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    rows: list["array[float]"] = field(default_factory=list)

    def add(self, time: float, families: Families) -> None:
        """Add a sample of the chosen families, and drop those that are closer together than their age allows."""
        values = dict(_values(families))
        for key in values:
            self.keys.setdefault(key, len(self.keys))
        self.times.append(time)
        self.rows.append(array("d", (values.get(key, 0.0) for key in self.keys)))
        self._thin(time)

    def with_sample(self, time: float, families: Families) -> "History":
        """Return a history with one more sample; this one stays as it is."""
        more = History(dict(self.keys), list(self.times), list(self.rows))
        more.add(time, families)
        return more

    def series(self) -> dict[str, list[tuple[Labels, int]]]:
        """The series by name, each with its labels and its place in a row."""
        by_name: dict[str, list[tuple[Labels, int]]] = {}
        for key, place in self.keys.items():
            series = series_of(key)
            by_name.setdefault(series.name, []).append((series.labels, place))
        return by_name

    def at_or_before(self, time: float) -> int:
        """The place of the newest sample that is not newer than `time`; 0, the oldest, if all are newer."""
        return max(0, bisect.bisect_right(self.times, time) - 1)

    def dumps(self) -> bytes:
        """The history as JSON."""
        content = {"keys": list(self.keys), "times": self.times, "rows": [row.tolist() for row in self.rows]}
        return orjson.dumps(content)

    def _thin(self, now: float) -> None:
        times: list[float] = []
        rows: list[array[float]] = []
        before: tuple[float, int] | None = None
        for time, row in zip(self.times, self.rows, strict=True):
            age = now - time
            step = next((step for longest, step in STEPS if age <= longest), None)
            if step is None:
                continue
            # The first sample of each step stays. Steps begin at multiples, so that thinning again drops nothing.
            place = (step, int(time // step))
            if place != before or time == now:
                times.append(time)
                rows.append(row)
            before = place
        self.times = times
        self.rows = rows


def loads(content: bytes) -> History:
    """Read a history that `dumps` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    read = orjson.loads(content)
    keys = {key: place for place, key in enumerate(read["keys"])}
    return History(keys, [float(time) for time in read["times"]], [array("d", row) for row in read["rows"]])


def series_of(key: str) -> SeriesKey:
    """The series of a key, which is a JSON list: the name, then the names and values of its labels."""
    name, *labels = orjson.loads(key)
    return SeriesKey(name, dict(zip(labels[::2], labels[1::2], strict=True)))


def _values(families: Families) -> Iterator[tuple[str, float]]:
    """The series of these families with their values."""
    for name in _KEPT & families.keys():
        for sample, labels, value in families[name]["samples"]:
            if name in _OF_RANKINGS and labels.get(_RANK[0]) != _RANK[1]:
                continue
            yield _key(sample.removeprefix("funnelrank_"), labels), value


def _key(name: str, labels: Mapping[str, str]) -> str:
    parts: Sequence[str] = [name, *(part for label in sorted(labels.items()) for part in label)]
    return orjson.dumps(parts).decode()
