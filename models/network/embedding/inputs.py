"""Embeds a batch: the groups of features, the behaviours, and the candidate as a behaviour."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from features import Feature, FeatureSchema, RowLayout
from features.layouts import COUNTER_INPUT
from features.schemas.schema import COUNTER, DERIVED
from features.within_request import INPUT, WITHIN
from models.data.encoding.encoding import CANDIDATE, Encoding, NumericStats, log1p_columns
from models.data.encoding.two_hashes import rows_apart
from models.data.encoding.vocabulary import MISSING_ROW, behaviour_column_vocabularies, key_column_vocabularies
from models.encoders.base import EncoderSpec, Keys, View
from models.layers.input_part import InputPart
from models.network.embedding.compact import Lookup, compact, widened
from models.network.embedding.dense_vectors import runs_of
from models.network.embedding.groups import GroupEmbedding, numerics_of, pieces_of
from models.recipe.sections.model import EmbeddingSection
from models.structures.representation import Candidates

Batch = Mapping[str, Tensor]
ROW_GROUPS = ("user", "context", "item", CANDIDATE, DERIVED, "behaviour")

# Shape legend: B impressions or candidates, L behaviours, G width of a group, I item part of a behaviour,
# P its property part.


class RowsRead(NamedTuple):
    """The rows of a batch by group, and their lookup; the rows may be numbered anew for this batch."""

    rows: Mapping[str, Tensor]
    lookup: Lookup


class Inputs(nn.Module):
    """Embeds the feature groups of a batch with one shared table."""

    target_keys: Tensor
    target_numerics: Tensor

    def __init__(self, section: EmbeddingSection, encoding: Encoding) -> None:
        super().__init__()
        schema = encoding.schema
        self.unknown_rate = section.unknown_rate
        self.first_known_row = 1 + len(encoding.vocabulary.unknown_rows)
        self.pools = list(encoding.vocabulary.pools.values())
        self.table = nn.Embedding(encoding.vocabulary.n_rows, section.dim, padding_idx=MISSING_ROW)
        nn.init.normal_(self.table.weight, std=section.initial_std)
        with torch.no_grad():
            self.table.weight[MISSING_ROW].zero_()
        piecewise = section.numerics.encoding == "piecewise_linear"
        # The features of users, contexts, items and candidates, and what is derived from them.
        self.groups = nn.ModuleDict()
        for name in ("user", "context", "item", CANDIDATE, DERIVED):
            features = schema.group(name)
            if features:
                names = key_column_vocabularies(features)
                rows = [encoding.vocabulary.unknown_rows[v] for v in names]
                widths = [section.width_of(v) for v in names]
                stats = encoding.numerics[name]
                log1p = log1p_columns(schema, name)
                self.groups[name] = GroupEmbedding(
                    features, rows, stats, log1p, section.dim, widths, piecewise=piecewise
                )
        # Numbers that no row has: the comparison within a request, and counters.
        if WITHIN in encoding.numerics:
            stats = encoding.numerics[WITHIN]
            plain = np.zeros(len(stats.mean), dtype=bool)
            self.groups[WITHIN] = GroupEmbedding((), (), stats, plain, section.dim, piecewise=piecewise)
        if schema.counters:
            stats = encoding.numerics[COUNTER]
            log1p = log1p_columns(schema, COUNTER)
            self.groups[COUNTER] = GroupEmbedding((), (), stats, log1p, section.dim, piecewise=piecewise)
        # The behaviours, which share the table with the items.
        self.behaviour_item: GroupEmbedding | None = None
        self.behaviour_property: GroupEmbedding | None = None
        if schema.behaviour is not None:
            self._build_behaviours(schema, section, encoding, piecewise)

    def _build_behaviours(
        self, schema: FeatureSchema, section: EmbeddingSection, encoding: Encoding, piecewise: bool
    ) -> None:
        names = behaviour_column_vocabularies(schema)
        rows = [encoding.vocabulary.unknown_rows[v] for v in names]
        widths = [section.width_of(v) for v in names]
        features = schema.behaviour_item_features
        stats = encoding.numerics["behaviour"]
        log1p = log1p_columns(schema, "behaviour")
        n = numerics_of(features)
        item_stats = NumericStats(stats.mean[:n], stats.deviation[:n], stats.edges[:n])
        age_stats = NumericStats(stats.mean[n:], stats.deviation[n:], stats.edges[n:])
        self.behaviour_item = GroupEmbedding(
            features, rows[:-2], item_stats, log1p[:n], section.dim, widths[:-2], piecewise=piecewise
        )
        self.behaviour_property = GroupEmbedding(
            (), rows[-2:], age_stats, log1p[n:], section.dim, widths[-2:], extra_columns=2
        )
        self.item_id = schema.item_id_feature
        self.key_columns = RowLayout(features).key_columns
        keys, numerics = _columns_of(schema.item, features)
        self.register_buffer("target_keys", torch.tensor(keys), persistent=False)
        self.register_buffer("target_numerics", torch.tensor(numerics), persistent=False)
        item = self.groups["item"]
        assert isinstance(item, GroupEmbedding)
        pieces = pieces_of(schema.item)
        columns: list[int] = []
        for name in pieces_of(features):
            place = pieces.index(name)
            start = sum(item.keys.piece_widths[:place])
            columns += range(start, start + item.keys.piece_widths[place])
        self.target_runs = runs_of(columns)

    @property
    def tables(self) -> list[nn.Embedding]:
        """The tables of the vocabulary, whose rows the batch names."""
        return [self.table]

    def part(self, name: str) -> InputPart:
        """Describe the vector of a group that the schema has."""
        group = self.groups[name]
        assert isinstance(group, GroupEmbedding)
        dim = self.table.embedding_dim
        of_candidate = name in ("item", CANDIDATE, DERIVED, WITHIN, COUNTER)
        return InputPart(group.width, of_candidate, dim, group.keys.pieces, group.n_numerics, group.n_binned)

    def width(self, name: str) -> int:
        """The width of the vector of a group; 0 if the schema has no such group."""
        if name not in self.groups:
            return 0
        return self.part(name).width

    def reading(self, batch: Batch) -> RowsRead:
        """The rows of the batch and how to look them up, which is to be handed to the methods below."""
        rows = {name: batch[f"{name}_rows"] for name in ROW_GROUPS if f"{name}_rows" in batch}
        if not (self.table.sparse and torch.is_grad_enabled()):
            plain = self.table.weight.dtype != torch.bfloat16 and not self.pools
            return RowsRead(rows, self.table if plain else self._looked_up)
        places, lookup = compact(self.table.weight, list(rows.values()), self.first_known_row, self.pools)
        return RowsRead(dict(zip(rows, places, strict=True)), lookup)

    def _looked_up(self, rows: Tensor) -> Tensor:
        """The embeddings float32 of rows int64 `[...]`, some of which may be codes."""
        if not self.pools:
            return widened(self.table(rows))
        first, second = rows_apart(rows, self.pools)
        return widened(self.table(first)) + widened(self.table(second))

    def group(self, name: str, batch: Batch, read: RowsRead) -> Tensor:
        """`[B or 1, G]` of a feature group, of `within` or of `counter`, where the schema has it."""
        if name in (WITHIN, COUNTER):
            numbers = self.groups[name]
            assert isinstance(numbers, GroupEmbedding)
            return numbers.beside([], batch[INPUT if name == WITHIN else COUNTER_INPUT], self.unknown_rate)
        return self.groups[name](read.rows[name], batch.get(f"{name}_numerics"), read.lookup, self.unknown_rate)

    def candidates(self, batch: Batch) -> Candidates:
        """The candidates' numerics, raw and scaled."""
        group = self.groups["item"]
        assert isinstance(group, GroupEmbedding)
        assert group.numerics is not None
        raw = batch["item_numerics"]
        return Candidates(raw, group.plain.put_back(group.numerics(group.plain.of(raw))))

    @property
    def encoder_spec(self) -> EncoderSpec | None:
        """What encoders are built for, the item's id last among the keys; None without behaviours."""
        if self.behaviour_item is None or self.behaviour_property is None:
            return None
        keys = {
            name: self.key_columns[name] for name in sorted(self.key_columns, key=lambda name: name == self.item_id)
        }
        widths = (self.behaviour_item.width, self.behaviour_property.width, self.width("user"), self.width("context"))
        return EncoderSpec(*widths, keys, self.first_known_row)

    def keys(self, behaviour_rows: Tensor, item_rows: Tensor) -> Keys:
        """The rows of the behaviours' item features, those of the candidates, and those of the actions."""
        return Keys(behaviour_rows[..., :-2], item_rows[..., self.target_keys], behaviour_rows[..., -2])

    def view(self, batch: Batch, groups: Mapping[str, Tensor], read: RowsRead) -> View:
        """What the encoders read: the behaviours, the candidate in their form, the user and the context."""
        behaviours_BLG, mask_BL = self.behaviours(batch, read)
        target_BI = self.target(batch, groups["item"], read)
        keys = self.keys(read.rows["behaviour"], read.rows["item"])
        # The rows that are read may be numbered anew for the batch; actions keep their numbers.
        keys = keys._replace(actions=batch["behaviour_rows"][..., -2])
        return View(
            behaviours_BLG, mask_BL, target_BI, groups.get("user"), groups.get("context"), keys, self.ages(batch)
        )

    def ages(self, batch: Batch) -> Tensor:
        """The ages of the behaviours in seconds, `[B or 1, L]`, at least 0; NaN if the time is unknown."""
        times = batch["behaviour_times"]
        age_s = ((batch["request_time"].unsqueeze(-1) - times).clamp(min=0) / 1000.0).to(torch.float32)
        return torch.where(times > 0, age_s, torch.nan)

    def behaviours(self, batch: Batch, read: RowsRead) -> tuple[Tensor, Tensor]:
        """The behaviours `[B or 1, L, I + P]`, item part then property part (action, scene, age), and their mask.

        The mask `[B or 1, L]` is False for padding.
        """
        assert self.behaviour_item is not None
        assert self.behaviour_property is not None
        rows = read.rows["behaviour"]
        age_s = self.ages(batch).unsqueeze(-1)
        items = self.behaviour_item(rows[..., :-2], batch.get("behaviour_numerics"), read.lookup, self.unknown_rate)
        properties = self.behaviour_property(rows[..., -2:], age_s, read.lookup, self.unknown_rate)
        # Rows are never negative, and a behaviour has key columns.
        return torch.cat([items, properties], -1), rows.amax(-1) > MISSING_ROW

    def target(self, batch: Batch, item: Tensor, read: RowsRead) -> Tensor:
        """The candidate in the form of a behaviour's item part `[B, I]`: same features, same table, same order.

        In a graph the embeddings are cut out of the candidate's own vector `item` `[B, G]`. Training cannot do that,
        because it hides ids in each of the two independently.
        """
        assert self.behaviour_item is not None
        numerics = None
        if len(self.target_numerics):
            numerics = batch["item_numerics"][..., self.target_numerics]
        if torch.compiler.is_exporting():
            return self.behaviour_item.beside([item[..., run] for run in self.target_runs], numerics, 0.0)
        rows = read.rows["item"][..., self.target_keys]
        return self.behaviour_item(rows, numerics, read.lookup, self.unknown_rate)


def _columns_of(item: Sequence[Feature], chosen: Sequence[Feature]) -> tuple[list[int], list[int]]:
    """Key and numeric columns of the chosen features in an item row, in the order of `chosen`."""
    layout = RowLayout(item)
    keys: list[int] = []
    for feature in chosen:
        if feature.name in layout.key_columns:
            keys += range(*layout.key_columns[feature.name].indices(layout.key_width))
    return keys, layout.number_columns(feature.name for feature in chosen).tolist()
