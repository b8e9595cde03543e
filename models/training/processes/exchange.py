"""Makes the losses and gradients of the parts of a batch those of the whole batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.data.batches import Batch
from models.layers.normalisation import RunningStatistics
from models.layers.position_bias import PositionTower
from models.network.model import MultiTaskModel
from models.training.processes.ranks import Ranks
from models.training.updates.optimisation import Optimiser
from models.training.updates.sparse_gradients import as_sparse, in_order
from models.trunks.star import PartitionedNorm

# Modules that change their buffers in training.
COUNTING: tuple[type[nn.Module], ...] = (RunningStatistics, PartitionedNorm, PositionTower)

# Shape legend: R rows of a table, U rows that a batch reads, D embedding width, P processes, K losses, T tables.


def seed_step(seed: int, step: int, ranks: Ranks) -> None:
    """Seed the random numbers of a step, so that a run that continues draws what the uninterrupted one draws.

    Processes must not hide the same places of their parts, so each has numbers of its own.
    """
    _seed(seed, step, ranks.number)


def seed_update(seed: int, step: int, ranks: Ranks) -> None:
    """Seed the random numbers of a step's update of the weights, which is the same one in all processes.

    Tables of bfloat16 are rounded at random, and must not differ between processes.
    """
    _seed(seed, step, ranks.count)  # a number that no process has


def _seed(*numbers: int) -> None:
    drawn = np.random.SeedSequence(numbers).generate_state(1)
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


def add_gradients(model: nn.Module, optimiser: Optimiser, ranks: Ranks) -> None:
    """Replace every gradient by its sum over the processes; buffers that training changes become their mean.

    One message has all dense gradients, the buffers, and the number of rows of each sparse gradient; the rows follow.
    A parameter without a gradient in any process keeps none.
    """
    tables = [table for table, _ in optimiser.lazy]
    sparse = {id(table) for table in tables}
    dense = [p for p in optimiser.parameters if p.requires_grad and id(p) not in sparse]
    buffers = changing_buffers(model)
    # All tensors side by side: gradients, buffers, whether there is a gradient, the rows of each process.
    rows_PT = torch.zeros(ranks.count, len(tables), device=dense[0].device)
    gradients = [None if table.grad is None else in_order(table.grad) for table in tables]
    rows_PT[ranks.number] = rows_PT.new_tensor([0 if g is None else g._nnz() for g in gradients])
    has = rows_PT.new_tensor([float(p.grad is not None) for p in [*dense, *tables]])
    pieces = [_gradient(p).reshape(-1) for p in dense] + [b.reshape(-1) for b in buffers] + [has, rows_PT.reshape(-1)]
    flat = torch.cat(pieces)
    ranks.add(flat)
    # Take the sums apart.
    *added, has, rows = flat.split([piece.numel() for piece in pieces])
    anywhere = has.tolist()
    for parameter, piece, some in zip(dense, added[: len(dense)], anywhere[: len(dense)], strict=True):
        parameter.grad = piece.view_as(parameter) if some else None
    for buffer, piece in zip(buffers, added[len(dense) :], strict=True):
        buffer.copy_(piece.view_as(buffer) / ranks.count)
    sizes_PT = rows.view_as(rows_PT).long().tolist()
    for i, (table, some) in enumerate(zip(tables, anywhere[len(dense) :], strict=True)):
        table.grad = _added_rows(table, gradients[i], [sizes[i] for sizes in sizes_PT], ranks) if some else None


def changing_buffers(model: nn.Module) -> list[Tensor]:
    """The buffers that training changes: running statistics and counts."""
    return [buffer for module in model.modules() if isinstance(module, COUNTING) for buffer in module.buffers(False)]


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _added_rows(table: Tensor, gradient: Tensor | None, sizes: Sequence[int], ranks: Ranks) -> Tensor:
    """The sum of the processes' sparse gradients of a table, which have `sizes` rows each."""
    # Messages of one length: shorter ones end with zeros.
    longest = max(sizes)
    rows_U = torch.zeros(longest, dtype=torch.int64, device=table.device)
    values_UD = table.new_zeros(longest, table.shape[1])
    if gradient is not None:
        own = gradient._nnz()
        rows_U[:own] = gradient.indices()[0]
        values_UD[:own] = gradient.values()
    rows = [each[:size] for each, size in zip(ranks.gather(rows_U), sizes, strict=True)]
    values = [each[:size] for each, size in zip(ranks.gather(values_UD), sizes, strict=True)]
    # Added in the order of the processes, so that all of them get the same bits.
    union_U, place = torch.cat(rows).unique(return_inverse=True)
    total_UD = table.new_zeros(len(union_U), table.shape[1])
    for of_process, added in zip(place.split(list(sizes)), values, strict=True):
        total_UD.index_add_(0, of_process, added)
    return as_sparse(union_U, total_UD, table)
