"""Exchanges rows of tables: gradients go to the process that updates a row, and new rows to all other processes.

So the work on a row is done once, whatever the number of processes is.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.training.processes.ranks import Ranks
from models.training.updates.optimisation import Optimiser
from models.training.updates.sparse_gradients import as_sparse, in_order

# Shape legend: R rows of a table, U rows that a batch reads, D embedding width, P processes, T tables.


class GradientRows:
    """The rows of this process's gradients of T tables, by the process that updates them.

    `counts_PT`: how many rows each process is sent; `messages`: what each is sent, table by table, int32.
    """

    def __init__(self, tables: Sequence[Tensor], count: int) -> None:
        device = tables[0].device
        self.counts_PT = torch.zeros(count, len(tables), dtype=torch.int64, device=device)
        pieces: list[list[Tensor]] = [[] for _ in range(count)]
        for t, table in enumerate(tables):
            if table.grad is None:
                continue
            gradient = in_order(table.grad)
            rows_U = gradient.indices()[0]
            owner_U = rows_U % count
            order = owner_U.argsort(stable=True)
            self.counts_PT[:, t] = owner_U.bincount(minlength=count)
            sizes = self.counts_PT[:, t].tolist()
            rows = rows_U.index_select(0, order).split(sizes)
            values = gradient.values().index_select(0, order).split(sizes)
            for of_process, rows_of, values_of in zip(pieces, rows, values, strict=True):
                of_process.append(_packed(rows_of, values_of))
        nothing = torch.zeros(0, dtype=torch.int32, device=device)
        self.messages = [torch.cat([nothing, *of_process]) for of_process in pieces]


def add_own_rows(
    tables: Sequence[Tensor], gradients: GradientRows, counts_PPT: Tensor, anywhere: Sequence[bool], ranks: Ranks
) -> None:
    """Make the gradient of each table the sum over the processes in the rows that this process updates.

    `counts_PPT`: how many rows each process sends to each one; `anywhere`: whether a process has a gradient of the
    table; where none has, there is none.
    """
    widths = counts_PPT.new_tensor([1 + table.shape[1] for table in tables])
    sizes = (counts_PPT[:, ranks.number] * widths).sum(1).tolist()
    received = ranks.exchange(gradients.messages, sizes)
    counts_PT = counts_PPT[:, ranks.number].tolist()
    of_process = [list(_unpacked(flat, tables, counts)) for flat, counts in zip(received, counts_PT, strict=True)]
    for t, (table, some) in enumerate(zip(tables, anywhere, strict=True)):
        table.grad = _sum(table, [rows[t] for rows in of_process]) if some else None


def share_own_rows(optimiser: Optimiser, counts_PPT: Tensor, ranks: Ranks) -> None:
    """Send the rows that this process has updated to all others, and take over theirs."""
    tables = [table for table, _ in optimiser.lazy]
    touched = [rows for rows in optimiser.touched_rows() if rows is not None]
    tables = [table for table in tables if table.grad is not None]
    if not tables:
        return
    # Messages have one length, which all processes know: that of the rows of all gradients. Their numbers come first.
    most = max((counts_PPT.sum(0) * (1 + max(table.shape[1] for table in tables))).sum(1).tolist())
    message = tables[0].new_zeros(len(tables) + most, dtype=torch.int32)
    pieces = [_packed(rows, table.detach().index_select(0, rows)) for rows, table in zip(touched, tables, strict=True)]
    own = torch.cat([message.new_tensor([len(rows) for rows in touched]), *pieces])
    message[: len(own)] = own
    for number, flat in enumerate(ranks.gather(message)):
        if number == ranks.number:
            continue
        counts = flat[: len(tables)].tolist()
        for table, (rows, values) in zip(tables, _unpacked(flat[len(tables) :], tables, counts), strict=True):
            table.data.index_copy_(0, rows, values.to(table.dtype))


def _packed(rows: Tensor, values: Tensor) -> Tensor:
    """Rows int64 `[U]` and their numbers `[U, D]` as one flat tensor int32 `[U + U * D]`, bit for bit."""
    return torch.cat([rows.to(torch.int32), values.float().view(torch.int32).reshape(-1)])


def _unpacked(flat: Tensor, tables: Sequence[Tensor], counts: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each table the rows int64 `[U]` and numbers float32 `[U, D]` of `_packed`, one after the other."""
    begin = 0
    for table, count in zip(tables, counts, strict=True):
        middle = begin + count
        end = middle + count * table.shape[1]
        yield flat[begin:middle].long(), flat[middle:end].view(torch.float32).view(count, table.shape[1])
        begin = end


def _sum(table: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of sparse gradients, each in ascending rows, in the order of the processes."""
    union_U, place = torch.cat([rows for rows, _ in parts]).unique(return_inverse=True)
    total_UD = torch.zeros(len(union_U), table.shape[1], device=table.device)
    for of_part, (_, values) in zip(place.split([len(rows) for rows, _ in parts]), parts, strict=True):
        total_UD.index_add_(0, of_part, values)
    return as_sparse(union_U, total_UD.to(table.dtype), table)
