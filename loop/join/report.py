"""Reports a join: what was joined, what was not and why, how late events come, and how complete labels are by age."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from features.files.writing import write_whole
from loop.errors import LogError
from loop.join.labels import quoted
from models.recipe.sections.log import LogSection

AGES_S = {"1 h": 3_600, "6 h": 21_600, "1 d": 86_400, "3 d": 259_200, "7 d": 604_800}
_CAUSES = {
    "no_request_id": "they carry no request_id, and their user was not shown that item before",
    "clock": "their clock is behind: they come before the ranking that showed the item, in the median by {hours:.1f} h",
    "unknown_request": "their request ids are those of no exposure, as '{example}'",
    "other_user": "their user is another one than that of the request, as in event '{example}'",
    "not_in_list": "their item was not in the ranking of their request, as in event '{example}'",
}


@dataclass
class JoinReport:
    """Counts of a join. `unjoined` counts events by reason; `labels` counts impressions by label and state."""

    exposures: int = 0
    exposures_doubled: int = 0
    listed: int = 0
    impressions: int = 0
    impressions_doubled: int = 0
    impressions_of_unknown_requests: int = 0
    events: int = 0
    events_doubled: int = 0
    events_joined: int = 0
    join_rate: float | None = None
    unjoined: dict[str, int] = field(default_factory=dict)
    cause: str = ""
    lateness_s: dict[str, float] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    completeness: dict[str, dict[str, float]] = field(default_factory=dict)
    refused_schemas: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    hours_written: int = 0
    hours_unchanged: int = 0

    def add_tables(self, rows: dict[str, int], hours_written: int, hours_unchanged: int) -> None:
        """Add what was written: rows by table, and the hours of the log that were written or had not changed."""
        self.rows = rows
        self.hours_written = hours_written
        self.hours_unchanged = hours_unchanged

    def write(self, path: Path) -> None:
        """Write the report without what depends on the run before, so that the same log gives the same bytes."""
        document = {name: value for name, value in asdict(self).items() if not name.startswith("hours_")}
        write_whole(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def measure(database: duckdb.DuckDBPyConnection, log: LogSection) -> JoinReport:
    """Measure a join whose tables `label` has made. Events count if a label reads them and their user was logged."""
    report = JoinReport()
    report.exposures = _one(database, "SELECT count(*) FROM exposed")
    report.exposures_doubled = _one(database, "SELECT count(*) FROM raw_exposures SEMI JOIN exposed USING (request_id)")
    report.exposures_doubled -= report.exposures
    report.listed = _one(database, "SELECT count(*) FROM listed")
    report.impressions = _one(database, "SELECT count(*) FROM seen")
    distinct = _one(database, "SELECT count(*) FROM impressions")
    report.impressions_doubled = _one(database, "SELECT count(*) FROM raw_impressions") - distinct
    unknown = "SELECT count(*) FROM impressions ANTI JOIN exposed USING (request_id)"
    report.impressions_of_unknown_requests = _one(database, unknown)
    report.events_doubled = _one(database, "SELECT (SELECT count(*) FROM raw_events) - (SELECT count(*) FROM done)")
    _measure_events(database, log, report)
    for name, chosen in log.labels.items():
        yes, no, is_open = database.execute(
            f"SELECT count(*) FILTER ({quoted(name)} > 0), count(*) FILTER ({quoted(name)} = 0), "  # nosec B608
            f"count(*) FILTER ({quoted(name)} IS NULL) FROM states"
        ).fetchall()[0]
        report.labels[name] = {"yes": yes, "no": no, "open": is_open}
        report.completeness[name] = _completeness(database, list(chosen.actions), chosen.window_s)
    return report


def _measure_events(database: duckdb.DuckDBPyConnection, log: LogSection, report: JoinReport) -> None:
    """The join rate, why events were not joined, and how late they come."""
    actions = sorted({action for chosen in log.labels.values() for action in chosen.actions})
    tolerance_ms = round(log.clock_tolerance_s * 1000)
    # Say of each labelled action of a user with exposures whether it was joined, and if not, why.
    database.execute(
        """
        CREATE TABLE judged AS
        SELECT d.event, d.logged_ms - d.time_ms AS late_ms, later.ahead_ms, CASE
            WHEN j.event IS NOT NULL AND j.after_ms >= -$tolerance THEN 'joined'
            WHEN j.event IS NOT NULL OR (d.request_id IS NULL AND later.ahead_ms IS NOT NULL) THEN 'clock'
            WHEN d.request_id IS NULL THEN 'no_request_id'
            WHEN x.request_id IS NULL THEN 'unknown_request'
            WHEN x.user_id <> d.user_id THEN 'other_user'
            ELSE 'not_in_list' END AS fate,
            coalesce(d.request_id, d.event_id) AS example
        FROM (SELECT * FROM done WHERE list_contains($actions, action)) d
        SEMI JOIN (SELECT DISTINCT user_id FROM exposed) u ON d.user_id = u.user_id
        LEFT JOIN (SELECT event, max(after_ms) AS after_ms FROM joined GROUP BY event) j USING (event)
        LEFT JOIN (
            SELECT DISTINCT ON (request_id) request_id, user_id FROM exposed ORDER BY request_id, ranked_before
        ) x ON d.request_id = x.request_id
        LEFT JOIN (
            SELECT d.event, min(l.time_ms - d.time_ms) AS ahead_ms FROM done d
            JOIN listed l ON d.user_id = l.user_id AND d.item_id = l.item_id AND l.time_ms > d.time_ms
            GROUP BY d.event
        ) later ON later.event = d.event
        """,
        {"tolerance": tolerance_ms, "actions": actions},
    )
    # The join rate.
    fates = dict(database.execute("SELECT fate, count(*) FROM judged GROUP BY fate ORDER BY fate").fetchall())
    report.events = sum(fates.values())
    report.events_joined = fates.pop("joined", 0)
    report.unjoined = fates
    if not report.events:
        return
    report.join_rate = report.events_joined / report.events
    # How late the events were.
    quantiles = "SELECT quantile_cont(late_ms / 1000, [0.5, 0.9, 0.99, 1.0]) FROM judged"
    values = database.execute(quantiles).fetchall()[0][0]
    report.lateness_s = dict(zip(("p50", "p90", "p99", "max"), map(float, values), strict=True))
    # The most frequent reason, with an example.
    if fates:
        worst = max(fates, key=lambda fate: (fates[fate], fate))
        example, ahead = database.execute(
            "SELECT min(example), median(ahead_ms) FROM judged WHERE fate = ?", [worst]
        ).fetchall()[0]
        report.cause = _CAUSES[worst].format(example=example, hours=(ahead or 0) / 3_600_000)


def _completeness(database: duckdb.DuckDBPyConnection, actions: list[str], window_s: float) -> dict[str, float]:
    """The share of final conversions that had come at each age: of exposures that are as old as the window at least."""
    delays = database.execute(
        """
        SELECT min(after_ms) / 1000 FROM joined JOIN exposed USING (request_id, ranked_before)
        WHERE list_contains(?, action) AND after_ms BETWEEN 0 AND ?
          AND time_ms + ? <= (SELECT max(logged_ms) FROM logged)
        GROUP BY request_id, ranked_before, item_id
        """,
        [actions, round(window_s * 1000), round(window_s * 1000)],
    ).fetchnumpy()
    (column,) = delays.values()
    if not len(column):
        return {}
    return {age: float((column <= limit).mean()) for age, limit in AGES_S.items() if limit <= max(window_s, 3_600)}


def check_rate(report: JoinReport, floor: float) -> None:
    """Raise LogError if too few events belong to an exposure; the message names the nearest cause."""
    if report.join_rate is not None and report.join_rate < floor:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.unjoined.items())
        raise LogError(
            f"{report.events_joined:,} of {report.events:,} events ({report.join_rate:.1%}) belong to an exposure, and "
            f"log.min_join_rate asks for {floor:.1%}; the cause of most others: {report.cause} ({reasons})"
        )


def lines(report: JoinReport) -> list[str]:
    """The report as text."""
    rate = "no event" if report.join_rate is None else f"join rate {report.join_rate:.2%}"
    exposures = f"{report.exposures:,} exposures ({report.exposures_doubled:,} doubled)"
    reported = f"{report.impressions_doubled:,} doubled, {report.impressions_of_unknown_requests:,} of unknown requests"
    text = [
        f"{exposures}, {report.listed:,} items returned, {report.impressions:,} impressions ({reported})",
        f"{report.events:,} events ({report.events_doubled:,} doubled): {rate}",
    ]
    if report.unjoined:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.unjoined.items())
        text.append(f"not joined: {reasons}; of most: {report.cause}")
    if report.lateness_s:
        text.append("lateness: " + ", ".join(f"{name} {value:.1f} s" for name, value in report.lateness_s.items()))
    for name, states in report.labels.items():
        complete = ", ".join(f"{age} {share:.1%}" for age, share in report.completeness[name].items())
        counts = ", ".join(f"{state} {count:,}" for state, count in states.items())
        text.append(f"label {name}: {counts}" + (f"; complete after {complete}" if complete else ""))
    text += [f"left out, {count:,} exposures: {reason}" for reason, count in report.refused_schemas.items()]
    if report.rows:
        text.append("rows: " + ", ".join(f"{role} {count:,}" for role, count in report.rows.items()))
        text.append(f"hours: {report.hours_written:,} written, {report.hours_unchanged:,} unchanged")
    return text


def _one(database: duckdb.DuckDBPyConnection, query: str) -> Any:
    return database.execute(query).fetchall()[0][0]
