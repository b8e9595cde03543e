"""The kind `class`: one of k classes, trained with the softmax cross entropy; one score per class."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models import metrics as measures
from models.kinds.base import Labelled, Score, TaskKind, figure, in_terminal, measured

# Shape legend: n impressions or candidates, W classes.


class MultiClass(TaskKind):
    """The label is the number of the class, 0 to `classes` - 1.

    The task `name` gives the scores `name_0` to `name_<classes - 1>`, which sum to 1.
    """

    type: Literal["class"] = "class"
    classes: Annotated[int, Field(ge=2, le=100)]
    reported_as: ClassVar[str] = "class"
    judged_by: ClassVar[str] = "cross entropy"
    measure: ClassVar[Literal["AUC", "RMSE"]] = "AUC"
    label_rule: ClassVar[str] = "the number of a class, counted from 0,"

    @property
    def width(self) -> int:
        return self.classes

    def score(self, logit: Tensor) -> Tensor:
        """Logits `[n, W]` -> log probabilities `[n, W]`."""
        return torch.log_softmax(logit, -1)

    def loss(self, score: Score, label: Tensor) -> Tensor:
        """-log p(label)."""
        assert isinstance(score, Tensor)
        return -score.gather(-1, label.to(torch.int64).unsqueeze(-1))[..., 0]

    def metrics(self, scores: np.ndarray, labelled: Labelled) -> dict[str, Any]:
        """The cross entropy, that of predicting the classes' shares, and how often the likeliest class is the label."""
        classes = labelled.label.astype(np.int64)
        chosen = scores[np.arange(len(classes)), classes]
        figures = measures.of_choice(chosen, classes, labelled.draws)
        accuracy = float((scores.argmax(1) == classes).mean()) if len(classes) else None
        return figures | {"accuracy": accuracy}

    def allows(self, label: np.ndarray) -> np.ndarray:
        return np.isin(label, np.arange(self.classes))

    def quality(self, label: np.ndarray, score: np.ndarray) -> float | None:
        """The AUC of one class against all others."""
        return measures.auc(label, score)

    def names(self, output: str) -> tuple[str, ...]:
        return tuple(f"{output}_{i}" for i in range(self.classes))

    def columns(self, score: Score) -> tuple[Tensor, ...]:
        assert isinstance(score, Tensor)
        return score.unbind(-1)

    def score_labels(self, label: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple((label == i).astype(np.float32) for i in range(self.classes))

    def described_labels(self, label: str) -> tuple[str, ...]:
        return tuple(f"{label} = {i}" for i in range(self.classes))

    @classmethod
    def summary(cls, metrics: Mapping[str, Any]) -> str:
        of_shares = in_terminal(metrics["share_log_loss"])
        figures = f"cross entropy {in_terminal(metrics['log_loss'])}, of the shares alone {of_shares}"
        return f"{figures}, accuracy {in_terminal(metrics['accuracy'])}"

    @classmethod
    def headline(cls, metrics: Mapping[str, Any]) -> tuple[str, float | None] | None:
        return "accuracy", metrics["accuracy"]

    @classmethod
    def report_row(cls, name: str, metrics: Mapping[str, Any]) -> dict[str, str]:
        return {
            "class": name,
            "label": metrics["label"],
            "among": metrics["space"],
            "impressions": f"{metrics['impressions']:,}",
            "accuracy": figure(metrics["accuracy"]),
            "cross entropy": measured(metrics, "log_loss"),
            "mark: the classes' shares alone": figure(metrics["share_log_loss"]),
        }
