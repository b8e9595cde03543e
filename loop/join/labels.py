"""Labels what was seen, in DuckDB: which returned items count as impressions, and which events belong to them.

Every statement works out of core: DuckDB keeps to its memory limit and spills to its folder. All delays are counted
from the exposure, by the clock of the service, so that no label depends on two clocks of callers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from loop.errors import LogError
from loop.log.hours import check_hour
from models.recipe.sections.log import LogSection, SeenRule
from tables.log_records import SCHEMAS, RecordKind

_LACKS = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)
UNJOINED = ("no_request_id", "clock", "unknown_request", "other_user", "not_in_list")


def open_database(folder: Path, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """A database in `folder` that uses at most `memory_mb` MiB, beside what Arrow batches take."""
    database = duckdb.connect(str(folder / "join.duckdb"))
    database.execute(f"SET memory_limit = '{memory_mb}MiB'")
    database.execute("SET temp_directory = ?", [str(folder / "spill")])
    database.execute("SET threads = 1")  # one order of rows, so that a second run writes the same bytes
    return database


@contextmanager
def refused_by_database(place: Path, files: Iterable[Path]) -> Iterator[None]:
    """Raise LogError where DuckDB lacks disk or memory, or one of the log's `files` is broken. Its other errors are
    faults of this program.
    """
    try:
        yield
    except duckdb.Error as error:
        # DuckDB has many errors for a broken file, and most of them do not name it.
        for path in files:
            check_hour(path)
        if not isinstance(error, _LACKS):
            raise
        raise LogError(f"{place}: the join's database: {' '.join(str(error).split())}") from error


def read_log(database: duckdb.DuckDBPyConnection, files: Mapping[RecordKind, Sequence[Path]]) -> None:
    """Name the records of a log: views `raw_exposures`, `raw_impressions`, `raw_events`."""
    for kind in RecordKind:
        paths = [str(path) for path in files[kind]]
        if paths:
            # A view takes no parameters; the names are this program's own.
            names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            options = "filename = true, file_row_number = true, union_by_name = true"
            source = f"UNION ALL BY NAME SELECT * FROM read_parquet([{names}], {options})"  # nosec B608 # our own names
        else:
            source = ""
        # The empty table has every column, which a file of an earlier release may lack.
        database.register(f"no_{kind.value}", SCHEMAS[kind].empty_table())
        database.execute(
            f"CREATE VIEW raw_{kind.value} AS "  # nosec B608 # an enum's
            f"SELECT *, '' AS filename, 0::BIGINT AS file_row_number FROM no_{kind.value} {source}"
        )


def label(database: duckdb.DuckDBPyConnection, log: LogSection, model: str) -> None:
    """Make the tables `exposed`, `listed`, `done`, `joined`, `states` of one model's exposures.

    `states` has a row per impression, with a column per label: 1 (yes) or its value, 0 (no) or null (open: its window
    is not closed, also if there is an event already; else newer rows would have no label but yes).
    """
    tolerance_ms = round(log.clock_tolerance_s * 1000)
    # Each page of a request once, whatever was logged twice.
    database.execute(
        """
        CREATE TABLE exposed AS
        SELECT DISTINCT ON (request_id, ranked_before) request_id, ranked_before, user_id, time_ms, logged_ms,
               item_ids[1:returned] AS items, filename, file_row_number
        FROM (SELECT * REPLACE (coalesce(ranked_before, 0) AS ranked_before) FROM raw_exposures WHERE model = ?)
        ORDER BY request_id, ranked_before, logged_ms, filename, file_row_number
        """,
        [model],
    )
    database.execute(
        """
        CREATE TABLE listed AS
        SELECT request_id, ranked_before, user_id, time_ms, unnest(items) AS item_id,
               ranked_before + unnest(range(1, len(items) + 1)) AS position
        FROM exposed
        """
    )
    # Each event once (ids of callers may be unique for their user and time only), and the exposure that it belongs to.
    database.execute(
        """
        CREATE TABLE done AS
        SELECT row_number() OVER (ORDER BY user_id, time_ms, event_id) AS event, * FROM (
            SELECT DISTINCT ON (user_id, time_ms, event_id)
                   event_id, request_id, user_id, item_id, action, value, time_ms, logged_ms
            FROM raw_events ORDER BY user_id, time_ms, event_id, logged_ms, filename, file_row_number
        )
        """
    )
    database.execute(
        """
        CREATE TABLE joined AS
        SELECT d.event, l.request_id, l.ranked_before, l.item_id, d.action, d.value, d.logged_ms,
               d.time_ms - l.time_ms AS after_ms
        FROM done d JOIN listed l USING (request_id, user_id, item_id)
        UNION ALL
        SELECT d.event, l.request_id, l.ranked_before, l.item_id, d.action, d.value, d.logged_ms,
               d.time_ms - l.time_ms AS after_ms
        FROM (SELECT * FROM done WHERE request_id IS NULL) d
        ASOF JOIN (
            SELECT DISTINCT ON (user_id, item_id, time_ms) * FROM listed
            ORDER BY user_id, item_id, time_ms, request_id, ranked_before
        ) l ON d.user_id = l.user_id AND d.item_id = l.item_id AND d.time_ms >= l.time_ms
        """
    )
    _seen(database, log.seen)
    _states(database, log, tolerance_ms)


def _seen(database: duckdb.DuckDBPyConnection, seen: SeenRule) -> None:
    """The table `seen`: the impressions, by the rule that the recipe chooses."""
    database.execute(
        """
        CREATE TABLE impressions AS
        SELECT DISTINCT ON (impression_id) impression_id, request_id, item_id, time_ms FROM raw_impressions
        ORDER BY impression_id, logged_ms, filename, file_row_number
        """
    )
    if seen.by == "returned":
        database.execute("CREATE TABLE seen AS SELECT * FROM listed")
    elif seen.by == "explicit":
        database.execute("CREATE TABLE seen AS SELECT * FROM listed SEMI JOIN impressions USING (request_id, item_id)")
    else:
        database.execute(
            """
            CREATE TABLE seen AS
            SELECT l.* FROM listed l JOIN (
                SELECT request_id, max(position) AS last FROM listed
                SEMI JOIN (SELECT * FROM joined WHERE list_contains(?, action)) USING (request_id, item_id)
                GROUP BY request_id
            ) USING (request_id) WHERE position <= last + ?
            """,
            [list(seen.actions), seen.k],
        )


def _states(database: duckdb.DuckDBPyConnection, log: LogSection, tolerance_ms: int) -> None:
    columns = []
    values: list[object] = []
    for place, (name, chosen) in enumerate(log.labels.items()):
        window_ms = round(chosen.window_s * 1000)
        acted = f"list_contains($a{place}, action)"
        within = f"{acted} AND after_ms BETWEEN -$tolerance AND $w{place}"
        yes = "1" if chosen.value is None else f"coalesce({chosen.value}(value) FILTER ({within}), 0)"
        columns.append(
            f"""CASE WHEN any_value(s.time_ms) + $w{place} + $lateness > (SELECT max(logged_ms) FROM logged) THEN NULL
                     WHEN coalesce(bool_or({within}), false) THEN {yes}
                     WHEN coalesce(bool_or({acted} AND after_ms < -$tolerance), false) THEN NULL
                     ELSE 0
                END AS {quoted(name)}"""  # nosec B608 # names are quoted, values are parameters
        )
        values += [list(chosen.actions), window_ms]
    parameters: dict[str, object] = {"tolerance": tolerance_ms, "lateness": round(log.lateness_s * 1000)}
    for place in range(len(log.labels)):
        parameters |= {f"a{place}": values[2 * place], f"w{place}": values[2 * place + 1]}
    database.execute(
        """
        CREATE VIEW logged AS SELECT logged_ms FROM exposed UNION ALL SELECT logged_ms FROM done
        UNION ALL SELECT logged_ms FROM raw_impressions
        """
    )
    database.execute(
        f"""
        CREATE TABLE states AS
        SELECT s.request_id, s.ranked_before, s.position,
               any_value(s.item_id) AS item_id, any_value(s.time_ms) AS time_ms,
               {", ".join(columns)}
        FROM seen s LEFT JOIN joined j USING (request_id, ranked_before, item_id)
        GROUP BY s.request_id, s.ranked_before, s.position
        """,  # nosec B608 # names are quoted
        parameters,
    )


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def arrow_reader(
    database: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object], rows: int
) -> pa.RecordBatchReader:
    """The rows of a query as record batches of at most `rows` rows."""
    return database.sql(query, params=list(parameters)).to_arrow_reader(rows)
