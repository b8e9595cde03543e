"""The results of a benchmark: a row per recipe over its seeds; each group of rows becomes a table with reference
values.
"""

import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from models.data.tables import data_folder
from models.recipe import Recipe

MARKS = Path(__file__).with_name("marks.yaml")
METRICS = ("auc", "gauc", "ndcg@10", "mrr", "log_loss", "ece", "rmse")
TITLES = {"auc": "AUC", "gauc": "GAUC", "ndcg@10": "nDCG@10", "mrr": "MRR", "log_loss": "log loss"}


class Mark(BaseModel):
    """Published figures by column, of each metric; `name` says whose they are and where they were published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    auc: dict[str, float]
    gauc: dict[str, float] = Field(default_factory=dict)

    def figures(self, metric: str) -> dict[str, float]:
        """The figures of one metric by column."""
        by_metric = {"auc": self.auc, "gauc": self.gauc}
        return by_metric.get(metric, {})


class Group(BaseModel):
    """Recipes on the same data and labels.

    `data`: the name of the data's folder; `columns`: labels with their titles in the table;
    `others`: labels that have no column. `metrics`: what the table shows of each label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    data: str
    columns: dict[str, str]
    others: tuple[str, ...] = ()
    metrics: tuple[Literal["auc", "gauc", "ndcg@10", "mrr", "log_loss"], ...] = ("auc",)
    marks: tuple[Mark, ...] = ()

    @property
    def labels(self) -> frozenset[str]:
        """The label columns that a recipe of the group may have."""
        return frozenset(
            label for column in (*self.columns, *self.others) for label in re.split(r" AND | where ", column)
        )


def listed_groups(path: Path = MARKS) -> list[Group]:
    """Read the groups of a marks file."""
    return [Group.model_validate(group) for group in yaml.safe_load(path.read_text())]


def group_of(recipe: Recipe, listed: list[Group]) -> Group:
    """Return the smallest listed group of this data with all labels of the recipe's probabilities, else a new group."""
    data = Path(recipe.data.dir).name
    labels = set(recipe.label_columns) - recipe.value_columns
    fitting = [group for group in listed if group.data == data and labels <= group.labels]
    if fitting:
        return min(fitting, key=lambda group: len(group.labels))
    columns = {label: label for label in sorted(labels)}
    return Group(title=f"{data}: {', '.join(columns.values())}", data=data, columns=columns)


def row_of(recipe: Recipe, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a recipe: cost, AUC by label, all metrics by score, each as mean and sample deviation over the
    runs.

    `seconds_per_epoch` is that of the fastest seed, because other programs on the machine can only slow a run down.
    """
    tests = [list(_scored(run)) for run in runs]
    scores = [_measured(name, [dict(test)[name] for test in tests]) for name, _ in tests[0]]
    return {
        "recipe": recipe.name,
        "seeds": len(runs),
        "composition": runs[0]["composition"],
        "parameters": runs[0]["parameters"],
        "seconds_per_epoch": min(run["speed"]["seconds_per_epoch"] for run in runs),
        "best_epoch": statistics.fmean(run["best"]["epoch"] for run in runs),
        "data": {
            "folder": data_folder(recipe.data),
            "hash": runs[0]["data"]["hash"],
            "impressions": runs[0]["data"]["impressions"],
        },
        "auc": _by_label(scores, "auc"),
        "scores": scores,
    }


def _scored(run: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each output of the test part, and each score that is evaluated on another label."""
    test = run["parts"]["test"]
    yield from test["outputs"].items()
    for extra in test["extra"]:
        yield f"{extra['score']} for {extra['label']}", extra


def _measured(name: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    space = measured[0].get("space", "impression")
    row: dict[str, Any] = {
        "output": name,
        "label": measured[0]["label"] + ("" if space == "impression" else f" where {space}"),
    }
    for key in METRICS:
        values = [m[key]["value"] if key == "gauc" and m.get(key) else m.get(key) for m in measured]
        present = [value for value in values if value is not None]
        if present:
            row[key] = {
                "mean": statistics.fmean(present),
                "deviation": statistics.stdev(present) if len(present) > 1 else None,
            }
    return row


def _by_label(scores: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Of several scores for one label, the first one is used, which is the task's own."""
    by_label: dict[str, Any] = {}
    for score in scores:
        if metric in score:
            by_label.setdefault(score["label"], score[metric])
    return by_label


def group_tables(group: Group, rows: list[dict[str, Any]]) -> str:
    """Markdown: test AUC and cost per recipe with the marks below them, then every score's metrics."""
    data = rows[0]["data"]
    parts = ", ".join(f"{data['impressions'][part]:,} {part}" for part in ("train", "validation", "test"))
    shown = " and ".join(TITLES[metric] for metric in group.metrics)
    columns = [_column_title(group, title, metric) for metric in group.metrics for title in group.columns.values()]
    lines = [f"## {group.title}", "", f"Test {shown}; {parts} impressions of `{data['folder']}`.", ""]
    lines += _table(
        ["model", *columns, "parameters, tables + rest", "s / epoch", "seeds"],
        [_line(group, row) for row in rows],
    )
    if group.marks:
        lines += ["", *_table(["mark", *columns], [_mark_line(group, mark) for mark in group.marks])]
    cells = [
        [row["recipe"], score["output"], *(_cell(score.get(key)) for key in METRICS)]
        for row in rows
        for score in row["scores"]
    ]
    lines += ["", "<details><summary>every score</summary>", ""]
    lines += [
        *_table(["model", "score", "AUC", "GAUC", "nDCG@10", "MRR", "log loss", "ECE", "RMSE"], cells),
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _mark_line(group: Group, mark: Mark) -> list[str]:
    figures = [_number(mark.figures(metric).get(column)) for metric in group.metrics for column in group.columns]
    return [mark.name, *figures]


def _column_title(group: Group, title: str, metric: str) -> str:
    return title if group.metrics == ("auc",) else f"{title}, {TITLES[metric]}"


def _line(group: Group, row: dict[str, Any]) -> list[str]:
    size = row["parameters"]
    figures = []
    for metric in group.metrics:
        by_label = _by_label(row["scores"], metric)
        figures += [_cell(by_label.get(column)) for column in group.columns]
    return [
        row["recipe"],
        *figures,
        f"{size['embedding']:,} + {size['dense']:,}",
        f"{row['seconds_per_epoch']:.1f}",
        str(row["seeds"]),
    ]


def _table(head: list[str], cells: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _cell(value: dict[str, float | None] | None) -> str:
    if value is None:
        return ""
    deviation = value["deviation"]
    return _number(value["mean"]) + (f" ± {deviation:.4f}" if deviation is not None else "")
