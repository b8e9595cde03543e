"""Owns what a sequence encoder may look at."""

from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """One request per row, or one request (a leading axis of 1) for all candidates of `target`.

    `behaviours` `[B or 1, L, I + P]`, newest first: the item part, then the property part (action, scene, age); `mask` bool `[B or 1, L]`, False
    for padding; `target` `[B, I]`, the candidate seen as a behaviour's item part; `user` `[B or 1, U]` and `context` `[B or 1, K]`, None where
    the schema has none.
    """

    behaviours: Tensor
    mask: Tensor
    target: Tensor
    user: Tensor | None = None
    context: Tensor | None = None
