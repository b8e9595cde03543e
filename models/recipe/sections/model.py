"""The section `model` of a recipe: the architecture, and the parts of it that the recipe replaces."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from features.schemas.counter_schema import Actions
from models.catalogue import Encoder, Trunk
from models.errors import RecipeError
from models.options import Name, Options, Rate

LEAST_BUCKETS_OF_TWO = 3  # one row in the smaller pool
INITIAL_STD: Final = 0.05


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
    the model. `hashes`: with 2, a value of such a vocabulary is the sum of two rows that two hashes choose, one of each
    half of the buckets, so that hardly any two values share both.

    `dim` is the width of an embedding, and `widths` that of a vocabulary's values, where they need less. Features that
    share a vocabulary have one width. The table keeps rows of `dim` numbers, of which the rest is neither read nor
    trained.

    `initial_std` is the standard deviation of the numbers that a value's embedding starts with. With a small one a
    value counts for little until it has been seen often (docs/ordering.md).
    """

    dim: Annotated[int, Field(ge=1, le=512)] = 16
    min_count: Annotated[int, Field(ge=1)] = 2
    unknown_rate: Rate = 0.02
    hash_buckets: Annotated[
        dict[Name, Annotated[int, Field(ge=2, le=2_000_000_000)]], Field(exclude_if=lambda value: not value)
    ] = Field(default_factory=dict)
    widths: Annotated[dict[Name, Annotated[int, Field(ge=1, le=512)]], Field(exclude_if=lambda value: not value)] = (
        Field(default_factory=dict)
    )
    hashes: Annotated[Literal[1, 2], Field(exclude_if=lambda value: value == 1)] = 1
    initial_std: Annotated[float, Field(gt=0, le=1, exclude_if=lambda value: value == INITIAL_STD)] = INITIAL_STD
    numerics: Annotated[NumericsSection, Field(exclude_if=lambda value: value == NumericsSection())] = NumericsSection()

    @property
    def hashing(self) -> dict[str, Any]:
        """What decides which rows hashed values have, without what is at its default."""
        return self.model_dump(include={"hash_buckets", "hashes"})

    def width_of(self, vocabulary: str) -> int:
        """The width of the embeddings of a vocabulary's values."""
        return self.widths.get(vocabulary, self.dim)

    @model_validator(mode="after")
    def _widths_fit_into_the_table(self) -> "EmbeddingSection":
        for name, width in self.widths.items():
            if width > self.dim:
                raise RecipeError(f"'{name}' is wider than dim, {self.dim}, the width of the table", name="widths")
        return self

    @model_validator(mode="after")
    def _two_hashes_have_buckets(self) -> "EmbeddingSection":
        if self.hashes == 2 and min(self.hash_buckets.values(), default=0) < LEAST_BUCKETS_OF_TWO:
            problem = f"2 hashes need hash_buckets of {LEAST_BUCKETS_OF_TWO} or more for a vocabulary"
            raise RecipeError(problem, name="hashes")
        return self


class DomainSection(Options):
    """The domains of a multi-domain model: values of one categorical context feature; other values have no domain."""

    feature: Annotated[str, Field(min_length=1)]
    values: Annotated[tuple[str | int, ...], Field(min_length=1, max_length=256)]


class SequenceSection(Options):
    """A sequence of its own: the newest `length` behaviours with one of these `actions`, and the `encoders` that read
    them. It is taken from the newest `features.behaviour.max_length` behaviours of all actions.
    """

    actions: Actions
    length: Annotated[int, Field(ge=1, le=1000)]
    encoders: Annotated[tuple[Encoder, ...], Field(min_length=1)]


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

    `sequences`: sequences of some actions, such as clicks, carts and purchases, by name, each with a length and
    encoders of its own (docs/sequences.md). `encoders` read the behaviours of all actions; with `sequences`, they are
    none by default.

    `trunk_groups`: the groups that the trunk reads in addition to the encoders; by default all of them.

    `batch_norm`: the places where the input of every ReLU is normalised over the batch, the `trunk` (its experts or
    layers) and the `towers`; DIN has an option of its own. It is folded into the weights for serving.

    `outputs`: vectors that the graph gives out beside the task scores. `user_representation` is what the encoders that
    do not read the candidate make of the behaviours; `item_vector` has the candidate's embedded item features.
    """

    architecture: Name
    embedding: EmbeddingSection = EmbeddingSection()
    domain: Annotated[DomainSection | None, Field(exclude_if=lambda value: value is None)] = None
    encoders: tuple[Encoder, ...] | None = None
    sequences: Annotated[dict[Name, SequenceSection], Field(max_length=16, exclude_if=lambda value: not value)] = Field(
        default_factory=dict
    )
    trunk: Trunk | None = None
    trunk_groups: Annotated[
        tuple[Literal["user", "context", "item", "candidate", "derived"], ...] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None
    user_bias: Annotated[UserBiasSection | None, Field(exclude_if=lambda value: value is None)] = None
    tower_hidden: tuple[Annotated[int, Field(ge=1)], ...] = (32,)
    dropout: Rate = 0.0
    batch_norm: Annotated[tuple[Literal["trunk", "towers"], ...], Field(exclude_if=lambda value: not value)] = ()
    outputs: Annotated[
        tuple[Literal["user_representation", "item_vector"], ...],
        Field(exclude_if=lambda value: not value),
    ] = ()
