"""The network of a recipe: shared embeddings, sequence encoders, a trunk, a tower per head, task structures."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from models.catalogue import entry_of
from models.data.encoding.encoding import Encoding
from models.encoders.base import Encoder, View
from models.errors import RecipeError
from models.kinds import Score
from models.layers.calibration import Calibration
from models.layers.gates import Gating
from models.layers.input_part import InputPart
from models.layers.linear import GroupedMlp
from models.layers.position_bias import PositionTower
from models.layers.probability import LogProbability
from models.network.domain import Domains
from models.network.embedding.inputs import Batch, Inputs
from models.network.embedding.shortening import shortened
from models.network.heads import by_head, factors_of, representation_networks, statistics_of
from models.network.objective import Objective
from models.network.sequences import build_encoders, described
from models.network.user_bias import UserBias, build_user_bias
from models.network.vectors import representation_of, user_item_of, vector_shapes, vectors_of
from models.network.weights import Weights
from models.recipe import Recipe
from models.structures.base import Output, TaskStructure
from models.structures.chain import Chain
from models.trunks.base import Trunk, TrunkInput, TrunkSpec

# Shape legend: B impressions or candidates, H heads, W logits per head, E experts.


class Embedded(NamedTuple):
    """The vectors of the groups by name, `[B or 1, width]`, and the input of the encoders."""

    groups: Mapping[str, Tensor]
    view: View | None


class MultiTaskModel(nn.Module):
    """`forward(batch)` gives every score by name; `outputs` are the tasks, `score_names` the names of their scores."""

    trunk: Trunk

    def __init__(
        self, recipe: Recipe, encoding: Encoding, structures: list[TaskStructure], position: PositionTower | None
    ) -> None:
        super().__init__()
        entry = entry_of(recipe.model.architecture)
        model = recipe.model
        # The scores that the model predicts.
        self.structures = structures
        self.statistics = statistics_of(structures)
        self.heads: tuple[str, ...] = tuple(head for structure in structures for head in structure.heads)
        self.outputs: tuple[Output, ...] = tuple(output for structure in structures for output in structure.outputs)
        self.score_names: tuple[str, ...] = tuple(name for output in self.outputs for name in output.score_names)
        # The order of construction is the order of the random draws; changing it would change the weights of a seed.
        self.inputs = Inputs(model.embedding, encoding)
        self.domains = Domains(model.domain, encoding) if model.domain else None
        self.encoders = nn.ModuleList(build_encoders(model, entry.encoder, self.inputs.encoder_spec, encoding))
        self.trunk_groups = tuple(
            g for g in self.inputs.groups if model.trunk_groups is None or g in model.trunk_groups
        )
        # The trunk, a tower per head, and the networks of the tasks that read the user's representation.
        trunk = model.trunk or entry.trunk
        if trunk.needs_domain and model.domain is None:
            raise RecipeError(f"model.domain: the trunk '{trunk.type}' needs the domains of the data", ("model",))
        self.trunk = trunk.build(spec := self._trunk_spec(model.dropout, "trunk" in model.batch_norm))
        self.width = max(structure.width for structure in structures)
        widths = (self.trunk.out_width, *model.tower_hidden, self.width)
        self.towers = GroupedMlp(len(self.heads), widths, model.dropout, True, "towers" in model.batch_norm)
        parts = [self._part_of(encoder) for encoder in self.encoders]
        width = sum(part.width for part in parts if not part.of_candidate)
        user_item = sum(self._part_of(encoder).width for encoder in self.encoders if encoder.is_user_item)
        self.of_representation = representation_networks(
            structures, width, model.tower_hidden, model.dropout, user_item
        )
        self.vector_shapes = vector_shapes(model.outputs, width, self.inputs.width("item"))
        # The parts that change logits, and the maps from logits to calibrated probabilities.
        self.position = position
        self.user_bias: UserBias | None = None
        if model.user_bias:
            spec_of_user = self.inputs.encoder_spec
            encoders_of_user = [e.build(spec_of_user) for e in model.user_bias.encoders] if spec_of_user else []
            logits = (len(self.heads), self.width)
            self.user_bias = build_user_bias(
                model.user_bias, self.inputs.width("user"), encoders_of_user, logits, model.dropout
            )
        self.factors = tuple(factor for structure in structures for factor in factors_of(structure))
        names = [factor.name for factor in self.factors]
        self.calibration = Calibration(recipe.calibration, names) if recipe.calibration else None
        self.composition = {
            "encoders": ", ".join(described(encoder) for encoder in self.encoders) or "none",
            "trunk": type(self.trunk).__name__.lower(),
            "structures": ", ".join(task.type for task in recipe.tasks),
        }
        readers = [*self.encoders, *(self.user_bias.encoders if self.user_bias else ())]
        self.reads_behaviours = bool(readers)
        self.searching = [] if any(encoder.reads_all for encoder in readers) else readers
        self.objective = Objective(self.outputs, recipe.training.list_losses, spec.in_widths, Weights(recipe))

    def _trunk_spec(self, dropout: float, batch_norm: bool) -> TrunkSpec:
        parts = [self.inputs.part(name) for name in self.trunk_groups]
        parts += [self._part_of(encoder) for encoder in self.encoders]
        domains = 0 if self.domains is None else len(self.domains.rows)
        return TrunkSpec(tuple(parts), self.heads, dropout, self.inputs.width("context"), domains, batch_norm)

    def _part_of(self, encoder: nn.Module) -> InputPart:
        assert isinstance(encoder, Encoder)
        return InputPart(encoder.out_width, encoder.sees_candidate, self.inputs.table.embedding_dim)

    def embedded(self, batch: Batch) -> Embedded:
        """Embed the batch: the vectors of its groups, and the input of the encoders, which is None without an
        encoder.
        """
        batch = shortened(batch, self.inputs.keys, self.searching)
        read = self.inputs.reading(batch)
        groups = {name: self.inputs.group(name, batch, read) for name in self.inputs.groups}
        if not self.reads_behaviours:
            return Embedded(groups, None)
        return Embedded(groups, self.inputs.view(batch, groups, read))

    def trunk_input(self, batch: Batch, embedded: Embedded | None = None) -> TrunkInput:
        """The trunk's input: vectors of the groups, encoded behaviours, the context, the domain."""
        groups, view = embedded or self.embedded(batch)
        domain = None if self.domains is None else self.domains(batch["context_rows"])
        parts = [groups[name] for name in self.trunk_groups]
        return TrunkInput([*parts, *(encoder(view) for encoder in self.encoders)], groups.get("context"), domain)

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """The logits of each head and of each output on the representation: `[B]`, or `[B, W]` if it has several.

        In training the position tower shifts the logits of its heads; afterwards it adds only the constants of the
        missing position.
        """
        embedded = self.embedded(batch)
        return self.logits_of(batch, embedded, self.trunk_input(batch, embedded))

    def logits_of(self, batch: Batch, embedded: Embedded, inputs: TrunkInput) -> dict[str, Tensor]:
        """The logits of a batch whose inputs are computed already."""
        # The heads on the trunk, and the user's addend.
        logits_HBW = self.towers(self.trunk(inputs))
        shift_HB = self.trunk.logit_shift(inputs)
        if shift_HB is not None:
            logits_HBW = logits_HBW + shift_HB.unsqueeze(-1)
        if self.user_bias is not None:
            logits_HBW = logits_HBW + self.user_bias(embedded.groups.get("user"), embedded.view)
        logits = by_head(logits_HBW, self.structures, batch)
        # The tasks that read the user's representation.
        if self.of_representation:
            encoded = inputs.parts[-len(self.encoders) :]
            representation = representation_of(self.encoders, encoded)
            candidates = self.inputs.candidates(batch)._replace(user_item=user_item_of(self.encoders, encoded))
            logits |= {name: network(representation, candidates) for name, network in self.of_representation.items()}
        # The position bias.
        tower = self.position
        if tower is None:
            return logits
        shifts = tower(batch["position"], batch["position_cross"]) if self.training else tower.missing_constants()
        return logits | {head: logits[head] + shift for head, shift in shifts.items()}

    def position_constants(self) -> dict[str, Tensor]:
        """The constant of the position tower in the logit of each of its heads at serving; empty without a tower."""
        return {} if self.position is None else self.position.missing_constants()

    def scores(self, batch: Batch) -> dict[str, Score]:
        """Return the score of every output, calibrated except in training; the output's kind says what it is."""
        return self._scores(self.logits(batch))

    def _scores(self, logits: Mapping[str, Tensor]) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        for structure in self.structures:
            if isinstance(structure, Chain):
                factors = structure.factor_scores(logits)
                scores |= structure.joined({name: self._calibrated(name, p) for name, p in factors.items()})
                continue
            for name, score in structure.scores(logits).items():
                scores[name] = self._calibrated(name, score) if isinstance(score, LogProbability) else score
        return scores

    def _calibrated(self, name: str, p: LogProbability) -> LogProbability:
        if self.calibration is None or self.training:
            return p
        return self.calibration(name, p)

    def factor_scores(self, batch: Batch) -> dict[str, LogProbability]:
        """Return every probability factor of the network, before calibration."""
        logits = self.logits(batch)
        factors: dict[str, LogProbability] = {}
        for structure in self.structures:
            if isinstance(structure, Chain):
                factors |= structure.factor_scores(logits)
                continue
            scores = structure.scores(logits)
            factors |= {name: p for name, p in scores.items() if isinstance(p, LogProbability)}
        return factors

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return every score `[B]` by its name: log probabilities, or values."""
        return self._columns(self.scores(batch))

    def _columns(self, scores: Mapping[str, Score]) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = {}
        for output in self.outputs:
            columns |= zip(output.score_names, output.kind.columns(scores[output.name]), strict=True)
        return columns

    def served(self, batch: Batch) -> dict[str, Tensor]:
        """Return every output of the graph for one request of C candidates, by name: each score `[C]` in the form of a
        probability or a value, then the vectors, `[D]` or `[C, D]`.
        """
        # The vectors are parts of what the scores are computed from, so that they cost the graph nothing.
        embedded = self.embedded(batch)
        inputs = self.trunk_input(batch, embedded)
        columns = self._columns(self._scores(self.logits_of(batch, embedded, inputs)))
        scores = {name: o.kind.served(columns[name]) for o in self.outputs for name in o.score_names}
        encoded = inputs.parts[len(self.trunk_groups) :]
        return scores | vectors_of(self.vector_shapes, embedded.groups["item"], self.encoders, encoded)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each trained output, a scalar each: the mean over its space, and its list loss if it has one."""
        embedded = self.embedded(batch)
        inputs = self.trunk_input(batch, embedded)
        logits = self.logits_of(batch, embedded, inputs)
        return self.objective(self._scores(logits), batch, inputs.parts, logits)

    def gate_means(self, batch: Batch) -> dict[str, Tensor]:
        """Mean gate value per expert `[E]` by head; empty without gates."""
        return self.trunk.gate_means(self.trunk_input(batch))

    def gating(self, batch: Batch) -> Gating | None:
        """The last gates and the outputs of the experts below them for a batch; None without gates."""
        return self.trunk.gating(self.trunk_input(batch))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """`embedding` (the tables, of which a batch touches few rows) and `dense` (all other weights)."""
        embeddings = {
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.Embedding) and "position" not in name.split(".")
        }
        groups: dict[str, list[nn.Parameter]] = {"embedding": [], "dense": []}
        for name, parameter in self.named_parameters():
            groups["embedding" if name.rpartition(".")[0] in embeddings else "dense"].append(parameter)
        return groups
