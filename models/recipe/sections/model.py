"""The section `model` of a recipe: the architecture, and the parts of it that the recipe replaces."""

from typing import Annotated, Literal

from pydantic import Field

from models.catalogue import Encoder, Trunk
from models.options import Name, Options, Rate


class NumericsSection(Options):
    """The embedding of a number, in addition to its standardised value.

    `bins` applies to every numeric feature without bins of its own; 0 means none. With `encoding: bin`, a number gets
    the embedding of its quantile bin, which suits effects that jump. With `piecewise_linear`, a linear layer reads its
    position in every bin, from 0 to 1, which suits smooth effects and few rows.
    """

    encoding: Literal["bin", "piecewise_linear"] = "bin"
    bins: Annotated[int, Field(ge=0, le=1024)] = 0


class EmbeddingSection(Options):
    """`min_count`: rarer ids share the vocabulary's unknown row; `unknown_rate`: share of ids hidden in training.

    `hash_buckets`: the rows that the values of a vocabulary share, by its name, in place of a row per value. A new
    value then has a row that others have trained, and the table keeps its size. Values of one bucket are one value to
    the model.
    """

    dim: Annotated[int, Field(ge=1, le=512)] = 16
    min_count: Annotated[int, Field(ge=1)] = 2
    unknown_rate: Rate = 0.02
    hash_buckets: Annotated[
        dict[Name, Annotated[int, Field(ge=2, le=2_000_000_000)]], Field(exclude_if=lambda value: not value)
    ] = Field(default_factory=dict)
    numerics: Annotated[NumericsSection, Field(exclude_if=lambda value: value == NumericsSection())] = NumericsSection()


class DomainSection(Options):
    """The domains of a multi-domain model: values of one categorical context feature; other values have no domain."""

    feature: Annotated[str, Field(min_length=1)]
    values: Annotated[tuple[str | int, ...], Field(min_length=1, max_length=256)]


class UserBiasSection(Options):
    """A tower on the user's features and `encoders` that do not read the candidate; it adds to every logit.

    Give the behaviour sequence only to the tower (`model.encoders: []`) if the sequence shows how active a user is and
    little about the user's preferences. The tower moves all candidates of a ranking by the same amount.
    """

    hidden: Annotated[int, Field(ge=1, le=1024)] = 32
    encoders: tuple[Encoder, ...] = ()


class ModelSection(Options):
    """A catalogue entry, and the parts that the recipe replaces. If there are several encoders, all are used; `[]` uses
    none.

    `trunk_groups`: the groups that the trunk reads in addition to the encoders; by default all of them.

    `outputs`: vectors that the graph gives out beside the task scores. `user_representation` is what the encoders that
    do not read the candidate make of the behaviours; `item_vector` has the candidate's embedded item features.
    """

    architecture: Name
    embedding: EmbeddingSection = EmbeddingSection()
    domain: Annotated[DomainSection | None, Field(exclude_if=lambda value: value is None)] = None
    encoders: tuple[Encoder, ...] | None = None
    trunk: Trunk | None = None
    trunk_groups: Annotated[
        tuple[Literal["user", "context", "item", "candidate", "derived"], ...] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None
    user_bias: Annotated[UserBiasSection | None, Field(exclude_if=lambda value: value is None)] = None
    tower_hidden: tuple[Annotated[int, Field(ge=1)], ...] = (32,)
    dropout: Rate = 0.0
    outputs: Annotated[
        tuple[Literal["user_representation", "item_vector"], ...],
        Field(exclude_if=lambda value: not value),
    ] = ()
