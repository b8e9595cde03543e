"""Reads each row of a table once per batch, so that its gradient has the rows of the batch, each once and in order."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.data.encoding.two_hashes import Pools, rows_apart
from models.data.encoding.vocabulary import MISSING_ROW

Lookup = Callable[[Tensor], Tensor]  # rows int64 `[...]` -> their embeddings `[..., D]`

# Shape legend: R rows of a table, U distinct rows of a batch, D embedding width.


def widened(embedded: Tensor) -> Tensor:
    """Embeddings in float32 if their table is bfloat16; others stay as they are."""
    return embedded.float() if embedded.dtype == torch.bfloat16 else embedded


class _ReadRows(torch.autograd.Function):
    """`table[rows]` for ascending distinct rows; the gradient of the table is sparse, with ascending rows."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, always: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = table.shape
        ctx.always = always
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        (gradient,) = gradients
        # Rows that are here always have a gradient only if the batch reads them; the missing row never trains.
        read = gradient[: ctx.always].any(1)
        read[MISSING_ROW] = False
        used = torch.cat([read.nonzero()[:, 0], torch.arange(ctx.always, len(rows), device=rows.device)])
        indices = rows.index_select(0, used)[None]
        values = gradient.index_select(0, used)
        return torch.sparse_coo_tensor(indices, values, ctx.shape, check_invariants=False), None, None


def compact(
    table: Tensor, rows: Sequence[Tensor], first: int, pools: Sequence[Pools] = ()
) -> tuple[list[Tensor], Lookup]:
    """Number the distinct rows that a batch reads, and return the batch's rows in this numbering, and its lookup.

    The `first` rows of the table, the missing one and the unknown ones, keep their numbers, since a forward pass may
    put them in place of others. torch would sum the gradients of equal rows by sorting all of them, which costs more
    than the rest of a step. With `pools`, codes are among the rows, each of which stands for the sum of two rows.
    The lookup gives float32, also of a table in bfloat16.
    """
    always = torch.arange(first, device=table.device)
    flat = torch.cat([always, *(of_group.flatten() for of_group in rows)])
    distinct, numbers = torch.unique(flat, return_inverse=True)
    read: Tensor
    if pools:
        apart = torch.stack(rows_apart(distinct, pools))
        physical, places_2U = torch.unique(apart, return_inverse=True)
        of_rows: Tensor = _ReadRows.apply(table, physical, first)  # type: ignore[no-untyped-call]
        of_rows = widened(of_rows)
        read = of_rows.index_select(0, places_2U[0]) + of_rows.index_select(0, places_2U[1])
    else:
        read = _ReadRows.apply(table, distinct, first)  # type: ignore[no-untyped-call]
        read = widened(read)
    pieces = numbers[first:].split([of_group.numel() for of_group in rows])
    places = [piece.view_as(of_group) for piece, of_group in zip(pieces, rows, strict=True)]

    def lookup(places: Tensor) -> Tensor:
        return functional.embedding(places, read, padding_idx=MISSING_ROW)

    return places, lookup
