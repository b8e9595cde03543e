"""The outputs of the graph that are no task score: the user's representation and the candidates' item vectors."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from models.errors import RecipeError

ITEM_VECTOR = "item_vector"


def vector_shapes(names: Sequence[str], representation_width: int, item_width: int) -> dict[str, tuple[int | str, ...]]:
    """The shape of each output: `[D]` for the user's representation, `[C, D]` for item vectors.

    Raises RecipeError if the model has no representation.
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    for name in names:
        if name == ITEM_VECTOR:
            shapes[name] = ("C", item_width)
            continue
        if not representation_width:
            problem = f"'{name}' needs behaviours and an encoder that does not read the candidate, such as dupn"
            raise RecipeError(f"model.outputs: {problem}", ("model", "outputs"))
        shapes[name] = (representation_width,)
    return shapes


def representation_of(encoders: Iterable[nn.Module], encoded: Sequence[Tensor]) -> Tensor:
    """The user's representation `[B or 1, D]`: what the encoders that do not read the candidate make of the
    behaviours.
    """
    parts = [part for encoder, part in zip(encoders, encoded, strict=True) if not encoder.sees_candidate]
    return torch.cat(parts, -1)


def user_item_of(encoders: Iterable[nn.Module], encoded: Sequence[Tensor]) -> Tensor | None:
    """The user x item features `[B, M]` of all encoders that compute some; None if there is no such encoder."""
    parts = [part for encoder, part in zip(encoders, encoded, strict=True) if encoder.is_user_item]
    return torch.cat(parts, -1) if parts else None


def vectors_of(
    names: Iterable[str], item: Tensor, encoders: Iterable[nn.Module], encoded: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The vectors of one request by name, from the embedded item features `[C, D]` and the results of the encoders."""
    vectors: dict[str, Tensor] = {}
    for name in names:
        vectors[name] = item if name == ITEM_VECTOR else representation_of(encoders, encoded).squeeze(0)
    return vectors
