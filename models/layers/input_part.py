"""Describes one part of the trunk's input: its width and the fields in it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputPart:
    """One vector of the trunk's input: `[1, width]` per request, or `[C, width]` if it is `of_candidate`.

    A group's vector has `embedded` feature embeddings of `dim` numbers, then `numerics` plain numbers, then `binned`
    embeddings of their bins. An encoder's vector has no such fields: all three are 0.
    """

    width: int
    of_candidate: bool
    dim: int
    embedded: int = 0
    numerics: int = 0
    binned: int = 0
