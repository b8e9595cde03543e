"""Reads gradients that hold only the rows of a table that a batch reads (torch's sparse COO tensors)."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Shape legend: R rows of a table, U rows that a batch reads, D embedding width.


def in_order(gradient: Tensor) -> Tensor:
    """A sparse gradient with every row once, in ascending order: itself if it is so already, else the sum by row."""
    if gradient.is_coalesced():
        return gradient
    rows = gradient._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):
        return gradient._coalesced_(True)
    return gradient.coalesce()


def values_of(gradient: Tensor) -> Tensor:
    """The numbers of a gradient: `[U, D]` of a sparse one, which has each row once then, or the whole tensor."""
    return in_order(gradient).values() if gradient.is_sparse else gradient


def on_common_rows(gradients: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Write sparse gradients `[R, D]` of one table as dense ones over the rows that any of them has.

    Returns those rows int64 `[U]`, ascending, and the gradients `[U, D]`.
    """
    coalesced = [in_order(gradient) for gradient in gradients]
    rows = torch.cat([gradient.indices()[0] for gradient in coalesced]).unique()
    dense = []
    for gradient in coalesced:
        on_rows = gradient.values().new_zeros(len(rows), gradient.shape[1])
        on_rows[torch.searchsorted(rows, gradient.indices()[0])] = gradient.values()
        dense.append(on_rows)
    return rows, dense


def as_sparse(rows: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """The gradient of the table `like` `[R, D]` that has `values` `[U, D]` in `rows` int64 `[U]`, ascending."""
    return torch.sparse_coo_tensor(rows[None], values, like.shape, is_coalesced=True, check_invariants=False)
