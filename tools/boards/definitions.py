"""Defines the panels of the Grafana boards and their queries: service, rollout, capacity."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Panel(NamedTuple):
    """A time series panel: its queries by legend. `$job` is the scrape job, `$__rate_interval` Grafana's window."""

    title: str
    unit: str
    about: str
    queries: Mapping[str, str]


class Board(NamedTuple):
    """A board of rows, each with a title and panels."""

    name: str
    title: str
    rows: Mapping[str, tuple[Panel, ...]]


def rate(metric: str, by: str, labels: str = "") -> str:
    """Events per second, summed by labels."""
    return f'sum by ({by}) (rate(funnelrank_{metric}{{job=~"$job"{labels and ", "}{labels}}}[$__rate_interval]))'


def quantile(q: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({q}, {rate(metric + '_bucket', 'le' + (by and ', ') + by)})"


def gauge(metric: str, by: str = "job", over: str = "sum") -> str:
    return f'{over} by ({by}) (funnelrank_{metric}{{job=~"$job"}})'


def share(part: str, whole: str, by: str) -> str:
    """One rate as a share of another; `whole` has no label of its own."""
    return f"{part} / on () group_left () {whole}" if by else f"{part} / {whole}"


_RANKED = rate("requests_total", "job", 'route="/rank"')
SERVICE = Board(
    "service",
    "funnelrank: service",
    {
        "Rankings": (
            Panel("Requests", "reqps", "By route.", {"{{route}}": rate("requests_total", "route")}),
            Panel(
                "Outcomes of rankings",
                "reqps",
                "`ok` and `degraded` are answers; everything else is a refusal, by its code.",
                {"{{outcome}}": rate("requests_total", "outcome", 'route="/rank"')},
            ),
            Panel(
                "Time of a ranking",
                "s",
                "From the first byte to the answer.",
                {f"p{int(q * 100)}": quantile(q, "request_duration_seconds") for q in (0.5, 0.95, 0.99)},
            ),
        ),
        "What a ranking does": (
            Panel(
                "Time by stage, 95th percentile",
                "s",
                "store: Redis; score: ONNX Runtime; the rest is computing in Python.",
                {"{{stage}}": quantile(0.95, "stage_duration_seconds", "stage")},
            ),
            Panel(
                "Candidates and behaviours, median",
                "short",
                "Per ranking.",
                {"candidates": quantile(0.5, "candidates"), "behaviours": quantile(0.5, "behaviours")},
            ),
            Panel(
                "Degraded rankings",
                "reqps",
                "By reason; a ranking may have several.",
                {"{{reason}}": rate("degraded_total", "reason")},
            ),
        ),
        "Writes": (
            Panel("Behaviours", "wps", "Events that were written to Redis.", {"events": rate("events_total", "job")}),
            Panel(
                "Exposure log",
                "wps",
                "Anything but `written` is lost.",
                {"{{kind}} {{outcome}}": rate("exposure_log_records_total", "kind, outcome")},
            ),
            Panel(
                "Waiting for the log",
                "short",
                "Records in the queues of the workers.",
                {"records": gauge("exposure_log_queued")},
            ),
        ),
    },
)
ROLLOUT = Board(
    "rollout",
    "funnelrank: rollout",
    {
        "Versions": (
            Panel(
                "In use",
                "short",
                "1 for a version in use.",
                {"{{role}} {{name}}/{{version}}": gauge("model_info", "role, name, version", "max") + " > 0"},
            ),
            Panel(
                "Rankings by role",
                "reqps",
                "`failed` counts against a canary.",
                {"{{role}} {{result}}": rate("rankings_total", "role, result")},
            ),
            Panel(
                "Taken and refused",
                "short",
                "Swaps of versions and documents in the last ten minutes, by result.",
                {"{{result}}": 'sum by (result) (increase(funnelrank_model_swaps_total{job=~"$job"}[10m]))'},
            ),
        ),
        "Shadow": (
            Panel(
                "Shadow rankings",
                "reqps",
                "`dropped`: beyond the shadow's budget.",
                {"{{result}}": rate("shadow_rankings_total", "result")},
            ),
            Panel(
                "Agreement with stable, median",
                "short",
                "Rank correlation, and the share of the first ten items that both have.",
                {
                    "rank correlation": quantile(0.5, "shadow_rank_correlation"),
                    "top 10": quantile(0.5, "shadow_top10_overlap_ratio"),
                },
            ),
            Panel(
                "Distribution of the scores, PSI",
                "short",
                "Above 0.25 the shadow scores differently.",
                {"{{task}}": gauge("shadow_score_psi", "task", "max")},
            ),
        ),
        "Documents": (
            Panel(
                "Unreadable",
                "short",
                "1 while the last good state is used.",
                {"{{document}}": gauge("document_unreadable", "document", "max")},
            ),
            Panel(
                "Earlier version serves",
                "short",
                "1 while the stable version cannot be loaded.",
                {"fallback": gauge("serving_fallback", over="max")},
            ),
            Panel(
                "Time to load a version, 95th percentile",
                "s",
                "Loading, verification and warm-up.",
                {"p95": 'histogram_quantile(0.95, sum by (le) (funnelrank_model_load_seconds_bucket{job=~"$job"}))'},
            ),
        ),
    },
)
CAPACITY = Board(
    "capacity",
    "funnelrank: capacity",
    {
        "Workers": (
            Panel(
                "Workers",
                "short",
                "Living workers, and those with a model.",
                {"living": gauge("workers"), "ready": gauge("ready_workers")},
            ),
            Panel("In work", "short", "Requests that are computed.", {"requests": gauge("inflight_requests")}),
            Panel(
                "Shed",
                "percentunit",
                "Share of the rankings that was refused for overload or missed its deadline.",
                {
                    "{{outcome}}": share(
                        rate("requests_total", "outcome", 'route="/rank", outcome=~"overloaded|deadline_exceeded"'),
                        _RANKED,
                        "outcome",
                    )
                },
            ),
        ),
        "Item cache": (
            Panel(
                "Hit rate",
                "percentunit",
                "Share of the candidates whose row was in memory.",
                {
                    "hits": f"{rate('item_cache_hits_total', 'job')} / "
                    f"({rate('item_cache_hits_total', 'job')} + {rate('item_cache_misses_total', 'job')})"
                },
            ),
            Panel("Size", "bytes", "Of all workers.", {"bytes": gauge("item_cache_bytes")}),
            Panel(
                "Changes",
                "ops",
                "Rows that Redis announced as changed, and rows that made room.",
                {
                    "invalidated": rate("item_cache_invalidations_total", "job"),
                    "evicted": rate("item_cache_evictions_total", "job"),
                },
            ),
        ),
        "Connections and time": (
            Panel("Open connections", "short", "Of all workers.", {"connections": gauge("connections")}),
            Panel(
                "Time in the store, 99th percentile",
                "s",
                "The wait for Redis; FUNNELRANK_REDIS_TIMEOUT_MS bounds it.",
                {"p99": quantile(0.99, "stage_duration_seconds").replace('job=~"$job"', 'job=~"$job", stage="store"')},
            ),
            Panel(
                "Time of computing",
                "percentunit",
                "Seconds of assembling, scoring, fusing and answering in a second, per worker.",
                {"busy": rate("stage_duration_seconds_sum", "job", 'stage!="store"') + " / " + gauge("ready_workers")},
            ),
        ),
    },
)
BOARDS = (SERVICE, ROLLOUT, CAPACITY)


def queries() -> Iterator[tuple[str, str]]:
    """Where each query of the boards stands, and the query."""
    for board in BOARDS:
        for panels in board.rows.values():
            for panel in panels:
                for legend, query in panel.queries.items():
                    yield f"{board.name}: {panel.title}: {legend}", query
