"""Owns the ranker: shared embeddings, sequence encoders, a trunk, a tower per head, and the task structures on top."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from features import Feature, FeatureSchema, RowLayout
from models.catalogue import entry_of
from models.data.encoding import Encoding, NumericStats, log1p_columns
from models.data.vocabulary import MISSING_ROW, behaviour_column_vocabularies, key_column_vocabularies
from models.encoders.din import Din
from models.encoders.dupn import Dupn
from models.encoders.pooling import Pooling
from models.encoders.view import View
from models.errors import nearest
from models.layers.gates import Gated, Gating
from models.layers.input_part import InputPart
from models.layers.linear import GroupedMlp
from models.layers.probability import LogProbability, log_loss
from models.network.calibration import Calibration
from models.network.embedding import GroupEmbedding, numerics_of, pieces_of, runs_of
from models.network.position_bias import PositionTower
from models.recipe.recipe import (
    ClassPreferenceTask,
    DinEncoder,
    DupnEncoder,
    EmbeddingSection,
    Esm2Task,
    EsmmTask,
    IndependentTask,
    MmoeTrunk,
    NfwfmTrunk,
    OmoeTrunk,
    PleTrunk,
    PoolingEncoder,
    RankWeightsTask,
    Recipe,
    RecipeError,
    SeparateTrunk,
    SharedBottomTrunk,
    Task,
    Youtube2019Trunk,
)
from models.recipe.recipe import Encoder as EncoderSection
from models.recipe.recipe import Trunk as TrunkSection
from models.recipe.selection import selection_of
from models.structures.base import Output, TaskStructure
from models.structures.chain import Chain
from models.structures.class_preference import ClassPreference
from models.structures.esm2 import Esm2
from models.structures.esmm import Esmm
from models.structures.independent import Independent
from models.structures.rank_weights import RankWeights
from models.structures.representation import Candidates, OfRepresentation
from models.trunks.mmoe import Mmoe
from models.trunks.nfwfm import Nfwfm
from models.trunks.omoe import Omoe
from models.trunks.ple import Ple
from models.trunks.separate import Separate
from models.trunks.shared_bottom import SharedBottom
from models.trunks.youtube2019 import Youtube2019

Batch = Mapping[str, Tensor]
Encoder = Din | Pooling | Dupn
Trunk = Separate | SharedBottom | Omoe | Mmoe | Ple | Youtube2019 | Nfwfm

# Shape legend: B impressions or candidates, L behaviours, G a group's width, H heads, X a hidden width.


def build_model(recipe: Recipe, encoding: Encoding, cross_values: int = 0) -> "MultiTaskModel":
    """An untrained ranker for a recipe. `cross_values`: how many distinct values the position is crossed with.

    Raises RecipeError where tasks, heads and architecture do not fit together.
    """
    structures = _structures(recipe)
    position = PositionTower(recipe.position, cross_values) if recipe.position else None
    ranker = MultiTaskModel(recipe, encoding, structures, position)
    if recipe.position and recipe.position.head not in ranker.heads:
        raise RecipeError(
            f"position.head: '{recipe.position.head}' is not a head{nearest(recipe.position.head, ranker.heads)}"
        )
    for name in recipe.calibration.negative_sampling if recipe.calibration else ():
        if name not in (factors := [f.name for f in ranker.factors]):
            raise RecipeError(
                f"calibration.negative_sampling: '{name}' is no factor of a score{nearest(name, factors)}"
            )
    outputs = [o.name for o in ranker.outputs]
    trained = [o.name for o in ranker.outputs if o.trained]
    training = recipe.training
    weighted = {
        "training.loss_weights": training.loss_weights,
        "training.weighting.decay": getattr(training.weighting, "decay", {}),
    }
    named = weighted | {
        "training.select_on": [selection_of(entry).output for entry in training.select_on],
        "extra_evaluations": [e.score for e in recipe.extra_evaluations],
    }
    for section, names in named.items():
        for name in names:
            if name not in outputs:
                raise RecipeError(f"{section}: '{name}' is not an output{nearest(name, outputs)}")
            if section in weighted and name not in trained:
                raise RecipeError(f"{section}: '{name}' has no loss of its own; those with one: {', '.join(trained)}")
    return ranker


def _structures(recipe: Recipe) -> list[TaskStructure]:
    entry = entry_of(recipe.model)
    for task in recipe.tasks:
        if task.type not in entry.tasks:
            raise RecipeError(
                f"tasks: '{task.type}' does not go with architecture '{entry.name}'; it takes: {', '.join(entry.tasks)}"
            )
    structures = [build_structure(task, recipe.features) for task in recipe.tasks]
    names = [o.name for s in structures for o in s.outputs]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"tasks: two of them have the output '{name}'; outputs are unique")
    return structures


def build_structure(task: Task, schema: FeatureSchema) -> TaskStructure:
    """The task structure of a recipe's task. Raises RecipeError where it names a feature that cannot serve it."""
    match task:
        case IndependentTask():
            return Independent(task)
        case EsmmTask():
            return Esmm(task)
        case Esm2Task():
            return Esm2(task)
        case RankWeightsTask():
            return RankWeights(task, schema)
        case ClassPreferenceTask():
            return ClassPreference(task, schema)


class Inputs(nn.Module):
    """Embeds the groups of a batch with one shared table."""

    target_keys: Tensor
    target_numerics: Tensor

    def __init__(self, section: EmbeddingSection, encoding: Encoding) -> None:
        super().__init__()
        schema = encoding.schema
        self.unknown_rate = section.unknown_rate
        self.table = nn.Embedding(encoding.vocabulary.n_rows, section.dim, padding_idx=MISSING_ROW)
        nn.init.normal_(self.table.weight, std=0.05)
        with torch.no_grad():
            self.table.weight[MISSING_ROW].zero_()
        self.groups = nn.ModuleDict()
        for name in ("user", "context", "item"):
            features = schema.group(name)
            if features:
                rows = [encoding.vocabulary.unknown_rows[v] for v in key_column_vocabularies(features)]
                stats = encoding.numerics[name]
                self.groups[name] = GroupEmbedding(features, rows, stats, log1p_columns(schema, name), section.dim)
        self.behaviour_item: GroupEmbedding | None = None
        self.behaviour_property: GroupEmbedding | None = None
        if schema.behaviour is not None:
            self._build_behaviours(schema, section, encoding)

    def _build_behaviours(self, schema: FeatureSchema, section: EmbeddingSection, encoding: Encoding) -> None:
        rows = [encoding.vocabulary.unknown_rows[v] for v in behaviour_column_vocabularies(schema)]
        features = schema.behaviour_item_features
        stats = encoding.numerics["behaviour"]
        log1p = log1p_columns(schema, "behaviour")
        n = numerics_of(features)
        item_stats = NumericStats(stats.mean[:n], stats.deviation[:n], stats.edges[:n])
        age_stats = NumericStats(stats.mean[n:], stats.deviation[n:], stats.edges[n:])
        self.behaviour_item = GroupEmbedding(features, rows[:-2], item_stats, log1p[:n], section.dim)
        self.behaviour_property = GroupEmbedding((), rows[-2:], age_stats, log1p[n:], section.dim, extra_columns=2)
        keys, numerics = _columns_of(schema.item, features)
        self.register_buffer("target_keys", torch.tensor(keys), persistent=False)
        self.register_buffer("target_numerics", torch.tensor(numerics), persistent=False)
        of_item = pieces_of(schema.item)
        wanted = pieces_of(features)
        self.target_runs = runs_of(
            [
                column
                for name in wanted
                for column in range(of_item.index(name) * section.dim, (of_item.index(name) + 1) * section.dim)
            ]
        )

    def part(self, name: str) -> InputPart:
        """What the vector of a group that the schema has is made of."""
        group = self.groups[name]
        assert isinstance(group, GroupEmbedding)
        numerics = 0 if group.numerics is None else len(group.numerics.missing)
        binned = 0 if group.bins is None else len(group.bins.columns)
        return InputPart(group.width, name == "item", self.table.embedding_dim, group.keys.pieces, numerics, binned)

    def group(self, name: str, batch: Batch) -> Tensor:
        """`[B or 1, G]` of `user`, `context` or `item`, where the schema has it."""
        return self.groups[name](batch[f"{name}_rows"], batch.get(f"{name}_numerics"), self.table, self.unknown_rate)

    def candidates(self, batch: Batch) -> Candidates:
        """The candidates' numerics, raw and scaled."""
        group = self.groups["item"]
        assert isinstance(group, GroupEmbedding)
        assert group.numerics is not None
        return Candidates(batch["item_numerics"], group.numerics(batch["item_numerics"]))

    def behaviours(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The item part then the property part (action, scene, age) `[B or 1, L, I + P]`, and the mask of real ones `[B or 1, L]`."""
        assert self.behaviour_item is not None
        assert self.behaviour_property is not None
        rows = batch["behaviour_rows"]
        times = batch["behaviour_times"]
        age_s = ((batch["request_time"].unsqueeze(-1) - times).clamp(min=0) / 1000.0).to(torch.float32)
        age_s = torch.where(times > 0, age_s, torch.nan).unsqueeze(-1)
        items = self.behaviour_item(rows[..., :-2], batch.get("behaviour_numerics"), self.table, self.unknown_rate)
        properties = self.behaviour_property(rows[..., -2:], age_s, self.table, self.unknown_rate)
        return torch.cat([items, properties], -1), rows.amax(
            -1
        ) > MISSING_ROW  # rows are never negative, and a behaviour has key columns

    def target(self, batch: Batch, item: Tensor) -> Tensor:
        """The candidate seen as a behaviour's item part `[B, I]`: same features, same table, same order.

        In a graph the embeddings are cut out of the candidate's own vector `item` `[B, G]`; training hides ids in each of the two by itself.
        """
        assert self.behaviour_item is not None
        numerics = batch["item_numerics"][..., self.target_numerics] if len(self.target_numerics) else None
        if torch.compiler.is_exporting():
            return self.behaviour_item.beside([item[..., run] for run in self.target_runs], numerics, 0.0)
        return self.behaviour_item(batch["item_rows"][..., self.target_keys], numerics, self.table, self.unknown_rate)


def _columns_of(item: Sequence[Feature], wanted: Sequence[Feature]) -> tuple[list[int], list[int]]:
    """Key and numeric columns of the wanted features in an item row, in the order they are wanted."""
    layout = RowLayout(item)
    keys = [
        c
        for f in wanted
        if f.name in layout.key_columns
        for c in range(*layout.key_columns[f.name].indices(layout.key_width))
    ]
    numerics = [layout.numeric_columns[f.name] for f in wanted if f.name in layout.numeric_columns]
    return keys, numerics


def build_encoder(
    section: EncoderSection, item_width: int, property_width: int, user_width: int, context_width: int
) -> Encoder:
    """The encoder of a recipe's section over behaviours, a user and a context of these widths (0: there is none)."""
    match section:
        case PoolingEncoder():
            return Pooling(item_width, property_width)
        case DinEncoder():
            return Din(item_width, property_width, section.hidden, section.activation, section.softmax)
        case DupnEncoder():
            hidden = section.hidden
            user_hidden = section.user_hidden
            return Dupn(
                item_width, property_width, user_width, context_width, hidden, user_hidden, section.attention_hidden
            )


def build_trunk(section: TrunkSection, parts: Sequence[InputPart], heads: Sequence[str], dropout: float) -> Trunk:
    """The trunk of a recipe's section over these parts."""
    in_widths = [part.width for part in parts]
    match section:
        case SeparateTrunk():
            return Separate(in_widths, heads, section.hidden, dropout)
        case SharedBottomTrunk():
            return SharedBottom(in_widths, heads, section.hidden, dropout)
        case OmoeTrunk():
            return Omoe(in_widths, heads, section.experts, section.expert_hidden, dropout)
        case MmoeTrunk():
            return Mmoe(in_widths, heads, section.experts, section.expert_hidden, dropout, section.expert_dropout)
        case PleTrunk():
            hidden = section.expert_hidden
            own = section.own_experts
            shared = section.shared_experts
            return Ple(in_widths, heads, section.levels, own, shared, hidden, dropout)
        case Youtube2019Trunk():
            hidden = section.expert_hidden
            experts = section.experts
            return Youtube2019(in_widths, heads, section.shared_width, experts, hidden, dropout, section.expert_dropout)
        case NfwfmTrunk():
            return Nfwfm(parts, section.hidden, dropout)


class MultiTaskModel(nn.Module):
    """`forward(batch)` gives every output by name; the composition is encoders, trunk, towers, task structures."""

    def __init__(
        self, recipe: Recipe, encoding: Encoding, structures: list[TaskStructure], position: PositionTower | None
    ) -> None:
        super().__init__()
        entry = entry_of(recipe.model)
        model = recipe.model
        self.structures = structures
        self.heads: tuple[str, ...] = tuple(h for s in structures for h in s.heads)
        self.outputs: tuple[Output, ...] = tuple(o for s in structures for o in s.outputs)
        self.inputs = Inputs(model.embedding, encoding)
        self.encoders = nn.ModuleList(self._build_encoders(model.encoders or (entry.encoder,)))
        parts = [
            *(self.inputs.part(name) for name in self.inputs.groups),
            *(self._part_of(encoder) for encoder in self.encoders),
        ]
        self.trunk = build_trunk(model.trunk or entry.trunk, parts, self.heads, model.dropout)
        self.towers = GroupedMlp(
            len(self.heads), (self.trunk.out_width, *model.tower_hidden, 1), model.dropout, last_linear=True
        )
        self.of_representation = nn.ModuleDict()
        for structure in structures:
            if isinstance(structure, OfRepresentation):
                self.of_representation[structure.outputs[0].name] = structure.network(
                    self._representation_width(), model.tower_hidden
                )
        self.position = position
        of_chains = (f for s in structures for f in (s.factors if isinstance(s, Chain) else s.outputs))
        self.factors: tuple[Output, ...] = tuple(f for f in of_chains if f.kind == "probability")
        self.calibration = (
            Calibration(recipe.calibration, [f.name for f in self.factors]) if recipe.calibration else None
        )
        self.composition = {
            "encoders": ", ".join(type(encoder).__name__.lower() for encoder in self.encoders) or "none",
            "trunk": type(self.trunk).__name__.lower(),
            "structures": ", ".join(task.type for task in recipe.tasks),
        }

    def _build_encoders(self, sections: Sequence[EncoderSection]) -> list[Encoder]:
        item = self.inputs.behaviour_item
        property_ = self.inputs.behaviour_property
        if item is None or property_ is None:
            return []
        of_user, of_context = (
            self.inputs.part(name).width if name in self.inputs.groups else 0 for name in ("user", "context")
        )
        return [build_encoder(section, item.width, property_.width, of_user, of_context) for section in sections]

    def _part_of(self, encoder: nn.Module) -> InputPart:
        assert isinstance(encoder, Encoder)
        return InputPart(encoder.out_width, encoder.sees_candidate, self.inputs.table.embedding_dim)

    def _representation_width(self) -> int:
        widths = [part.width for encoder in self.encoders if not (part := self._part_of(encoder)).of_candidate]
        if not widths:
            raise RecipeError(
                "model.encoders: a task reads the user's representation, which needs behaviours and an encoder such as dupn"
            )
        return sum(widths)

    def _encoded(self, batch: Batch, groups: Mapping[str, Tensor]) -> list[Tensor]:
        if not self.encoders:
            return []
        behaviours_BLG, mask_BL = self.inputs.behaviours(batch)
        view = View(
            behaviours_BLG,
            mask_BL,
            self.inputs.target(batch, groups["item"]),
            groups.get("user"),
            groups.get("context"),
        )
        return [encoder(view) for encoder in self.encoders]

    def parts(self, batch: Batch) -> list[Tensor]:
        """What the trunk reads: the groups' vectors and the encoded behaviours, each `[B or 1, width]`."""
        groups = {name: self.inputs.group(name, batch) for name in self.inputs.groups}
        return [*groups.values(), *self._encoded(batch, groups)]

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """A logit `[B]` per head; in training the position tower shifts its head's, afterwards only by the missing position's constant."""
        parts = self.parts(batch)
        logits_HB = self.towers(self.trunk(parts)).squeeze(-1)
        logits = {head: logits_HB[i] for i, head in enumerate(self.heads)}
        if self.of_representation:
            encoded = zip(self.encoders, parts[-len(self.encoders) :], strict=True)
            representation = torch.cat([part for encoder, part in encoded if not encoder.sees_candidate], -1)
            candidates = self.inputs.candidates(batch)
            logits |= {name: network(representation, candidates) for name, network in self.of_representation.items()}
        if self.position is not None:
            shift = (
                self.position(batch["position"], batch["position_cross"])
                if self.training
                else self.position.missing_constant()
            )
            logits[self.position.head] = logits[self.position.head] + shift
        return logits

    def scores(self, batch: Batch) -> dict[str, LogProbability | Tensor]:
        """Every output as log p and log(1 - p), or as a plain value; calibrated except in training."""
        logits = self.logits(batch)
        out: dict[str, LogProbability | Tensor] = {}
        for structure in self.structures:
            if isinstance(structure, Chain):
                factors = structure.factor_scores(logits)
                out |= structure.joined({name: self._calibrated(name, p) for name, p in factors.items()})
            else:
                plain = structure.scores(logits)
                out |= {
                    name: self._calibrated(name, p) if isinstance(p, LogProbability) else p for name, p in plain.items()
                }
        return out

    def _calibrated(self, name: str, p: LogProbability) -> LogProbability:
        return p if self.calibration is None or self.training else self.calibration(name, p)

    def factor_scores(self, batch: Batch) -> dict[str, LogProbability]:
        """Every probability factor as the network gives it, before any calibration."""
        logits = self.logits(batch)
        found: dict[str, LogProbability] = {}
        for structure in self.structures:
            scores = structure.factor_scores(logits) if isinstance(structure, Chain) else structure.scores(logits)
            found |= {name: p for name, p in scores.items() if isinstance(p, LogProbability)}
        return found

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Every output `[B]` by name: log probabilities, or plain values for `value` tasks."""
        return {name: s.yes if isinstance(s, LogProbability) else s for name, s in self.scores(batch).items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Mean loss per trained output over its space, a scalar each: log loss, or squared error for a value.

        L_k = sum_i d_i loss(i) / sum_i d_i with d = 1 inside the space (PLE, RecSys 2020, equation 9).
        """
        scores = self.scores(batch)
        return {o.name: _mean_loss(scores[o.name], batch, o) for o in self.outputs if o.trained}

    def gate_means(self, batch: Batch) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]` by head; empty without gates."""
        return self.trunk.gate_means(self.parts(batch))

    def gating(self, batch: Batch) -> Gating | None:
        """The last gates and the experts below them on a batch; None without gates."""
        return self.trunk.gating(self.parts(batch)) if isinstance(self.trunk, Gated) else None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`embedding` (the tables, of which a batch touches few rows) and `dense` (all the rest)."""
        embeddings = {
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.Embedding) and not name.startswith("position")
        }
        groups: dict[str, list[nn.Parameter]] = {"embedding": [], "dense": []}
        for name, parameter in self.named_parameters():
            groups["embedding" if name.rpartition(".")[0] in embeddings else "dense"].append(parameter)
        return groups


def label_of(batch: Batch, columns: tuple[str, ...]) -> Tensor:
    """The AND of label columns, float `[B]`."""
    label = batch[f"label/{columns[0]}"]
    for column in columns[1:]:
        label = label * batch[f"label/{column}"]
    return label


def _mean_loss(score: LogProbability | Tensor, batch: Batch, output: Output) -> Tensor:
    label = label_of(batch, output.label)
    loss = log_loss(score, label) if isinstance(score, LogProbability) else (score - label) ** 2
    if output.importance:
        factors = [torch.where(batch[f"label/{column}"] > 0, factor, 0.0) for column, factor in output.importance]
        largest = torch.stack(factors).amax(0)
        loss = loss * torch.where(largest > 0, largest, 1.0)
    if not output.space:
        return loss.mean()
    inside = label_of(batch, output.space)
    return (loss * inside).sum() / inside.sum().clamp(min=1)
