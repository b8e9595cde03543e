"""The independent task: one head and one label, not part of a chain; its kind says what the head's logits mean."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from features import FeatureSchema
from models.kinds import PROBABILITY, Kind, Score, TaskKind
from models.options import Column, Name
from models.structures.base import Output, TaskOptions, TaskStructure


class IndependentOptions(TaskOptions):
    """`name` is the output, `label` its column; `space` restricts the loss to impressions where that column is 1.

    The label may be `log1p(column)` if the kind allows numbers other than 0 and 1: the task then learns and predicts
    the natural logarithm of 1 + that column, which must not be negative.
    """

    type: Literal["independent"]
    name: Name
    label: Column
    space: Column | None = None
    kind: Kind = PROBABILITY

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,) if self.space is None else (self.label, self.space)

    @property
    def label_kinds(self) -> dict[str, TaskKind]:
        return dict.fromkeys(self.labels, PROBABILITY) | {self.label: self.kind}

    def build(self, schema: FeatureSchema) -> "Independent":
        return Independent(self)


class Independent(TaskStructure):
    """The kind converts the head's logits to the output."""

    def __init__(self, options: IndependentOptions) -> None:
        self.heads = (options.name,)
        self.width = options.kind.width
        space = (options.space,) if options.space else ()
        self.outputs = (Output(options.name, options.kind, (options.label,), space=space),)

    def scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        """Logits `[n]` or `[n, width]` by head -> the output."""
        (output,) = self.outputs
        return {output.name: output.kind.score(logits[output.name])}
