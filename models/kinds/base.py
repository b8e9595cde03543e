"""Defines what a task kind decides: how logits become scores, and how scores are trained, measured and served."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from models.layers.probability import LogProbability
from models.metrics.bootstrap import Draws
from models.options import Options

Score = LogProbability | Tensor

# Shape legend: n impressions or candidates, W logits of the head and scores of the task, N numeric item features.


@dataclass(frozen=True)
class Labelled:
    """The impressions that an output's metrics are computed on.

    `label` `[n]`; `groups` `[n]`, the request or user of each; raw `item_numerics` `[n, N]`; `cutoffs` of metrics of
    lists; `draws` of the bootstrap, None for no intervals; `gains` `[n]` of the recipe's labels, None without.
    """

    label: np.ndarray
    groups: np.ndarray
    item_numerics: np.ndarray
    cutoffs: Sequence[int]
    draws: Draws | None = None
    gains: np.ndarray | None = None


class TaskKind(Options, ABC):
    """A kind of task with its options. The defaults suit a task with one score `[n]`.

    `type` names the kind in recipes and in the manifest, `reported_as` in metrics.json. `measure` is the metric by
    which a graph in reduced precision is compared. `loss_scale` is the factor of the loss under homoscedastic
    uncertainty (Kendall 2018).
    """

    type: str
    reported_as: ClassVar[str]
    measure: ClassVar[Literal["AUC", "RMSE"]]
    loss_scale: ClassVar[float] = 1.0
    in_logs: ClassVar[bool] = True  # its scores are log probabilities until they are served
    calibrated: ClassVar[bool] = False  # its logit can be calibrated
    judged_by: ClassVar[str] = "order"  # the measure of training.select_on: order, RMSE or cross entropy
    label_rule: ClassVar[str]  # what a label may hold, for messages

    @property
    def width(self) -> int:
        """The number of logits of the task's head."""
        return 1

    @abstractmethod
    def score(self, logit: Tensor) -> Score:
        """Convert the head's logits, `[n]` or `[n, W]`, to log probabilities or values."""

    @abstractmethod
    def loss(self, score: Score, label: Tensor) -> Tensor:
        """The loss of each impression `[n]`; `label` float `[n]`."""

    @abstractmethod
    def metrics(self, scores: np.ndarray, labelled: Labelled) -> dict[str, Any]:
        """Metrics for JSON; `scores` `[n, W]` as `columns` gives them."""

    @abstractmethod
    def allows(self, label: np.ndarray) -> np.ndarray:
        """Mask of the labels `[n]` that the loss counts, bool `[n]`."""

    @abstractmethod
    def quality(self, label: np.ndarray, score: np.ndarray) -> float | None:
        """Return the `measure` of one served score `[n]`; None if the labels do not permit it."""

    def quality_loss(self, full: float, reduced: float) -> float:
        """Return by how much the measure is worse in reduced precision."""
        return full - reduced

    def names(self, output: str) -> tuple[str, ...]:
        """The names of the task's scores in the graph and the manifest."""
        return (output,)

    def columns(self, score: Score) -> tuple[Tensor, ...]:
        """Return one array `[n]` per score name: log probabilities, or values."""
        assert isinstance(score, Tensor)
        return (score,)

    def served(self, column: Tensor) -> Tensor:
        """Return a column in the form that the graph gives `[n]`: a probability, or a value."""
        return torch.exp(column) if self.in_logs else column

    def score_labels(self, label: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the label that each score is measured against, one `[n]` per name."""
        return (label,)

    def described_labels(self, label: str) -> tuple[str, ...]:
        """Return the label of each score in words, one per name, for the manifest."""
        return (label,)

    @classmethod
    @abstractmethod
    def summary(cls, metrics: Mapping[str, Any]) -> str:
        """Return the metrics as the end of a line for the terminal."""

    @classmethod
    @abstractmethod
    def headline(cls, metrics: Mapping[str, Any]) -> tuple[str, float | None] | None:
        """Return the name and value of the metric at the top of the report; None if there is none."""

    @classmethod
    @abstractmethod
    def report_row(cls, name: str, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Return the output's row in the table of its kind: cells by column title."""

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> str | dict[str, Any]:
        """A kind without options is written by its name only."""
        fields: dict[str, Any] = handler(self)
        return self.type if set(fields) == {"type"} else fields


class Cell(str):
    """A table's cell: its text, and the interval of its figure, which may be empty."""

    __slots__ = ("interval",)

    interval: str

    def __new__(cls, text: str, interval: str = "") -> "Cell":
        cell = super().__new__(cls, text)
        cell.interval = interval
        return cell


def figure(value: float | None, absent: str = "–") -> str:
    """Format a number of a report; None becomes `absent`."""
    return absent if value is None else f"{value:.4f}"


def measured(metrics: Mapping[str, Any], name: str) -> Cell:
    """Return a metric of an output with its interval, if it has one."""
    value = metrics.get(name)
    interval = (metrics.get("intervals") or {}).get(name)
    ends = "" if interval is None else f"{figure(interval[0])} to {figure(interval[1])}"
    return Cell(figure(value["value"] if isinstance(value, Mapping) else value), ends)


def in_terminal(value: float | None) -> str:
    """Format a number for a line of the terminal, with the same width if it is None."""
    return figure(value, "   -  ")


def rows_by_name(scores: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Place the scores of one task side by side: `[n, W]`."""
    return np.stack([scores[name] for name in names], axis=1)
