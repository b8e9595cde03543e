"""Owns the catalogue: every architecture by name, its paper, and what it is composed of unless a recipe says otherwise."""

from dataclasses import dataclass

from models.errors import nearest
from models.recipe.recipe import (
    DinEncoder,
    DupnEncoder,
    Encoder,
    MmoeTrunk,
    ModelSection,
    NfwfmTrunk,
    OmoeTrunk,
    PleTrunk,
    PoolingEncoder,
    RecipeError,
    SeparateTrunk,
    SharedBottomTrunk,
    Trunk,
    Youtube2019Trunk,
)


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
_CHAIN_OR_NOT = ("independent", "esmm", "esm2")
_MMOE = "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (KDD 2018)"
_MMOE_LINK = "https://dl.acm.org/doi/10.1145/3219819.3220007"
_PLE = "Progressive Layered Extraction (RecSys 2020)"
_PLE_LINK = "https://dl.acm.org/doi/10.1145/3383313.3412236"

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("single_task", "a network per task, embeddings shared", "", ("independent",), _POOLING, _SEPARATE),
        Entry(
            "shared_bottom",
            "Multitask Learning (Machine Learning 1997)",
            "https://link.springer.com/article/10.1023/A:1007379606734",
            _CHAIN_OR_NOT,
            _POOLING,
            SharedBottomTrunk(type="shared_bottom"),
        ),
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
        Entry("omoe", _MMOE, _MMOE_LINK, _CHAIN_OR_NOT, _POOLING, OmoeTrunk(type="omoe")),
        Entry("mmoe", _MMOE, _MMOE_LINK, _CHAIN_OR_NOT, _POOLING, MmoeTrunk(type="mmoe")),
        Entry("cgc", _PLE, _PLE_LINK, _CHAIN_OR_NOT, _POOLING, PleTrunk(type="ple", levels=1)),
        Entry("ple", _PLE, _PLE_LINK, _CHAIN_OR_NOT, _POOLING, PleTrunk(type="ple", levels=2)),
        Entry(
            "din",
            "Deep Interest Network (KDD 2018)",
            "https://arxiv.org/abs/1706.06978",
            _CHAIN_OR_NOT,
            DinEncoder(type="din"),
            _SEPARATE,
        ),
        Entry(
            "dupn",
            "Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce Tasks (KDD 2018)",
            "https://arxiv.org/abs/1805.10727",
            ("independent", "rank_weights", "class_preference"),
            DupnEncoder(type="dupn"),
            _SEPARATE,
        ),
        Entry(
            "youtube2019",
            "Recommending What Video to Watch Next: A Multitask Ranking System (RecSys 2019)",
            "https://dl.acm.org/doi/10.1145/3298689.3346997",
            _CHAIN_OR_NOT,
            _POOLING,
            Youtube2019Trunk(type="youtube2019"),
        ),
        Entry(
            "zhihu",
            "Zhihu's multi-task ranking: embeddings and first layers shared, a weighted sum of losses (2019)",
            "",
            ("independent",),
            _POOLING,
            SharedBottomTrunk(type="shared_bottom"),
        ),
        Entry(
            "nfwfm",
            "Meitu's multi-task NFwFM: Field-weighted Factorization Machines (WWW 2018) into Neural FM (SIGIR 2017)",
            "https://arxiv.org/abs/1806.03514",
            _CHAIN_OR_NOT,
            _POOLING,
            NfwfmTrunk(type="nfwfm"),
        ),
    )
}


def entry_of(model: ModelSection) -> Entry:
    """The catalogue entry a recipe names. Raises RecipeError with the known names."""
    found = CATALOGUE.get(model.architecture)
    if found is None:
        raise RecipeError(
            f"model.architecture: '{model.architecture}' is not in the catalogue{nearest(model.architecture, CATALOGUE)}"
        )
    return found
