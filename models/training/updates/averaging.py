"""Averages the weights over the steps of training, and estimates the statistics that belong to the average."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.data.batches import Batch
from models.layers.normalisation import RunningStatistics
from models.network.model import MultiTaskModel
from models.training.updates.bfloat16 import tables_to
from models.training.updates.own_rows import ALL_ROWS, OwnRows, Whole, are_whole
from models.training.updates.row_updates import LazyRows, average_decay


class Average:
    """The exponential moving average of a model's weights, as a model; with decay 0 it is the model itself.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the first weights lose their influence soon. With
    `lazy`, the vocabulary's tables are averaged in the rows that change, and as a whole when the model is read.
    """

    def __init__(
        self,
        ranker: MultiTaskModel,
        decay: float,
        lazy: bool = False,
        own: OwnRows = ALL_ROWS,
        whole: Whole = are_whole,
    ) -> None:
        """With several processes each averages its `own` rows of the tables; the first one has the averaged model,
        and gets the rows of the others by `whole`.
        """
        self.decay = decay
        self.live = ranker
        self.has_model = bool(decay) and own.number == 0
        self.ranker = copy.deepcopy(ranker) if self.has_model else ranker
        if self.has_model:
            tables_to(self.ranker, torch.float32)  # the average moves by less than bfloat16 can tell
        self.own = own
        self.whole = whole
        self.steps = 0
        self.tables: dict[str, LazyRows] = {}
        if lazy and decay:
            self._average_rows(ranker)
        self.pairs: list[tuple[Tensor, Tensor]] = []
        if self.has_model:
            both = zip(ranker.named_parameters(), self.ranker.parameters(), strict=True)
            self.pairs = [(average, live) for (name, live), average in both if name not in self.tables]

    def before_step(self, touched: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The average of the rows that the next step changes, for each lazy table; `update` takes it."""
        before: list[Tensor | None] = []
        for table, rows in zip(self.tables.values(), touched, strict=False):
            before.append(None if rows is None else table.caught_up(rows, self.steps))
        return before

    @torch.no_grad()
    def update(self, step: int, touched: Sequence[Tensor | None] = (), before: Sequence[Tensor | None] = ()) -> None:
        """Average the weights after step `step`, counted from 0; `touched`: the rows that it changed."""
        self.steps = step + 1
        if self.pairs:
            averages, live = zip(*self.pairs, strict=True)
            torch._foreach_lerp_(averages, live, 1 - average_decay(self.decay, step))
        for table, rows, average in zip(self.tables.values(), touched, before, strict=False):
            if rows is not None and average is not None:
                table.update(rows, average, self.steps)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the averaged weights, and by table the number of averaged steps of every row.

        All processes call it at once, and the first one's result is whole.
        """
        self._collect()
        done = [self.whole(table.done, len(table.table)) for table in self.tables.values()]
        return {"weights": self.ranker.state_dict() if self.has_model else {}, "rows": done}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], rows: Sequence[Tensor], steps: int) -> None:
        """Restore the result of `state` after `steps` steps."""
        self.steps = steps
        if self.has_model:
            self.ranker.load_state_dict(weights)
        for (name, table), done in zip(self.tables.items(), rows, strict=True):
            table.done = self.own.of(done).contiguous()
            if self.own.count > 1:
                table.average.copy_(self.own.of(weights[name]))

    @torch.no_grad()
    def synchronised(self, batches: Callable[[], Iterable[Batch]] | None = None) -> MultiTaskModel:
        """Return the averaged model, ready to evaluate: counts are those of the live model, statistics are set anew.

        The live model's statistics belong to other weights, so they are estimated again on `batches` of training, as
        in stochastic weight averaging (Izmailov et al., UAI 2018); without batches they are copied.

        All processes call it at once; the first one gets the averaged model, the others get the live one.
        """
        for table in self.tables.values():
            table.catch_up_all(self.steps)
        self._collect()
        if self.has_model:
            live: dict[str, Tensor] = dict(self.live.named_buffers())
            for name, buffer in self.ranker.named_buffers():
                buffer.copy_(live[name])
            if batches is not None:
                estimate_statistics(self.ranker, batches)
        return self.ranker

    def _average_rows(self, ranker: MultiTaskModel) -> None:
        """Average the tables row by row: in place with one process, else in tensors that have the own rows alone."""
        names = {id(p): name for name, p in ranker.named_parameters()}
        for averaged, live in zip(self.ranker.inputs.tables, ranker.inputs.tables, strict=True):
            weight = live.weight.detach()
            average = averaged.weight.detach() if self.own.count == 1 else self.own.of(weight).float().clone()
            self.tables[names[id(live.weight)]] = LazyRows(average, weight, self.decay, self.own)

    @torch.no_grad()
    def _collect(self) -> None:
        """Write the rows of all processes into the averaged model of the first one."""
        if self.own.count == 1:
            return
        averaged = dict(self.ranker.named_parameters())
        for name, table in self.tables.items():
            rows = self.whole(table.average, len(table.table))
            if self.has_model:
                averaged[name].copy_(rows)


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
