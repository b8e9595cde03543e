"""The kind `probability`: one logit, the log loss, and metrics of ranking and calibration."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from models import metrics as measures
from models.kinds.base import Labelled, Score, TaskKind, figure, in_terminal, measured
from models.layers.probability import LogProbability, log_loss, of_logit


class Probability(TaskKind):
    """p = sigmoid(logit), trained with the log loss; its label is 0 or 1."""

    type: Literal["probability"] = "probability"
    reported_as: ClassVar[str] = "probability"
    measure: ClassVar[Literal["AUC", "RMSE"]] = "AUC"
    calibrated: ClassVar[bool] = True
    label_rule: ClassVar[str] = "0 or 1"

    def score(self, logit: Tensor) -> LogProbability:
        return of_logit(logit)

    def loss(self, score: Score, label: Tensor) -> Tensor:
        assert isinstance(score, LogProbability)
        return log_loss(score, label)

    def columns(self, score: Score) -> tuple[Tensor, ...]:
        assert isinstance(score, LogProbability)
        return (score.yes,)

    def metrics(self, scores: np.ndarray, labelled: Labelled) -> dict[str, Any]:
        return measures.of_probability(
            labelled.label, scores[:, 0], labelled.groups, labelled.cutoffs, labelled.draws, labelled.gains
        )

    def allows(self, label: np.ndarray) -> np.ndarray:
        return np.isin(label, (0, 1))

    def quality(self, label: np.ndarray, score: np.ndarray) -> float | None:
        return measures.auc(label, score)

    @classmethod
    def summary(cls, metrics: Mapping[str, Any]) -> str:
        grouped = metrics["gauc"]["value"] if metrics.get("gauc") else None
        order = f"AUC {in_terminal(metrics['auc'])}  GAUC {in_terminal(grouped)}"
        lists = f"nDCG@10 {in_terminal(metrics['ndcg@10'])}  MRR {in_terminal(metrics['mrr'])}"
        fit = f"log loss {in_terminal(metrics['log_loss'])}  ECE {in_terminal(metrics['ece'])}"
        return f"{order}  {lists}  {fit}"

    @classmethod
    def headline(cls, metrics: Mapping[str, Any]) -> tuple[str, float | None] | None:
        return "AUC", metrics["auc"]

    @classmethod
    def report_row(cls, name: str, metrics: Mapping[str, Any]) -> dict[str, str]:
        grouped = metrics.get("gauc") or {"groups": 0, "skipped": 0}
        row = {
            "output": name,
            "label": metrics["label"],
            "among": metrics["space"],
            "impressions": f"{metrics['impressions']:,}",
            "rate": figure(metrics.get("mean_label")),
            "AUC": measured(metrics, "auc"),
            "GAUC": measured(metrics, "gauc"),
            "nDCG@5": measured(metrics, "ndcg@5"),
            "nDCG@10": measured(metrics, "ndcg@10"),
            "recall@10": measured(metrics, "recall@10"),
            "MRR": measured(metrics, "mrr"),
            "users / skipped": f"{grouped['groups']:,} / {grouped['skipped']:,}",
            "log loss": measured(metrics, "log_loss"),
            "ECE": measured(metrics, "ece"),
        }
        if "gain_ndcg@10" in metrics:
            row["gain nDCG@10"] = measured(metrics, "gain_ndcg@10")
        return row
