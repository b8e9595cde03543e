"""Task kinds: what a score means, and its loss, metrics, names in the graph, report row and manifest entry."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Field

from models.kinds.base import Labelled, Score, TaskKind
from models.kinds.multiclass import MultiClass
from models.kinds.preference import Preference
from models.kinds.probability import Probability
from models.kinds.value import Value

__all__ = ["KINDS", "PROBABILITY", "Kind", "Labelled", "Score", "TaskKind", "reported_kind"]

# The kinds that a recipe can name; a new kind is one line here.
KINDS: tuple[type[TaskKind], ...] = (Probability, Value, MultiClass)
PROBABILITY = Probability()


def _with_options(value: Any) -> Any:
    """A recipe writes a kind without options by its name only."""
    return {"type": value} if isinstance(value, str) else value


if TYPE_CHECKING:
    Kind = TaskKind
else:
    Kind = Annotated[Union[KINDS], Field(discriminator="type"), BeforeValidator(_with_options)]  # noqa: UP007


def reported_kind(metrics: Mapping[str, Any]) -> type[TaskKind]:
    """Return the kind of an output from its entry in metrics.json."""
    kinds: tuple[type[TaskKind], ...] = (*KINDS, Preference)
    return next(kind for kind in kinds if kind.reported_as == metrics["kind"])
