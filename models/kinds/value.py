"""The kind `value`: a number such as watch time, trained with the squared error."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from models import metrics as measures
from models.kinds.base import Labelled, Score, TaskKind, in_terminal, measured


class Value(TaskKind):
    """The head's output is the score; its label is any finite number."""

    type: Literal["value"] = "value"
    reported_as: ClassVar[str] = "value"
    measure: ClassVar[Literal["AUC", "RMSE"]] = "RMSE"
    in_logs: ClassVar[bool] = False
    loss_scale: ClassVar[float] = 0.5
    judged_by: ClassVar[str] = "RMSE"
    label_rule: ClassVar[str] = "a finite number"

    def score(self, logit: Tensor) -> Tensor:
        return logit

    def loss(self, score: Score, label: Tensor) -> Tensor:
        assert isinstance(score, Tensor)
        return (score - label) ** 2

    def metrics(self, scores: np.ndarray, labelled: Labelled) -> dict[str, Any]:
        return measures.of_value(labelled.label, scores[:, 0], labelled.draws)

    def allows(self, label: np.ndarray) -> np.ndarray:
        return np.isfinite(label)

    def quality(self, label: np.ndarray, score: np.ndarray) -> float | None:
        return float(np.sqrt(((score.astype(np.float64) - label) ** 2).mean())) if len(label) else None

    def quality_loss(self, full: float, reduced: float) -> float:
        """Return the relative increase of the RMSE."""
        return (reduced - full) / max(full, 1e-12)

    @classmethod
    def summary(cls, metrics: Mapping[str, Any]) -> str:
        return f"RMSE {in_terminal(metrics['rmse'])}  MAE {in_terminal(metrics['mae'])}"

    @classmethod
    def headline(cls, metrics: Mapping[str, Any]) -> tuple[str, float | None] | None:
        return "RMSE", metrics["rmse"]

    @classmethod
    def report_row(cls, name: str, metrics: Mapping[str, Any]) -> dict[str, str]:
        errors = {"RMSE": measured(metrics, "rmse"), "MAE": measured(metrics, "mae")}
        return {"value": name, "label": metrics["label"], **errors}
