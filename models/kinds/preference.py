"""The kind of DUPN's class preference: the probability of the candidate's own class, measured as a choice of class."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from models import metrics as measures
from models.kinds.base import Labelled, figure, in_terminal, measured
from models.kinds.probability import Probability


class Preference(Probability):
    """A `probability` in the manifest. `edges` cut the item's numeric feature in `column` into classes."""

    reported_as: ClassVar[str] = "preference"
    judged_by: ClassVar[str] = "cross entropy"
    column: int
    edges: tuple[float, ...]

    def class_of(self, numerics: np.ndarray) -> np.ndarray:
        """Raw numerics `[n, N]`, NaN for missing -> the class of each item, int64 `[n]`; 0 for a missing number."""
        values = numerics[:, self.column]
        classes = np.searchsorted(np.asarray(self.edges, np.float32), values, side="right") + 1
        return np.where(np.isnan(values), 0, classes)

    def metrics(self, scores: np.ndarray, labelled: Labelled) -> dict[str, Any]:
        return measures.of_choice(scores[:, 0], self.class_of(labelled.item_numerics), labelled.draws)

    @classmethod
    def summary(cls, metrics: Mapping[str, Any]) -> str:
        of_shares = in_terminal(metrics["share_log_loss"])
        return f"cross entropy {in_terminal(metrics['log_loss'])}, of the shares alone {of_shares}"

    @classmethod
    def headline(cls, metrics: Mapping[str, Any]) -> tuple[str, float | None] | None:
        return f"cross entropy (class shares alone {figure(metrics['share_log_loss'])})", metrics["log_loss"]

    @classmethod
    def report_row(cls, name: str, metrics: Mapping[str, Any]) -> dict[str, str]:
        return {
            "class preference": name,
            "among": metrics["label"],
            "impressions": f"{metrics['impressions']:,}",
            "cross entropy": measured(metrics, "log_loss"),
            "mark: the classes' shares alone": figure(metrics["share_log_loss"]),
        }
