"""Joins an exposure log into the training tables of a recipe."""

from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import yaml

from features import FeatureSchema
from features.files.unfinished import remove_abandoned, unfinished_folder
from features.files.writing import write_whole
from features.layouts import Layouts
from features.nearest import nearest
from loop.errors import LogError
from loop.join.delays import PART, choose, delayed_conversion, event_labels, label_names, value_names
from loop.join.labels import label, open_database, quoted, read_log, refused_by_database
from loop.join.pieces import write_tables
from loop.join.report import JoinReport, check_rate, measure
from loop.join.served import lacking
from loop.join.tables import arrow_schemas
from loop.log.hours import hour_files
from models.recipe import Recipe
from models.recipe.sections.log import LogSection
from service.exposures.folder import FEATURE_SCHEMAS
from tables.log_records import RecordKind

RECIPE_FILE = "recipe.yaml"
REPORT_FILE = "join.json"
_SCRATCH = ".join-"
PIECES = "hours"  # folder beside the tables, in which a join keeps the rows of each hour


def join(
    log: Path,
    recipe: Recipe,
    out: Path,
    model: str | None = None,
    memory_mb: int = 1024,
    pieces: Path | None = None,
) -> JoinReport:
    """Write the tables, `join.json` and a recipe that trains on them to `out`; every file is replaced whole.

    The same log gives the same bytes. `model` chooses among the models of the log. With a folder `pieces`, the next
    join writes only the hours again that have changed. Raises LogError.
    """
    section = section_of(recipe)
    _refuse_absent_columns(recipe)
    files = {kind: hour_files(log, kind) for kind in RecordKind}
    if not files[RecordKind.EXPOSURES]:
        raise LogError(f"{log} has no hour with exposures; run `funnelrank compact --log {log}` first")
    out.mkdir(parents=True, exist_ok=True)
    # The database and unfinished tables lie in a folder of their own beside the result.
    remove_abandoned(out, f"{_SCRATCH}*")
    with (
        unfinished_folder(out, _SCRATCH) as scratch,
        refused_by_database(out, chain.from_iterable(files.values())),
        open_database(scratch, memory_mb) as database,
    ):
        read_log(database, files)
        label(database, section, model_of(database, model))
        report = measure(database, section)
        check_rate(report, section.min_join_rate)
        # Write the tables only for a log that is worth training on.
        layouts = _layouts(database, log, recipe, report)
        choose(database, recipe, section)
        columns = _labelled(database, recipe)
        exposures = files[RecordKind.EXPOSURES]
        written = write_tables(database, recipe, layouts, exposures, columns, out, pieces or scratch / PIECES)
        report.add_tables(written.rows, written.hours_written, written.hours_unchanged)
        if not report.rows["impressions"]:
            raise LogError("no impression has all its labels: every window is open, or nothing was seen")
        times = None if delayed_conversion(recipe) else _part_ends(database)
    # The recipe is written last: a folder that has it is complete.
    report.write(out / REPORT_FILE)
    write_whole(out / RECIPE_FILE, _recipe_of(recipe, out, times).encode())
    return report


def section_of(recipe: Recipe) -> LogSection:
    """The section `log` of a recipe, with a label for each that the tasks read."""
    if recipe.log is None:
        raise LogError("the recipe has no section 'log', which says what was seen and how events become labels")
    labels = event_labels(recipe)
    missing = [name for name in labels if name not in recipe.log.labels]
    if missing:
        raise LogError(
            f"log.labels lacks {', '.join(missing)}, which tasks read; known: {', '.join(recipe.log.labels)}"
        )
    for name in labels:
        if (name in value_names(recipe)) != (recipe.log.labels[name].value is not None):
            advice = "is a value to its task: say which by" if name in value_names(recipe) else "is 0 or 1: leave out"
            raise LogError(f"the label {name} {advice} log.labels.{name}.value")
    compared = [f.name for f in recipe.features.item if getattr(f, "within_request", False)]
    if compared:
        raise LogError(f"feature '{compared[0]}' has within_request, which a part of a list cannot give again")
    return recipe.log


def _refuse_absent_columns(recipe: Recipe) -> None:
    """Raise LogError if training would read a column of the impressions that a log does not have."""
    columns = dict.fromkeys(recipe.data.weight_columns, "data.weight or data.task_weights")
    columns |= dict.fromkeys(recipe.position.crossed if recipe.position else (), "position.cross")
    joined = arrow_schemas(recipe)["impressions"].names
    for name, option in columns.items():
        if name not in joined:
            problem = f"column '{name}' ({option}) is none that a joined table of impressions has"
            raise LogError(f"{problem}{nearest(name, joined)}")


def model_of(database: duckdb.DuckDBPyConnection, model: str | None) -> str:
    """The model whose exposures count: the one named, or the log's only one. Raises LogError."""
    names = [name for (name,) in database.execute("SELECT DISTINCT model FROM raw_exposures ORDER BY 1").fetchall()]
    if model is None and len(names) > 1:
        raise LogError(f"the log has exposures of several models ({', '.join(names)}); choose one with --model")
    if model is not None and model not in names:
        raise LogError(f"the log has no exposure of the model '{model}'; it has {', '.join(names)}")
    return model or str(names[0])


def _layouts(database: duckdb.DuckDBPyConnection, log: Path, recipe: Recipe, report: JoinReport) -> dict[str, Layouts]:
    """The layouts by the name of each logged schema that has what the recipe needs; others are counted."""
    layouts: dict[str, Layouts] = {}
    counts = database.execute(
        "SELECT schema, count(*) FROM raw_exposures SEMI JOIN exposed USING (filename, file_row_number) "
        "GROUP BY schema ORDER BY schema"
    ).fetchall()
    for name, count in counts:
        try:
            logged = FeatureSchema.model_validate_json((log / FEATURE_SCHEMAS / f"{name}.json").read_bytes())
        except (OSError, ValueError) as error:
            report.refused_schemas[f"schema {name} cannot be read: {type(error).__name__}"] = count
            continue
        reason = lacking(logged, recipe.features)
        if reason:
            report.refused_schemas[reason] = report.refused_schemas.get(reason, 0) + count
        else:
            layouts[name] = Layouts.of(logged)
    if not layouts:
        raise LogError("no logged schema has what the recipe needs: " + "; ".join(report.refused_schemas))
    return layouts


def _labelled(database: duckdb.DuckDBPyConnection, recipe: Recipe) -> list[str]:
    """Make the table `labelled` of exposures with impressions in `chosen`; return its columns beside the place.

    Positions, labels and parts are lists. DuckDB holds them; the wide records are read in batches and never sorted.
    """
    # The labels break the tie of a row that is there twice, as one whose conversion was late.
    names = [quoted(name) for name in label_names(recipe)]
    order = f"ORDER BY position, {', '.join(names)}"
    lists = ", ".join(f"list({name} {order}) AS label_{place}" for place, name in enumerate(names))
    database.execute(
        f"CREATE TABLE labelled AS SELECT filename, file_row_number, request_id, ranked_before, "  # nosec B608 # quoted
        f"list(position {order}) AS positions, list({PART} {order}) AS {PART}, {lists} "
        "FROM chosen JOIN exposed USING (request_id, ranked_before) "
        "GROUP BY ALL ORDER BY filename, file_row_number"
    )
    return ["positions", PART, *(f"label_{place}" for place in range(len(names)))]


def _part_ends(database: duckdb.DuckDBPyConnection) -> list[int]:
    """The times of the first and the last impression, and between them those of the 80th and the 90th percentile."""
    row = database.execute(
        "SELECT min(time_ms), quantile_disc(time_ms, 0.8), quantile_disc(time_ms, 0.9), max(time_ms) "
        "FROM states SEMI JOIN labelled USING (request_id, ranked_before)"
    ).fetchall()[0]
    return [int(value) for value in row]


def _recipe_of(recipe: Recipe, out: Path, times: list[int] | None) -> str:
    """The recipe with the joined tables as its data: the last tenths of the time validate and test.

    Without `times`, a column of the impressions says what validates and tests.
    """
    raw = recipe.model_dump(mode="json")
    data: dict[str, Any] = {
        "dir": str(out),
        "fallback": None,
        "how_to_get": None,
        **{role: f"{role}.parquet" for role in ("impressions", "users", "items")},
        "behaviours": "behaviours.parquet" if recipe.features.behaviour else None,
        "request_id": recipe.data.request_id or "request_id",
        "served": True,
    }
    if times is None:
        raw["data"] |= data | {"split": {"by": "column", "column": PART}}
        return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    first, validation, test, last = times
    if first < validation < test < last:
        start, middle, end, after = (_iso(time_ms) for time_ms in (first, validation, test, last + 1))
        data["split"] = {"by": "time", "train": [start, middle], "validation": [middle, end], "test": [end, after]}
    raw["data"] |= data
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
