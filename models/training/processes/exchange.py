"""Makes the losses and gradients of the parts of a batch those of the whole batch."""

import numpy as np
import torch
from torch import Tensor, nn

from models.data.batches import Batch
from models.layers.normalisation import RunningStatistics
from models.layers.position_bias import PositionTower
from models.network.model import MultiTaskModel
from models.training.processes.ranks import Ranks
from models.training.processes.rows import GradientRows, add_own_rows
from models.training.updates.optimisation import Optimiser
from models.trunks.star import PartitionedNorm

# Modules that change their buffers in training.
COUNTING: tuple[type[nn.Module], ...] = (RunningStatistics, PartitionedNorm, PositionTower)

# Shape legend: P processes, K losses, T tables.


def seed_step(seed: int, step: int, ranks: Ranks) -> None:
    """Seed the random numbers of a step, so that a run that continues draws what the uninterrupted one draws.

    Processes must not hide the same places of their parts, so each has numbers of its own. `seed` is that of the
    network, so that the members of an ensemble do not hide the same places either.
    """
    drawn = np.random.SeedSequence((seed, step, ranks.number)).generate_state(1)
    torch.manual_seed(int(drawn[0]))


def losses_of_part(model: MultiTaskModel, batch: Batch, ranks: Ranks) -> dict[str, Tensor]:
    """The losses of the whole batch, scalars, of which each process has a part, perhaps an empty one.

    The value of a loss is that of the whole batch. Its gradient is the part's share of it, so that the gradients of
    all processes add up: a loss is a mean over n impressions, and the means of the parts, times n of the part, divided
    by n of the batch, have that mean as their sum.
    """
    names = [output.name for output in model.objective.outputs]
    if len(batch["request_time"]):
        counts = model.objective.counts(batch)
        losses = model.losses(batch)
    else:
        # Without an impression there is no forward pass, but the process takes part in every exchange.
        weight = next(p for p in model.parameter_groups()["dense"] if p.requires_grad)
        losses = dict.fromkeys(names, weight.sum() * 0)
        counts = dict.fromkeys(names, weight.new_zeros(()))
    count_K = torch.stack([counts[name] for name in names]).double()
    value_K = torch.stack([losses[name].detach() for name in names]).double()
    sums = torch.stack([count_K * value_K, count_K])
    ranks.add(sums)
    total_K = sums[1].clamp(min=1)
    of_batch: dict[str, Tensor] = {}
    for i, name in enumerate(names):
        share = losses[name] * (count_K[i] / total_K[i]).to(losses[name].dtype)
        # The difference is 0 and has the gradient.
        of_batch[name] = (sums[0, i] / total_K[i]).to(share.dtype) + (share - share.detach())
    return of_batch


def add_gradients(model: nn.Module, optimiser: Optimiser, ranks: Ranks) -> Tensor:
    """Replace every gradient by its sum over the processes; buffers that training changes become their mean.

    A table with a lazy rule gets the gradient of the rows that this process updates. One message has all dense
    gradients, the buffers, and the numbers of rows that each process sends to each one; the rows follow. A parameter
    without a gradient in any process keeps none. Returns those numbers int64 `[P, P, T]`.
    """
    tables = [table for table, _ in optimiser.lazy]
    sparse = {id(table) for table in tables}
    dense = [p for p in optimiser.parameters if p.requires_grad and id(p) not in sparse]
    buffers = changing_buffers(model)
    # All tensors side by side: gradients, buffers, whether there is a gradient, the numbers of rows.
    counts_PPT = torch.zeros(ranks.count, ranks.count, len(tables), device=dense[0].device)
    gradients = GradientRows(tables, ranks.count) if tables else None
    if gradients:
        counts_PPT[ranks.number] = gradients.counts_PT
    has = counts_PPT.new_tensor([float(p.grad is not None) for p in [*dense, *tables]])
    pieces = [_gradient(p).reshape(-1) for p in dense] + [b.reshape(-1) for b in buffers]
    pieces += [has, counts_PPT.reshape(-1)]
    flat = torch.cat(pieces)
    ranks.add(flat)
    # Take the sums apart.
    *added, has, counts = flat.split([piece.numel() for piece in pieces])
    anywhere = [some > 0 for some in has.tolist()]
    for parameter, piece, some in zip(dense, added[: len(dense)], anywhere[: len(dense)], strict=True):
        parameter.grad = piece.view_as(parameter) if some else None
    for buffer, piece in zip(buffers, added[len(dense) :], strict=True):
        buffer.copy_(piece.view_as(buffer) / ranks.count)
    sizes_PPT = counts.view_as(counts_PPT).long()
    if gradients:
        add_own_rows(tables, gradients, sizes_PPT, anywhere[len(dense) :], ranks)
    return sizes_PPT


def changing_buffers(model: nn.Module) -> list[Tensor]:
    """The buffers that training changes: running statistics and counts."""
    return [buffer for module in model.modules() if isinstance(module, COUNTING) for buffer in module.buffers(False)]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
