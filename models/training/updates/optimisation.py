"""Updates the weights: Adam or AdaGrad with rates by kind of parameter, schedule, decay, clipping."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.network.model import MultiTaskModel
from models.recipe.sections.training import TrainingSection
from models.training.device import moved
from models.training.updates.own_rows import ALL_ROWS, OwnRows, Whole, are_whole
from models.training.updates.row_updates import ROW_RULES, RowRule
from models.training.updates.sparse_gradients import in_order, values_of

# Prefixes of parameter names: embeddings and encoders, which a transfer reuses, and the position tower.
REPRESENTATION = ("inputs.", "encoders.")
POSITION = "position."


class Optimiser:
    """One `step` per batch applies a model's gradients.

    Adam updates all rows (a row without a gradient still moves by its momentum); AdaGrad (Duchi et al., JMLR 2011)
    updates a row only if it has a gradient. Weight decay is decoupled (Loshchilov & Hutter, ICLR 2019): w -= rate *
    decay * w. For embeddings it affects only rows that occur in the batch, so that rare ids do not decay in the many
    other batches.

    With `embedding_updates` other than `dense`, the tables of the vocabulary get gradients of the rows in the batch
    alone, and a rule of their own that updates these rows (`lazy`). The norm to clip is that of the same gradients, so
    it is the norm that dense updates have. Tables of bins are small and stay with the rule of the other weights.

    The position tower has its own rate. Its few weights are logits with a range of about 2, and Adam moves a weight by
    at most its rate per step: at the network's rate, a run would end before they are learned.
    """

    def __init__(
        self, ranker: MultiTaskModel, section: TrainingSection, total_steps: int, own: OwnRows = ALL_ROWS
    ) -> None:
        """`own`: the rows that this process updates by a lazy rule."""
        self.own = own
        groups = ranker.parameter_groups()
        self.section = section
        self.total_steps = total_steps
        self.embeddings = groups["embedding"]
        dense = groups["dense"]
        self.parameters = [*self.embeddings, *dense]
        careful = section.transfer.representation_rate if section.transfer else 1.0
        self.embedding_rate = (section.embedding_learning_rate or section.learning_rate) * careful
        self.named = dict(ranker.named_parameters())
        self.lazy = _row_rules(ranker, section, own)
        taken_over = {id(p) for name, p in self.named.items() if careful != 1 and name.startswith(REPRESENTATION)}
        position = {id(p) for name, p in self.named.items() if name.startswith(POSITION)}
        moved: list[dict[str, Any]] = [
            {
                "params": [p for p in self.embeddings if not self._is_lazy(p)],
                "lr": self.embedding_rate,
                "weight_decay": 0.0,
            },
            {
                "params": [p for p in dense if id(p) not in taken_over | position],
                "lr": section.learning_rate,
                "weight_decay": section.weight_decay,
            },
            {
                "params": [p for p in dense if id(p) in taken_over],
                "lr": section.learning_rate * careful,
                "weight_decay": section.weight_decay,
            },
            {
                "params": [p for p in dense if id(p) in position],
                "lr": section.position_learning_rate,
                "weight_decay": section.position_weight_decay,
            },
        ]
        moved = [group for group in moved if group["params"]]
        self.base_rates = tuple(group["lr"] for group in moved)
        self.rule: torch.optim.Optimizer
        if section.optimiser == "adagrad":  # torch would scale its weight_decay like a gradient
            self.rule = torch.optim.Adagrad(
                [{"params": g["params"], "lr": g["lr"], "decoupled_decay": g["weight_decay"]} for g in moved]
            )
        else:
            self.rule = torch.optim.AdamW(moved, fused=True)

    def zero_grad(self) -> None:
        """Forget the gradients of the last batch."""
        for parameter in self.parameters:
            parameter.grad = None

    def touched_rows(self) -> list[Tensor | None]:
        """For each lazy table the rows int64 `[U]` that have a gradient, ascending; None for a frozen table."""
        touched: list[Tensor | None] = []
        for table, _ in self.lazy:
            if table.grad is not None:
                table.grad = in_order(table.grad)
            touched.append(None if table.grad is None else table.grad.indices()[0])
        return touched

    def step(self, number: int, add: Callable[[Tensor], None] | None = None) -> bool:
        """Apply the gradients of step `number`, counted from 0; if a gradient is not finite, change nothing and return
        False.

        With several processes a lazy table has a gradient of the own rows alone, and `add` replaces a tensor by its sum
        over all processes.
        """
        norm = self._clip(add)
        if not torch.isfinite(norm):
            return False
        factor = rate_factor(self.section, number, self.total_steps)
        for group, rate in zip(self.rule.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        decay = self.embedding_rate * factor * self.section.embedding_weight_decay
        if decay:
            self._decay_embeddings(decay)
        for (table, rule), rows in zip(self.lazy, self.touched_rows(), strict=True):
            if rows is not None and table.grad is not None:
                rule.step(rows, table.grad.values(), self.embedding_rate * factor, decay)
        for group in self.rule.param_groups:
            if group.get("decoupled_decay"):
                torch._foreach_mul_(
                    [p.data for p in group["params"] if p.grad is not None], 1 - group["lr"] * group["decoupled_decay"]
                )
        self.rule.step()
        return True

    def state(self, whole: Whole = are_whole) -> dict[str, Any]:
        """The rule's name, and by the parameters' names its tensors: moments or sums, and the number of steps.

        All processes call it at once, and by `whole` the first one gets the rows of all.
        """
        by_name = {name: dict(self.rule.state[p]) for name, p in self.named.items() if p in self.rule.state}
        states = self.rows_state(whole)
        of_tables = {id(table): state for (table, _), state in zip(self.lazy, states, strict=True)}
        by_name |= {name: of_tables[id(p)] for name, p in self.named.items() if id(p) in of_tables}
        return {"rule": self.section.optimiser, "by_name": by_name}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another run with parameters of these names and shapes; other parameters start anew."""
        rules = {id(table): rule for table, rule in self.lazy}
        for name, tensors in state["by_name"].items():
            if name not in self.named:
                continue
            parameter = self.named[name]
            if id(parameter) in rules:
                rules[id(parameter)].state = moved(self._own(tensors), parameter.device)
            else:
                self.rule.state[parameter] = moved(tensors, parameter.device)

    def rows_state(self, whole: Whole = are_whole) -> list[dict[str, Tensor]]:
        """The state of the lazy tables' rules, for a checkpoint; `whole` as for `state`."""
        return [{name: whole(t, len(table)) for name, t in rule.state.items()} for table, rule in self.lazy]

    def load_rows(self, state: list[dict[str, Tensor]]) -> None:
        """Restore the result of `rows_state`."""
        for (table, rule), tensors in zip(self.lazy, state, strict=True):
            rule.state = moved(self._own(tensors), table.device)

    def _own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.own.of(tensor).contiguous() for name, tensor in tensors.items()}

    def _is_lazy(self, parameter: Tensor) -> bool:
        return any(table is parameter for table, _ in self.lazy)

    def _clip(self, add: Callable[[Tensor], None] | None) -> Tensor:
        """Scale the gradients down to the section's norm, and return the norm that they had."""
        largest = self.section.gradient_clip or math.inf
        if not self.lazy:
            return nn.utils.clip_grad_norm_(self.parameters, largest)
        self.touched_rows()
        gradients = [values_of(p.grad) for p in self.parameters if p.grad is not None]
        if add is None:
            norm = nn.utils.get_total_norm([gradient.float() for gradient in gradients])
        else:
            norm = self._norm_of_all(add)
        if self.section.gradient_clip:
            torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _norm_of_all(self, add: Callable[[Tensor], None]) -> Tensor:
        """The norm of the dense gradients, which all processes have, and of the rows of all processes."""
        square = self.parameters[0].new_zeros((), dtype=torch.float64)
        for table, _ in self.lazy:
            if table.grad is not None:
                square += values_of(table.grad).double().square().sum()
        add(square)
        for parameter in self.parameters:
            if parameter.grad is not None and not self._is_lazy(parameter):
                square += parameter.grad.double().square().sum()
        return square.sqrt().float()

    @torch.no_grad()
    def _decay_embeddings(self, amount: float) -> None:
        for table in self.embeddings:
            if table.grad is not None and not table.grad.is_sparse:
                touched = (table.grad != 0).any(1, keepdim=True)
                table.mul_(1 - amount * touched)


def _row_rules(ranker: MultiTaskModel, section: TrainingSection, own: OwnRows) -> list[tuple[Tensor, RowRule]]:
    """The vocabulary's tables that have sparse gradients, each with its rule; none if updates are dense."""
    if section.embedding_updates == "dense":
        return []
    for table in ranker.inputs.tables:
        table.sparse = True
    weights = [table.weight for table in ranker.inputs.tables]
    return [(weight, ROW_RULES[section.embedding_updates](weight, own)) for weight in weights]


def rate_factor(section: TrainingSection, step: int, total_steps: int) -> float:
    """The factor of the learning rates at a step counted from 0: linear warm-up, then constant or half a cosine."""
    warm = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    if section.schedule == "constant":
        return warm
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total_steps))))
    return warm * (section.final_rate + (1 - section.final_rate) * cosine)
