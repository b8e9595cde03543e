"""Lists the reasons for which a ranking is degraded, that is, answered although data or scores are missing."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a ranking is worse than it could be. The values are part of the API and of the metrics."""

    STORE_UNAVAILABLE = "store_unavailable"
    CORRUPT_ROWS = "corrupt_rows"
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_ITEMS = "unknown_items"
    MISSING_CONTEXT = "missing_context"
    MISSING_FEATURES = "missing_features"
    MODEL_FAILED = "model_failed"
    UNSCORED_ITEMS = "unscored_items"
    BROWNOUT = "brownout"


@dataclass(frozen=True, slots=True)
class Degradation:
    """One reason and, where it can be counted, the number of rows, items or features affected; for a brown-out, its
    step.
    """

    reason: Reason
    count: int | None = None

    def __str__(self) -> str:
        return self.reason.value if self.count is None else f"{self.reason.value}:{self.count}"


Degradations = tuple[Degradation, ...]
