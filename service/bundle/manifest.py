"""Defines the manifest, which describes a model bundle. The service knows nothing else about a model."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from features import FeatureSchema
from features.layouts import ROW_INPUTS, Layouts, graph_inputs
from features.table_names import TableNames

FORMAT: Literal[1] = 1
# The format of a bundle whose large tensors lie beside the graph. An older service refuses it by this number.
EXTERNAL_FORMAT: Literal[2] = 2
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
REPORT_FILE = "report.html"
TABLES_FILE = "tables.bin"
BUNDLE_FILES = (GRAPH_FILE, GOLDEN_FILE, REPORT_FILE)

BundleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Width = Annotated[int, Field(ge=1)]
Reduced = Literal["int8", "float16"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(_Strict):
    """One input of the graph; its free axes are `C` (candidates) and `L` (behaviours)."""

    name: str
    dtype: Literal["int64", "float32"]
    shape: tuple[int | Literal["C", "L"], ...]


class TaskSpec(_Strict):
    """One output of the graph: a task score, float32 `[C]`.

    `kind` names one of `models/kinds`; the service reads only `probability`. `label` is the training label that the
    score estimates; `space` says for which impressions (`impression` or `click`).
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]
    label: str
    space: str


class VectorSpec(_Strict):
    """One output of the graph that is no task score, float32: `[D]` describes the user, `[C, D]` the candidates.

    It is never fused. Rules may read those of the candidates.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    shape: tuple[Width] | tuple[Literal["C"], Width]


class ExternalTensor(_Strict):
    """A tensor of the graph that lies in `tables.bin`: little-endian values from `offset` (bytes) on, in C order."""

    name: Annotated[str, Field(min_length=1)]
    dtype: Literal["float32", "int32", "int64"]
    shape: Annotated[tuple[Width, ...], Field(min_length=1)]
    offset: Annotated[int, Field(ge=0, multiple_of=64)]

    @property
    def values(self) -> int:
        """The number of values."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.values * int(self.dtype[-2:]) // 8


class LeftOut(_Strict):
    """A part that is used in training only and is not in the graph."""

    part: str
    columns: tuple[str, ...]
    note: str


class Parity(_Strict):
    """The comparison of torch and ONNX Runtime at export: the grid of sizes and the largest difference of any score.

    Differences are absolute for probabilities and relative for values beyond 1.
    """

    candidates: tuple[int, ...]
    behaviours: tuple[int, ...]
    tolerance: float
    max_abs_difference: float


class ReducedOutput(_Strict):
    """One output in both precisions.

    `loss` is the decrease of the AUC, or the relative increase of the RMSE of a value; None without labels.
    """

    measure: Literal["AUC", "RMSE"]
    float32: float | None
    reduced: float | None
    loss: float | None
    max_abs_difference: float
    mean_abs_difference: float


class Reduction(_Strict):
    """A graph in reduced precision compared with the float32 graph of the same weights.

    It states the quality on labelled impressions, each scored among `candidates`; the CPU time of one run at
    `speed_candidates` and `speed_behaviours`; and the size of the graph's file.
    """

    precision: Reduced
    part: str
    impressions: int
    candidates: int
    outputs: dict[str, ReducedOutput]
    max_loss: float
    speed_candidates: int
    speed_behaviours: int
    float32_cpu_ms: float
    cpu_ms: float
    float32_bytes: int
    graph_bytes: int


def narrowed_inputs(inputs: Sequence[TensorSpec], layouts: Layouts) -> dict[str, int]:
    """Return the widths of the inputs that read only the first columns of the schema's rows: rules alone read the
    others.
    """
    whole = graph_inputs(layouts)
    widths = {}
    for spec in inputs:
        if spec.name not in ROW_INPUTS or spec.name not in whole or len(spec.shape) != 2:
            continue
        width = spec.shape[1]
        most = whole[spec.name][1][1]
        if isinstance(width, int) and isinstance(most, int) and 0 < width < most:
            widths[spec.name] = width
    return widths


class Manifest(_Strict):
    """`manifest.json` of a bundle."""

    format: Literal[1, 2]
    name: BundleName
    version: Version
    created_at: str
    architecture: str
    composition: dict[str, str]
    feature_schema: FeatureSchema
    fingerprint: str
    inputs: tuple[TensorSpec, ...]
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    # Absent if the graph has only task scores, so that older services can read the manifest.
    outputs: Annotated[tuple[VectorSpec, ...], Field(exclude_if=lambda outputs: not outputs)] = ()
    # The tensors beside the graph, in format 2 alone.
    external: Annotated[tuple[ExternalTensor, ...], Field(exclude_if=lambda tensors: not tensors)] = ()
    left_out: tuple[LeftOut, ...] = ()
    metrics: dict[str, dict[str, Any]]
    parity: Parity
    reduction: Reduction | None = None
    # Absent if every table and column has its default name, so that older services can read the manifest.
    tables: TableNames | None = Field(default=None, exclude_if=lambda names: names is None)
    provenance: dict[str, Any]
    files: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        if self.fingerprint != self.feature_schema.fingerprint:
            raise ValueError(
                f"fingerprint {self.fingerprint} is not that of the feature schema ({self.feature_schema.fingerprint})"
            )
        if missing := set(BUNDLE_FILES) - set(self.files):
            raise ValueError(f"files: no SHA-256 for {', '.join(sorted(missing))}")
        if (self.format == EXTERNAL_FORMAT) != bool(self.external):
            raise ValueError(f"external: format {EXTERNAL_FORMAT} has tensors beside the graph, format 1 has none")
        if self.external and TABLES_FILE not in self.files:
            raise ValueError(f"files: no SHA-256 for {TABLES_FILE}")
        if len({spec.name for spec in self.inputs}) < len(self.inputs):
            raise ValueError("inputs: a name occurs twice")
        if len({tensor.name for tensor in self.external}) < len(self.external):
            raise ValueError("external: a name occurs twice")
        if len(set(self.output_names)) < len(self.output_names):
            raise ValueError(f"tasks and outputs: a name occurs twice among {', '.join(self.output_names)}")
        return self

    @property
    def label(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.tasks)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of all outputs of the graph: the task scores, then the vectors."""
        return (*self.task_names, *(output.name for output in self.outputs))

    @property
    def item_vectors(self) -> dict[str, int]:
        """The widths of the outputs with a vector per candidate, by name."""
        return {output.name: output.shape[1] for output in self.outputs if len(output.shape) == 2}

    @property
    def task_kinds(self) -> dict[str, str]:
        """The kind of each task, by the task's name."""
        return {t.name: t.kind for t in self.tasks}

    @property
    def item_numerics(self) -> tuple[str, ...]:
        """A name for each column of the input `item_numerics`: those of numeric features, and `name[0]` of vectors.

        Those that only rules read are not among them.
        """
        layouts = Layouts.of(self.feature_schema)
        width = narrowed_inputs(self.inputs, layouts).get("item_numerics")
        return layouts.item.number_names[:width]
