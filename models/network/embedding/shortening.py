"""Cuts the sequences of a batch to the behaviours that encoders with a search read, before they are embedded.

A sequence may have a thousand behaviours, of which a search reads some dozens. Embedding all of them would be most of a
training step. The order of the behaviours stays, so a search finds the same ones among them.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from models.data.encoding.vocabulary import MISSING_ROW
from models.encoders.base import Encoder, Keys

# Shape legend: B impressions, L behaviours, N behaviours that are read.


def shortened(
    batch: Mapping[str, Tensor], keys_of: Callable[[Tensor, Tensor], Keys], encoders: Sequence[Encoder]
) -> Mapping[str, Tensor]:
    """Return the batch with sequences of N behaviours, the most that any impression needs, newest first.

    `keys_of` the rows of behaviours and of items; `encoders` are all that read behaviours, none if one of them reads
    every behaviour. A batch of one user for all candidates stays as it is, as each candidate reads other behaviours.
    """
    if not encoders or batch["behaviour_rows"].shape[0] == 1:
        return batch
    rows_BLK = batch["behaviour_rows"]
    keys = keys_of(rows_BLK, batch["item_rows"])
    mask_BL = rows_BLK.amax(-1) > MISSING_ROW
    is_read_BL = torch.stack([encoder.reads(keys, mask_BL) for encoder in encoders]).any(0)
    longest = int(is_read_BL.sum(1).max()) if is_read_BL.numel() else 0
    # The places that are read come first, in their order; those of padding get rows of padding.
    places_BN = torch.argsort(~is_read_BL, dim=1, stable=True)[:, :longest]
    is_read_BN = is_read_BL.gather(1, places_BN)
    short_inputs = {"behaviour_rows": _at(rows_BLK, places_BN) * is_read_BN.unsqueeze(-1)}
    short_inputs["behaviour_times"] = batch["behaviour_times"].gather(1, places_BN)
    if "behaviour_numerics" in batch:
        short_inputs["behaviour_numerics"] = _at(batch["behaviour_numerics"], places_BN)
    return {**batch, **short_inputs}


def _at(values_BLK: Tensor, places_BN: Tensor) -> Tensor:
    """`[B, L, K]` -> `[B, N, K]`."""
    return values_BLK.gather(1, places_BN.unsqueeze(-1).expand(-1, -1, values_BLK.shape[-1]))
