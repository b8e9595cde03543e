"""The catalogue: every architecture by name, with its paper and its default composition.

The unions of the recipe (`model.encoders`, `model.trunk`, `tasks`) are made from this file: a new model is its own file
and one entry here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from features.nearest import nearest
from models.encoders.base import EncoderOptions
from models.encoders.bst import BstOptions
from models.encoders.din import DinOptions
from models.encoders.dupn import DupnOptions
from models.encoders.matches import MatchesOptions
from models.encoders.pooling import PoolingOptions
from models.encoders.sim import SimOptions
from models.errors import RecipeError
from models.structures.base import TaskOptions
from models.structures.class_preference import ClassPreferenceOptions
from models.structures.conversion_steps import ConversionStepsOptions
from models.structures.cread import CreadOptions
from models.structures.d2q import D2qOptions
from models.structures.dcmt import DcmtOptions
from models.structures.escm2 import Escm2Options
from models.structures.esm2 import Esm2Options
from models.structures.esmm import EsmmOptions
from models.structures.independent import IndependentOptions
from models.structures.rank_weights import RankWeightsOptions
from models.trunks.aitm import AitmOptions
from models.trunks.base import TrunkOptions
from models.trunks.dcn_v2 import DcnV2Options
from models.trunks.gdcn import GdcnOptions
from models.trunks.home import HomeOptions
from models.trunks.mmoe import MmoeOptions
from models.trunks.nfwfm import NfwfmOptions
from models.trunks.omoe import OmoeOptions
from models.trunks.pepnet import PepnetOptions
from models.trunks.ple import PleOptions
from models.trunks.separate import SeparateOptions
from models.trunks.shared_bottom import SharedBottomOptions
from models.trunks.star import StarOptions
from models.trunks.youtube2019 import Youtube2019Options


@dataclass(frozen=True)
class Entry:
    """One architecture: `tasks` are the task structures that it supports; `encoder` and `trunk` are those of
    the paper.
    """

    name: str
    paper: str
    link: str
    tasks: tuple[str, ...]
    encoder: EncoderOptions
    trunk: TrunkOptions


_POOLING = PoolingOptions(type="pooling")
_SEPARATE = SeparateOptions(type="separate")
_CHAIN_OR_NOT = ("independent", "esmm", "esm2", "escm2", "dcmt", "d2q", "cread")
_STEPS = ("conversion_steps", *_CHAIN_OR_NOT)
_MMOE = "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (KDD 2018)"
_MMOE_LINK = "https://dl.acm.org/doi/10.1145/3219819.3220007"
_STAR = "One Model to Serve All: Star Topology Adaptive Recommender for Multi-Domain CTR Prediction (CIKM 2021)"
_BST = "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba (DLP-KDD 2019)"
_ESCM2 = "Entire Space Counterfactual Multi-Task Model for Post-Click Conversion Rate Estimation (SIGIR 2022)"
_DCN = "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems (WWW 2021)"
_DCMT = "A Direct Entire-Space Causal Multi-Task Framework for Post-Click Conversion Estimation (ICDE 2023)"
_D2Q = "Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation (KDD 2022)"
_CREAD = (
    "CREAD: A Classification-Restoration Framework with Error Adaptive Discretization for Watch Time Prediction in "
    "Video Recommender Systems (AAAI 2024)"
)
_PEPNET = "PEPNet: Parameter and Embedding Personalized Network (KDD 2023)"
_AITM = "Modeling the Sequential Dependence among Audience Multi-step Conversions, AITM (KDD 2021)"
_SIM = "Search-based User Interest Modeling with Lifelong Sequential Behavior Data, SIM (CIKM 2020)"
_GDCN = "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction, GDCN (CIKM 2023)"
_HOME = "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou (KDD 2025)"
_PLE = "Progressive Layered Extraction (RecSys 2020)"
_PLE_LINK = "https://dl.acm.org/doi/10.1145/3383313.3412236"

_ENTRIES = (
    Entry("single_task", "a network per task, embeddings shared", "", ("independent",), _POOLING, _SEPARATE),
    Entry(
        "shared_bottom",
        "Multitask Learning (Machine Learning 1997)",
        "https://link.springer.com/article/10.1023/A:1007379606734",
        _CHAIN_OR_NOT,
        _POOLING,
        SharedBottomOptions(type="shared_bottom"),
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
    Entry("escm2", _ESCM2, "https://arxiv.org/abs/2204.05125", ("escm2", "esmm", "independent"), _POOLING, _SEPARATE),
    Entry("dcmt", _DCMT, "https://arxiv.org/abs/2302.06141", ("dcmt", "esmm", "independent"), _POOLING, _SEPARATE),
    Entry("omoe", _MMOE, _MMOE_LINK, _CHAIN_OR_NOT, _POOLING, OmoeOptions(type="omoe")),
    Entry("mmoe", _MMOE, _MMOE_LINK, _CHAIN_OR_NOT, _POOLING, MmoeOptions(type="mmoe")),
    Entry("cgc", _PLE, _PLE_LINK, _CHAIN_OR_NOT, _POOLING, PleOptions(type="ple", levels=1)),
    Entry("ple", _PLE, _PLE_LINK, _CHAIN_OR_NOT, _POOLING, PleOptions(type="ple", levels=2)),
    Entry(
        "din",
        "Deep Interest Network (KDD 2018)",
        "https://arxiv.org/abs/1706.06978",
        _CHAIN_OR_NOT,
        DinOptions(type="din"),
        _SEPARATE,
    ),
    Entry(
        "dupn",
        "Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce Tasks "
        "(KDD 2018)",
        "https://arxiv.org/abs/1805.10727",
        ("independent", "rank_weights", "class_preference"),
        DupnOptions(type="dupn"),
        _SEPARATE,
    ),
    Entry(
        "youtube2019",
        "Recommending What Video to Watch Next: A Multitask Ranking System (RecSys 2019)",
        "https://dl.acm.org/doi/10.1145/3298689.3346997",
        _CHAIN_OR_NOT,
        _POOLING,
        Youtube2019Options(type="youtube2019"),
    ),
    Entry(
        "zhihu",
        "Zhihu's multi-task ranking: embeddings and first layers shared, a weighted sum of losses (2019)",
        "",
        ("independent",),
        _POOLING,
        SharedBottomOptions(type="shared_bottom"),
    ),
    Entry(
        "nfwfm",
        "Meitu's multi-task NFwFM: Field-weighted Factorization Machines (WWW 2018) into Neural FM (SIGIR 2017)",
        "https://arxiv.org/abs/1806.03514",
        _CHAIN_OR_NOT,
        _POOLING,
        NfwfmOptions(type="nfwfm"),
    ),
    Entry("star", _STAR, "https://arxiv.org/abs/2101.11427", _CHAIN_OR_NOT, _POOLING, StarOptions(type="star")),
    Entry("dcn_v2", _DCN, "https://arxiv.org/abs/2008.13535", _CHAIN_OR_NOT, _POOLING, DcnV2Options(type="dcn_v2")),
    Entry("bst", _BST, "https://arxiv.org/abs/1905.06874", _CHAIN_OR_NOT, BstOptions(type="bst"), _SEPARATE),
    Entry("d2q", _D2Q, "https://arxiv.org/abs/2206.06003", _CHAIN_OR_NOT, _POOLING, _SEPARATE),
    Entry("cread", _CREAD, "https://arxiv.org/abs/2401.07521", _CHAIN_OR_NOT, _POOLING, _SEPARATE),
    Entry("pepnet", _PEPNET, "https://arxiv.org/abs/2302.01115", _CHAIN_OR_NOT, _POOLING, PepnetOptions(type="pepnet")),
    Entry("aitm", _AITM, "https://arxiv.org/abs/2105.08489", _STEPS, _POOLING, AitmOptions(type="aitm")),
    Entry("home", _HOME, "https://arxiv.org/abs/2408.05430", _CHAIN_OR_NOT, _POOLING, HomeOptions(type="home")),
    Entry("gdcn", _GDCN, "https://arxiv.org/abs/2311.04635", _CHAIN_OR_NOT, _POOLING, GdcnOptions(type="gdcn")),
    Entry("sim", _SIM, "https://arxiv.org/abs/2006.05639", _CHAIN_OR_NOT, SimOptions(type="sim"), _SEPARATE),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def _types(options: Iterable[object]) -> tuple[type, ...]:
    """Return the classes of some options, without duplicates, in order."""
    return tuple(dict.fromkeys(map(type, options)))


ENCODERS = (*_types(entry.encoder for entry in _ENTRIES), MatchesOptions)
TRUNKS = _types(entry.trunk for entry in _ENTRIES)
STRUCTURES = (
    IndependentOptions,
    EsmmOptions,
    Esm2Options,
    Escm2Options,
    DcmtOptions,
    D2qOptions,
    CreadOptions,
    RankWeightsOptions,
    ClassPreferenceOptions,
    ConversionStepsOptions,
)

# A type checker sees the base classes. Pydantic reads the unions, and selects a member by its `type`.
if TYPE_CHECKING:
    Encoder = EncoderOptions
    Trunk = TrunkOptions
    Task = TaskOptions
else:
    Encoder = Annotated[Union[ENCODERS], Field(discriminator="type")]  # noqa: UP007
    Trunk = Annotated[Union[TRUNKS], Field(discriminator="type")]  # noqa: UP007
    Task = Annotated[Union[STRUCTURES], Field(discriminator="type")]  # noqa: UP007


def entry_of(architecture: str) -> Entry:
    """The catalogue entry that a recipe names. Raises RecipeError with the nearest known name."""
    entry = CATALOGUE.get(architecture)
    if entry is None:
        raise RecipeError(
            f"model.architecture: '{architecture}' is not in the catalogue{nearest(architecture, CATALOGUE)}",
            ("model", "architecture"),
        )
    return entry
