"""Scores a logged exposure again: the rows of the log through ONNX Runtime and the fusion profile of the record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.layouts import BEHAVIOUR_INPUTS, Layouts
from features.within_request import INPUT as COMPARED
from loop.errors import LogError
from loop.join.served import graph_inputs_of
from loop.proof.records import Exposure
from service.addresses.registry_address import shown
from service.bundle.fetching import fetch
from service.bundle.loading import PER_CANDIDATE, Bundle, load_bundle
from service.bundle.registry import Target, folder_of
from service.fusion import Formula, FusionProfiles, bind
from service.fusion.profiles import Profile
from service.ranking.scoring.chunks import Scored

_LARGEST = 1000


@dataclass(frozen=True)
class ScoredAgain:
    """Task scores float32 `[tasks, k]` and ranking scores float64 `[k]`, items in the order of the record."""

    predictions: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class LoggedRequest:
    """What a record says of its request: the items and the graph's inputs, in the request's order.

    `places` int64 `[k]` are those of the record's items in this order. `compared` is the comparison of all candidates
    as it was logged, None if the version made none. A record may lack candidates: see `is_whole`.
    """

    exposure: Exposure
    item_ids: Sequence[str]
    inputs: Mapping[str, np.ndarray]
    places: np.ndarray
    compared: np.ndarray | None
    sources: Sequence[str | None] | None


def open_bundle(registry: Path, name: str, version: str, threads: int = 1) -> Bundle:
    """A published version. Raises LogError if it is not there, and BundleRejected if it cannot be loaded."""
    folder = folder_of(registry, Target(name=name, version=version))
    try:
        fetch(folder)
    except OSError as error:
        raise LogError(f"{shown(folder)}: {error.strerror}") from None
    if not folder.is_dir():
        raise LogError(f"{shown(registry)} has no bundle {name}/{version}, which ranked the request")
    return load_bundle(folder, threads, _LARGEST)


def logged_request(exposure: Exposure, layouts: Layouts) -> LoggedRequest:
    """The request of a record, whose rows have these layouts."""
    order = np.argsort(np.array(exposure["places"], dtype=np.int64), kind="stable")
    inputs = {"request_time": np.array([exposure["time_ms"]], dtype=np.int64)} | graph_inputs_of(exposure, layouts)
    compared = None
    if exposure[COMPARED]:
        compared = np.frombuffer(exposure[COMPARED], "<f4").reshape(len(order), -1)[order]
    sources = exposure.get("sources")
    return LoggedRequest(
        exposure,
        [exposure["item_ids"][place] for place in order.tolist()],
        {name: np.ascontiguousarray(v[order]) if name in PER_CANDIDATE else v for name, v in inputs.items()},
        np.argsort(order, kind="stable"),
        compared,
        sources and [sources[place] for place in order.tolist()],
    )


def score_rows(
    bundle: Bundle,
    inputs: Mapping[str, np.ndarray],
    chunk: int,
    compared: np.ndarray | None = None,
    vectors: Sequence[str] = (),
) -> Scored:
    """Score the candidates of inputs, `chunk` at once as the service does; `vectors` names outputs for the rules.

    `compared` replaces the comparison of these candidates. Raises onnxruntime's errors.
    """
    count = len(inputs["item_keys"])
    longest = bundle.layouts.max_behaviours
    limited = {name: v[:longest] if name in BEHAVIOUR_INPUTS else v for name, v in inputs.items()}
    graph_inputs = bundle.graph_inputs(limited)
    if compared is not None and COMPARED in graph_inputs:
        graph_inputs[COMPARED] = np.ascontiguousarray(compared)
    parts = [np.zeros((len(bundle.tasks), 0), dtype=np.float32)]
    of_vectors: dict[str, list[np.ndarray]] = {name: [] for name in vectors}
    for at in range(0, count, chunk):
        part = {name: v[at : at + chunk] if name in PER_CANDIDATE else v for name, v in graph_inputs.items()}
        if not vectors:
            parts.append(bundle.score(part))
            continue
        predictions, outputs = bundle.score_with(part, vectors)
        parts.append(predictions)
        for name, output in zip(vectors, outputs, strict=True):
            of_vectors[name].append(output)
    named = {name: np.concatenate(columns) for name, columns in of_vectors.items() if columns}
    return Scored(np.concatenate(parts, axis=1), 0.0, failed=False, vectors=named)


def check_rows(bundle: Bundle, layouts: Layouts, exposure: Exposure) -> None:
    """Raise LogError if a version cannot read the rows of a record.

    The version that ranked it has the same schema. Another one may transform, bin, compare or derive otherwise, and
    read fewer behaviours.
    """
    reads = bundle.layouts
    same = reads.schema == layouts.schema
    if not same and not is_own_version(exposure, bundle):
        same = reads.inputs_fingerprint == layouts.inputs_fingerprint and reads.lag_ms == layouts.lag_ms
        same = same and reads.max_behaviours <= layouts.max_behaviours
    if not same:
        raise LogError(f"{bundle.label} reads another feature schema than the request was logged with")


def scored_again(exposure: Exposure, layouts: Layouts, bundle: Bundle, formula: Formula | None = None) -> ScoredAgain:
    """Score the items of an exposure, in the request's order and in chunks as then. Raises LogError.

    A graph's last bits may depend on how many candidates it scores at once; `is_whole` says whether the record has
    all of them.
    """
    request = logged_request(exposure, layouts)
    predictions = _predicted(request, layouts, bundle)
    used = formula or formula_of(exposure, bundle)
    # The candidates in the order of the request, as the service fused them.
    scores = used.fuse(predictions, request.inputs["item_numerics"])
    return ScoredAgain(predictions[:, request.places], scores[request.places])


def task_scores(exposure: Exposure, layouts: Layouts, bundle: Bundle) -> np.ndarray:
    """The task scores alone, float32 `[tasks, k]`, as `scored_again` computes them. Raises LogError."""
    request = logged_request(exposure, layouts)
    return _predicted(request, layouts, bundle)[:, request.places]


def _predicted(request: LoggedRequest, layouts: Layouts, bundle: Bundle) -> np.ndarray:
    """Task scores float32 `[tasks, k]` in the request's order. Raises LogError."""
    check_rows(bundle, layouts, request.exposure)
    # The record may lack candidates, which the comparison of then knew.
    compared = request.compared if is_own_version(request.exposure, bundle) else None
    return score_rows(bundle, request.inputs, int(request.exposure["chunk"]), compared).predictions


def is_own_version(exposure: Exposure, bundle: Bundle) -> bool:
    """Whether a bundle is the version that ranked the request."""
    manifest = bundle.manifest
    return (manifest.name, manifest.version) == (exposure["model"], exposure["version"])


def formula_of(exposure: Exposure, bundle: Bundle) -> Formula:
    """The fusion profile of the record, bound to the model."""
    profile = Profile.model_validate_json(exposure["fusion"])
    return bound(profile, bundle)


def bound(profile: Profile, bundle: Bundle) -> Formula:
    """One profile, bound to a model. Raises FusionError."""
    fusion = bind(FusionProfiles(profiles={"default": profile}), bundle.tasks, bundle.manifest.item_numerics)
    return fusion.formulas["default"]


def is_whole(exposure: Exposure) -> bool:
    """Whether the record has every candidate of its request."""
    return len(exposure["item_ids"]) == int(exposure["requested"])


def logged_predictions(exposure: Exposure) -> np.ndarray:
    """The task scores of a record, float32 `[tasks, k]`."""
    return np.array(exposure["predictions"], dtype=np.float32).reshape(len(exposure["tasks"]), -1)
