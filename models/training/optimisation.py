"""Updates the weights: Adam or AdaGrad with rates by kind of parameter, schedule, decay, clipping, averaging."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.data.batches import Batch
from models.layers.activation import Dice
from models.network.model import MultiTaskModel
from models.recipe.sections.training import TrainingSection

# Prefixes of parameter names: embeddings and encoders, which a transfer reuses, and the position tower.
REPRESENTATION = ("inputs.", "encoders.")
POSITION = "position."


class Optimiser:
    """One `step` per batch applies a model's gradients.

    Adam updates all rows (a row without a gradient still moves by its momentum); AdaGrad (Duchi et al., JMLR 2011)
    updates a row only if it has a gradient. Weight decay is decoupled (Loshchilov & Hutter, ICLR 2019): w -= rate *
    decay * w. For embeddings it affects only rows that occur in the batch, so that rare ids do not decay in the many
    other batches.

    The position tower has its own rate. Its few weights are logits with a range of about 2, and Adam moves a weight by
    at most its rate per step: at the network's rate, a run would end before they are learned.
    """

    def __init__(self, ranker: MultiTaskModel, section: TrainingSection, total_steps: int) -> None:
        groups = ranker.parameter_groups()
        self.section = section
        self.total_steps = total_steps
        self.embeddings = groups["embedding"]
        dense = groups["dense"]
        self.parameters = [*self.embeddings, *dense]
        embedding_rate = section.embedding_learning_rate or section.learning_rate
        careful = section.transfer.representation_rate if section.transfer else 1.0
        self.named = dict(ranker.named_parameters())
        taken_over = {id(p) for name, p in self.named.items() if careful != 1 and name.startswith(REPRESENTATION)}
        position = {id(p) for name, p in self.named.items() if name.startswith(POSITION)}
        moved: list[dict[str, Any]] = [
            {"params": self.embeddings, "lr": embedding_rate * careful, "weight_decay": 0.0},
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

    def step(self, number: int) -> bool:
        """Apply the gradients of step `number`, counted from 0; if a gradient is not finite, change nothing and return
        False.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.section.gradient_clip or math.inf)
        if not torch.isfinite(norm):
            return False
        factor = rate_factor(self.section, number, self.total_steps)
        for group, rate in zip(self.rule.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        if self.section.embedding_weight_decay:
            self._decay_embeddings(self.base_rates[0] * factor * self.section.embedding_weight_decay)
        for group in self.rule.param_groups:
            if group.get("decoupled_decay"):
                torch._foreach_mul_(
                    [p.data for p in group["params"] if p.grad is not None], 1 - group["lr"] * group["decoupled_decay"]
                )
        self.rule.step()
        return True

    def state(self) -> dict[str, Any]:
        """The rule's name, and by the parameters' names its tensors: moments or sums, and the number of steps."""
        by_name = {name: dict(self.rule.state[p]) for name, p in self.named.items() if p in self.rule.state}
        return {"rule": self.section.optimiser, "by_name": by_name}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another run with parameters of these names and shapes; other parameters start anew."""
        for name, tensors in state["by_name"].items():
            if name in self.named:
                self.rule.state[self.named[name]] = dict(tensors)

    @torch.no_grad()
    def _decay_embeddings(self, amount: float) -> None:
        for table in self.embeddings:
            if table.grad is not None:
                touched = (table.grad != 0).any(1, keepdim=True)
                table.mul_(1 - amount * touched)


def rate_factor(section: TrainingSection, step: int, total_steps: int) -> float:
    """The factor of the learning rates at a step counted from 0: linear warm-up, then constant or half a cosine."""
    warm = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    if section.schedule == "constant":
        return warm
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total_steps))))
    return warm * (section.final_rate + (1 - section.final_rate) * cosine)


class Average:
    """The exponential moving average of a model's weights, as a model; with decay 0 it is the model itself.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the first weights lose their influence soon.
    """

    def __init__(self, ranker: MultiTaskModel, decay: float) -> None:
        self.decay = decay
        self.live = ranker
        self.ranker = copy.deepcopy(ranker) if decay else ranker

    @torch.no_grad()
    def update(self, step: int) -> None:
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.ranker.parameters()), list(self.live.parameters()), 1 - decay)

    @torch.no_grad()
    def synchronised(self, batches: Callable[[], Iterable[Batch]] | None = None) -> MultiTaskModel:
        """Return the averaged model, ready to evaluate: counts are those of the live model, statistics are set anew.

        The live model's statistics belong to other weights, so Dice's are estimated again on `batches` of training, as
        in stochastic weight averaging (Izmailov et al., UAI 2018); without batches they are copied.
        """
        if self.decay:
            live: dict[str, Tensor] = dict(self.live.named_buffers())
            for name, buffer in self.ranker.named_buffers():
                buffer.copy_(live[name])
            if batches is not None:
                estimate_statistics(self.ranker, batches)
        return self.ranker


@torch.no_grad()
def estimate_statistics(model: MultiTaskModel, batches: Callable[[], Iterable[Batch]]) -> None:
    """Set the running statistics of every Dice to their mean over some batches; nothing else in the model changes."""
    layers = [module for module in model.modules() if isinstance(module, Dice)]
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
