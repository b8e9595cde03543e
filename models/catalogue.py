"""Owns the catalogue: every architecture by name, its paper, and what it is composed of unless a recipe says otherwise."""

from dataclasses import dataclass

from models.recipe import Encoder, MmoeTrunk, ModelSection, PoolingEncoder, RecipeError, SeparateTrunk, Trunk


@dataclass(frozen=True)
class Entry:
    """`tasks`: the task structures it can have; `encoder` and `trunk` are the paper's own."""

    name: str
    paper: str
    link: str
    tasks: tuple[str, ...]
    encoder: Encoder
    trunk: Trunk


_POOLING = PoolingEncoder(type="pooling")
_SEPARATE = SeparateTrunk(type="separate")

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "esmm",
            "Entire Space Multi-Task Model (SIGIR 2018)",
            "https://arxiv.org/abs/1804.07931",
            ("esmm", "independent"),
            _POOLING,
            _SEPARATE,
        ),
        Entry(
            "esm2",
            "Entire Space Multi-Task Modeling via Post-Click Behavior Decomposition (SIGIR 2020)",
            "https://arxiv.org/abs/1910.07099",
            ("esm2", "independent"),
            _POOLING,
            _SEPARATE,
        ),
        Entry(
            "mmoe",
            "Multi-gate Mixture-of-Experts (KDD 2018)",
            "https://dl.acm.org/doi/10.1145/3219819.3220007",
            ("independent", "esmm", "esm2"),
            _POOLING,
            MmoeTrunk(type="mmoe"),
        ),
    )
}


def entry_of(model: ModelSection) -> Entry:
    """The catalogue entry a recipe names. Raises RecipeError with the known names."""
    found = CATALOGUE.get(model.architecture)
    if found is None:
        raise RecipeError(f"model.architecture: '{model.architecture}' is not in the catalogue; known: {', '.join(CATALOGUE)}")
    return found
