"""Averages the weights over the steps of training, and estimates the statistics that belong to the average."""

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from models.data.batches import Batch
from models.layers.normalisation import RunningStatistics
from models.network.model import MultiTaskModel
from models.training.updates.bfloat16 import tables_to
from models.training.updates.row_updates import LazyRows, average_decay


class Average:
    """The exponential moving average of a model's weights, as a model; with decay 0 it is the model itself.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the first weights lose their influence soon. With
    `lazy`, the vocabulary's tables are averaged in the rows that change, and as a whole when the model is read.
    """

    def __init__(self, ranker: MultiTaskModel, decay: float, lazy: bool = False) -> None:
        self.decay = decay
        self.live = ranker
        self.ranker = copy.deepcopy(ranker) if decay else ranker
        if decay:
            tables_to(self.ranker, torch.float32)  # the average moves by less than bfloat16 can tell
        self.steps = 0
        pairs = zip(self.ranker.inputs.tables, ranker.inputs.tables, strict=True) if lazy and decay else ()
        self.tables = [LazyRows(mine.weight.detach(), live.weight.detach(), decay) for mine, live in pairs]
        of_tables = {id(table.weight) for table in ranker.inputs.tables} if self.tables else set()
        self.pairs = [
            (mine, live)
            for mine, live in zip(self.ranker.parameters(), ranker.parameters(), strict=True)
            if id(live) not in of_tables
        ]

    def before_step(self, touched: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The average of the rows that the next step changes, for each lazy table; `update` takes it."""
        before: list[Tensor | None] = []
        for table, rows in zip(self.tables, touched, strict=False):
            before.append(None if rows is None else table.caught_up(rows, self.steps))
        return before

    @torch.no_grad()
    def update(self, step: int, touched: Sequence[Tensor | None] = (), before: Sequence[Tensor | None] = ()) -> None:
        """Average the weights after step `step`, counted from 0; `touched`: the rows that it changed."""
        self.steps = step + 1
        if not self.decay:
            return
        mine, live = zip(*self.pairs, strict=True)
        torch._foreach_lerp_(mine, live, 1 - average_decay(self.decay, step))
        for table, rows, average in zip(self.tables, touched, before, strict=False):
            if rows is not None and average is not None:
                table.update(rows, average, self.steps)

    def rows_state(self) -> list[Tensor]:
        """The number of averaged steps of every row, by table, for a checkpoint."""
        return [table.done for table in self.tables]

    def load_rows(self, state: Sequence[Tensor], steps: int) -> None:
        """Restore the result of `rows_state` after `steps` steps."""
        self.steps = steps
        for table, done in zip(self.tables, state, strict=True):
            table.done = done

    @torch.no_grad()
    def synchronised(self, batches: Callable[[], Iterable[Batch]] | None = None) -> MultiTaskModel:
        """Return the averaged model, ready to evaluate: counts are those of the live model, statistics are set anew.

        The live model's statistics belong to other weights, so they are estimated again on `batches` of training, as
        in stochastic weight averaging (Izmailov et al., UAI 2018); without batches they are copied.
        """
        for table in self.tables:
            table.catch_up_all(self.steps)
        if self.decay:
            live: dict[str, Tensor] = dict(self.live.named_buffers())
            for name, buffer in self.ranker.named_buffers():
                buffer.copy_(live[name])
            if batches is not None:
                estimate_statistics(self.ranker, batches)
        return self.ranker


@torch.no_grad()
def estimate_statistics(model: MultiTaskModel, batches: Callable[[], Iterable[Batch]]) -> None:
    """Set the running statistics of every layer to their mean over some batches; nothing else in the model changes."""
    layers = [module for module in model.modules() if isinstance(module, RunningStatistics)]
    if not layers:
        return
    was_training = model.training
    momentum = [layer.momentum for layer in layers]
    model.eval()  # dropout and hidden ids stay off
    for layer in layers:
        layer.train()
    for seen, batch in enumerate(batches()):
        for layer in layers:
            layer.momentum = 1 / (seen + 1)
        model(batch)
    for layer, before in zip(layers, momentum, strict=True):
        layer.momentum = before
    model.train(was_training)
