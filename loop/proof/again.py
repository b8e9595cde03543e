"""Scores a logged exposure again: the rows of the log through ONNX Runtime and the fusion profile of the record."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.layouts import Layouts
from features.within_request import INPUT as COMPARED
from loop.errors import LogError
from loop.join.served import graph_inputs_of
from loop.proof.records import Exposure
from service.bundle.loading import PER_CANDIDATE, Bundle, load_bundle
from service.bundle.registry import Target, folder_of
from service.fusion import Formula, FusionProfiles, bind
from service.fusion.profiles import Profile

_LARGEST = 1000


@dataclass(frozen=True)
class ScoredAgain:
    """Task scores float32 `[tasks, k]` and ranking scores float64 `[k]`, items in the order of the record."""

    predictions: np.ndarray
    scores: np.ndarray


def open_bundle(registry: Path, name: str, version: str, threads: int = 1) -> Bundle:
    """A published version. Raises LogError if it is not there, and BundleRejected if it cannot be loaded."""
    folder = folder_of(registry, Target(name=name, version=version))
    if not folder.is_dir():
        raise LogError(f"{registry} has no bundle {name}/{version}, which ranked the request")
    return load_bundle(folder, threads, _LARGEST)


def scored_again(exposure: Exposure, layouts: Layouts, bundle: Bundle, formula: Formula | None = None) -> ScoredAgain:
    """Score the items of an exposure, in the request's order and in chunks as then. Raises LogError.

    A graph's last bits may depend on how many candidates it scores at once; `is_whole` says whether the record has
    all of them.
    """
    predictions, back = _predicted(exposure, layouts, bundle)
    item_numerics = graph_inputs_of(exposure, layouts)["item_numerics"]
    used = formula or formula_of(exposure, bundle)
    # The candidates in the order of the request, as the service fused them.
    order = np.argsort(back, kind="stable")
    scores = used.fuse(predictions, np.ascontiguousarray(item_numerics[order]))
    return ScoredAgain(predictions[:, back], scores[back])


def task_scores(exposure: Exposure, layouts: Layouts, bundle: Bundle) -> np.ndarray:
    """The task scores alone, float32 `[tasks, k]`, as `scored_again` computes them. Raises LogError."""
    predictions, back = _predicted(exposure, layouts, bundle)
    return predictions[:, back]


def _predicted(exposure: Exposure, layouts: Layouts, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Task scores in the request's order, and for each item of the record its place in that order. Raises LogError."""
    if bundle.layouts.schema != layouts.schema:
        raise LogError(f"{bundle.label} reads another feature schema than the request was logged with")
    # The items as the request had them.
    order = np.argsort(np.array(exposure["places"], dtype=np.int64), kind="stable")
    inputs = {
        name: np.ascontiguousarray(values[order]) if name in PER_CANDIDATE else values
        for name, values in graph_inputs_of(exposure, layouts).items()
    }
    own = bundle.own(inputs)
    if _is_own_version(exposure, bundle) and exposure[COMPARED] and COMPARED in own:
        # The record may lack candidates, which the comparison of then knew.
        compared = np.frombuffer(exposure[COMPARED], "<f4").reshape(own[COMPARED].shape)
        own[COMPARED] = np.ascontiguousarray(compared[order])
    chunk = int(exposure["chunk"])
    parts = [
        bundle.score(
            {name: values[at : at + chunk] if name in PER_CANDIDATE else values for name, values in own.items()}
        )
        for at in range(0, len(order), chunk)
    ]
    return np.concatenate(parts, axis=1), np.argsort(order, kind="stable")


def _is_own_version(exposure: Exposure, bundle: Bundle) -> bool:
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
