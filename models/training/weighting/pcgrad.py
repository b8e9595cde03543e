"""PCGrad: if two tasks' gradients conflict, each loses its component along the other (NeurIPS 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.network.model import MultiTaskModel
from models.training.updates.sparse_gradients import as_sparse, on_common_rows
from models.training.weighting.base import Batch, Losses
from models.training.weighting.shared import shared_masks


class PcGrad:
    """PCGrad (Yu et al., NeurIPS 2020): if two tasks' gradients conflict, each loses its component along the other.

    This is done over the parameters that all heads share, taken as one vector; all others get the plain sum.
    """

    def __init__(self, ranker: MultiTaskModel, base: Mapping[str, float]) -> None:
        self.ranker = ranker
        self.base = base
        self.masks: dict[str, Tensor] = {}
        self.conflicts = 0
        self.pairs = 0

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None:
        if not self.masks:
            self.masks = shared_masks(self.ranker, batch)
        named = {name: p for name, p in self.ranker.named_parameters() if p.requires_grad}
        gradients = [self._gradients(self.base[task] * loss, named) for task, loss in losses.items()]
        rows = _with_common_rows(gradients, named)
        shared = [torch.cat([(g[name] * mask).flatten() for name, mask in self.masks.items()]) for g in gradients]
        projected, conflicts = without_conflicts(shared, [torch.randperm(len(shared)).tolist() for _ in shared])
        self.conflicts += conflicts
        self.pairs += len(shared) * (len(shared) - 1)
        change = torch.stack(projected).sum(0) - torch.stack(shared).sum(0)
        totals = {name: torch.stack([g[name] for g in gradients]).sum(0) for name in named}
        pieces = change.split([totals[name].numel() for name in self.masks])
        for name, piece in zip(self.masks, pieces, strict=True):
            totals[name] += piece.reshape(totals[name].shape)
        for name, parameter in named.items():
            parameter.grad = as_sparse(rows[name], totals[name], parameter) if name in rows else totals[name]

    @staticmethod
    def _gradients(loss: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        of_parameters: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        return {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(named.items(), of_parameters, strict=True)
        }

    def logged(self) -> dict[str, float]:
        """The share of the ordered pairs of tasks since the start whose gradients were in conflict."""
        return {"conflicts": self.conflicts / max(1, self.pairs)}

    def state(self) -> dict[str, Any]:
        return {"masks": dict(self.masks), "conflicts": self.conflicts, "pairs": self.pairs}

    def load(self, state: dict[str, Any]) -> None:
        self.masks = dict(state["masks"])
        self.conflicts = state["conflicts"]
        self.pairs = state["pairs"]


def _with_common_rows(gradients: Sequence[dict[str, Tensor]], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the tasks' sparse gradients of a table by dense ones over common rows; return the rows by table.

    Rows without a gradient add nothing to the products of gradients, so that the projection is the one over the table.
    """
    rows_of = {}
    for name, parameter in named.items():
        if any(g[name].is_sparse for g in gradients):
            sparse = [g[name] if g[name].is_sparse else _no_rows(parameter) for g in gradients]
            rows_of[name], dense = on_common_rows(sparse)
            for of_task, values in zip(gradients, dense, strict=True):
                of_task[name] = values
    return rows_of


def _no_rows(table: Tensor) -> Tensor:
    return as_sparse(torch.zeros(0, dtype=torch.int64, device=table.device), table.detach()[:0], table)


def without_conflicts(gradients: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> tuple[list[Tensor], int]:
    """Remove from each gradient `[n]` its conflicts with the others, in their order (algorithm 1); also count the
    conflicts.

    g_i <- g_i - (g_i . g_j) / |g_j|^2 g_j wherever g_i . g_j < 0, with the original g_j and the g_i projected so far.
    """
    squares = [float(g @ g) for g in gradients]
    out = []
    conflicts = 0
    for i, order in enumerate(orders):
        left = gradients[i]
        for j in order:
            product = float(left @ gradients[j]) if j != i else 0.0
            if product < 0 and squares[j] > 0:
                left = left - product / squares[j] * gradients[j]
                conflicts += 1
        out.append(left)
    return out, conflicts
