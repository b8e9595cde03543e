"""Owns the ranker: shared embeddings, sequence encoders, a trunk, a tower per head, and the task structures on top."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from features import Feature, FeatureSchema, RowLayout
from models.catalogue import entry_of
from models.encoders.din import Din
from models.encoders.pooling import Pooling
from models.encoding import Encoding, NumericStats, log1p_columns
from models.layers.embedding import GroupEmbedding, numerics_of
from models.layers.linear import GroupedMlp
from models.layers.probability import LogProbability, log_loss
from models.position_bias import PositionTower
from models.recipe import (
    DinEncoder,
    EmbeddingSection,
    MmoeTrunk,
    OmoeTrunk,
    PleTrunk,
    PoolingEncoder,
    Recipe,
    RecipeError,
    SeparateTrunk,
    SharedBottomTrunk,
)
from models.recipe import Encoder as EncoderSection
from models.recipe import Trunk as TrunkSection
from models.refusal import nearest
from models.structures.base import Output, TaskStructure
from models.structures.esm2 import Esm2
from models.structures.esmm import Esmm
from models.structures.independent import Independent
from models.trunks.mmoe import Mmoe
from models.trunks.omoe import Omoe
from models.trunks.ple import Ple
from models.trunks.separate import Separate
from models.trunks.shared_bottom import SharedBottom
from models.vocabulary import MISSING_ROW, behaviour_column_vocabularies, key_column_vocabularies

STRUCTURES = {"independent": Independent, "esmm": Esmm, "esm2": Esm2}
Batch = Mapping[str, Tensor]
Encoder = Din | Pooling
Trunk = Separate | SharedBottom | Omoe | Mmoe | Ple

# Shape legend: B impressions or candidates, L behaviours, G a group's width, H heads, X a hidden width.


def build_ranker(recipe: Recipe, encoding: Encoding, cross_values: int = 0) -> "Ranker":
    """An untrained ranker for a recipe. `cross_values`: how many distinct values the position is crossed with.

    Raises RecipeError where tasks, heads and architecture do not fit together.
    """
    structures = _structures(recipe)
    position = PositionTower(recipe.position, cross_values) if recipe.position else None
    ranker = Ranker(recipe, encoding, structures, position)
    if recipe.position and recipe.position.head not in ranker.heads:
        raise RecipeError(f"position.head: '{recipe.position.head}' is not a head{nearest(recipe.position.head, ranker.heads)}")
    outputs, trained = [o.name for o in ranker.outputs], [o.name for o in ranker.outputs if o.trained]
    training = recipe.training
    weighted = {"training.loss_weights": training.loss_weights, "training.weighting.decay": getattr(training.weighting, "decay", {})}
    named = weighted | {"training.select_on": training.select_on, "extra_evaluations": [e.score for e in recipe.extra_evaluations]}
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
            raise RecipeError(f"tasks: '{task.type}' does not go with architecture '{entry.name}'; it takes: {', '.join(entry.tasks)}")
    structures: list[TaskStructure] = [STRUCTURES[task.type](task) for task in recipe.tasks]
    names = [o.name for s in structures for o in s.outputs]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"tasks: two of them have the output '{name}'; outputs are unique")
    return structures


class Inputs(nn.Module):
    """Embeds the groups of a batch with one shared table."""

    target_keys: Tensor
    target_numerics: Tensor

    def __init__(self, section: EmbeddingSection, encoding: Encoding) -> None:
        super().__init__()
        schema, self.unknown_rate = encoding.schema, section.unknown_rate
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
        features, stats, log1p = schema.behaviour_item_features, encoding.numerics["behaviour"], log1p_columns(schema, "behaviour")
        n = numerics_of(features)
        item_stats = NumericStats(stats.mean[:n], stats.deviation[:n], stats.edges[:n])
        age_stats = NumericStats(stats.mean[n:], stats.deviation[n:], stats.edges[n:])
        self.behaviour_item = GroupEmbedding(features, rows[:-2], item_stats, log1p[:n], section.dim)
        self.behaviour_property = GroupEmbedding((), rows[-2:], age_stats, log1p[n:], section.dim, extra_columns=2)
        keys, numerics = _columns_of(schema.item, features)
        self.register_buffer("target_keys", torch.tensor(keys), persistent=False)
        self.register_buffer("target_numerics", torch.tensor(numerics), persistent=False)

    def widths(self) -> dict[str, int]:
        """Width of each group's vector."""
        return {name: group.width for name, group in self.groups.items() if isinstance(group, GroupEmbedding)}

    def group(self, name: str, batch: Batch) -> Tensor | None:
        """`[B or 1, G]` of `user`, `context` or `item`; None if the schema has none."""
        if name not in self.groups:
            return None
        return self.groups[name](batch[f"{name}_rows"], batch.get(f"{name}_numerics"), self.table, self.unknown_rate)

    def behaviours(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The item part then the property part (action, scene, age) `[B or 1, L, I + P]`, and the mask of real ones `[B or 1, L]`."""
        assert self.behaviour_item is not None
        assert self.behaviour_property is not None
        rows, times = batch["behaviour_rows"], batch["behaviour_times"]
        age_s = ((batch["request_time"].unsqueeze(-1) - times).clamp(min=0) / 1000.0).to(torch.float32)
        age_s = torch.where(times > 0, age_s, torch.nan).unsqueeze(-1)
        items = self.behaviour_item(rows[..., :-2], batch.get("behaviour_numerics"), self.table, self.unknown_rate)
        properties = self.behaviour_property(rows[..., -2:], age_s, self.table, self.unknown_rate)
        return torch.cat([items, properties], -1), (rows != MISSING_ROW).any(-1)

    def target(self, batch: Batch) -> Tensor:
        """The candidate seen as a behaviour's item part `[B, I]`: same features, same table, same order."""
        assert self.behaviour_item is not None
        numerics = batch["item_numerics"][..., self.target_numerics] if len(self.target_numerics) else None
        return self.behaviour_item(batch["item_rows"][..., self.target_keys], numerics, self.table, self.unknown_rate)


def _columns_of(item: Sequence[Feature], wanted: Sequence[Feature]) -> tuple[list[int], list[int]]:
    """Key and numeric columns of the wanted features in an item row, in the order they are wanted."""
    layout = RowLayout(item)
    keys = [c for f in wanted if f.name in layout.key_columns for c in range(*layout.key_columns[f.name].indices(layout.key_width))]
    numerics = [layout.numeric_columns[f.name] for f in wanted if f.name in layout.numeric_columns]
    return keys, numerics


def build_encoder(section: EncoderSection, item_width: int, property_width: int) -> Encoder:
    """The encoder of a recipe's section over behaviours of these widths."""
    match section:
        case PoolingEncoder():
            return Pooling(item_width, property_width)
        case DinEncoder():
            return Din(item_width, property_width, section.hidden, section.activation, section.softmax)


def build_trunk(section: TrunkSection, in_widths: Sequence[int], heads: Sequence[str], dropout: float) -> Trunk:
    """The trunk of a recipe's section over parts of these widths."""
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
            hidden, own, shared = section.expert_hidden, section.own_experts, section.shared_experts
            return Ple(in_widths, heads, section.levels, own, shared, hidden, dropout)


class Ranker(nn.Module):
    """`forward(batch)` gives every output by name; the composition is encoders, trunk, towers, task structures."""

    def __init__(self, recipe: Recipe, encoding: Encoding, structures: list[TaskStructure], position: PositionTower | None) -> None:
        super().__init__()
        entry, model = entry_of(recipe.model), recipe.model
        self.structures = structures
        self.heads: tuple[str, ...] = tuple(h for s in structures for h in s.heads)
        self.outputs: tuple[Output, ...] = tuple(o for s in structures for o in s.outputs)
        self.inputs = Inputs(model.embedding, encoding)
        widths = self.inputs.widths()
        self.encoders = nn.ModuleList()
        if self.inputs.behaviour_item is not None and self.inputs.behaviour_property is not None:
            item_width, property_width = self.inputs.behaviour_item.width, self.inputs.behaviour_property.width
            for i, section in enumerate(model.encoders or (entry.encoder,)):
                encoder = build_encoder(section, item_width, property_width)
                self.encoders.append(encoder)
                widths[f"behaviours {i}"] = encoder.out_width
        self.trunk = build_trunk(model.trunk or entry.trunk, list(widths.values()), self.heads, model.dropout)
        self.towers = GroupedMlp(len(self.heads), (self.trunk.out_width, *model.tower_hidden, 1), model.dropout, last_linear=True)
        self.position = position
        self.composition = {
            "encoders": ", ".join(type(encoder).__name__.lower() for encoder in self.encoders) or "none",
            "trunk": type(self.trunk).__name__.lower(),
            "structures": ", ".join(task.type for task in recipe.tasks),
        }

    def parts(self, batch: Batch) -> list[Tensor]:
        """What the trunk reads: the groups' vectors and the encoded behaviours, each `[B or 1, width]`."""
        parts = [part for name in self.inputs.groups if (part := self.inputs.group(name, batch)) is not None]
        if self.encoders:
            behaviours_BLG, mask_BL = self.inputs.behaviours(batch)
            target_BI = self.inputs.target(batch)
            parts += [encoder(behaviours_BLG, mask_BL, target_BI) for encoder in self.encoders]
        return parts

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """A logit `[B]` per head; in training the position tower shifts its head's, afterwards only by the missing position's constant."""
        logits_HB = self.towers(self.trunk(self.parts(batch)))[..., 0]
        logits = {head: logits_HB[i] for i, head in enumerate(self.heads)}
        if self.position is not None:
            shift = self.position(batch["position"], batch["position_cross"]) if self.training else self.position.missing_constant()
            logits[self.position.head] = logits[self.position.head] + shift
        return logits

    def scores(self, batch: Batch) -> dict[str, LogProbability | Tensor]:
        """Every output as log p and log(1 - p), or as a plain value."""
        logits = self.logits(batch)
        out: dict[str, LogProbability | Tensor] = {}
        for structure in self.structures:
            out |= structure.scores(logits)
        return out

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

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`embedding` (the tables, of which a batch touches few rows) and `dense` (all the rest)."""
        embeddings = {name for name, module in self.named_modules() if isinstance(module, nn.Embedding) and not name.startswith("position")}
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
    if not output.space:
        return loss.mean()
    inside = label_of(batch, output.space)
    return (loss * inside).sum() / inside.sum().clamp(min=1)
