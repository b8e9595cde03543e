"""Tries fusion profiles on requests before they are used, and refuses a profile without a finite score for any
candidate.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from service.bundle.loading import Bundle
from service.fusion import FusionError, FusionProfiles
from service.rollout.recent import RecentRequests
from service.rollout.serving import Live, ServingSnapshot, bind_profiles

log = logging.getLogger("funnelrank.live")
_MOST_CANDIDATES = 500


def with_profiles(
    profiles: FusionProfiles | None, snapshot: ServingSnapshot, recent: RecentRequests
) -> ServingSnapshot:
    """Return the snapshot with other profiles, as `tried_profiles` does; log what is strange about them."""
    tried, warnings = tried_profiles(profiles, snapshot, recent)
    for warning in warnings:
        log.warning("%s", warning)
    return tried


def tried_profiles(
    profiles: FusionProfiles | None, snapshot: ServingSnapshot, recent: RecentRequests
) -> tuple[ServingSnapshot, list[str]]:
    """Return the snapshot with other profiles, bound to every version in use; also what is strange about them.

    The profiles are tried on the newest requests of this worker; if there are none, on the golden request. Raises
    FusionError with the field if a profile names something that a version lacks, or gives no candidate a finite score.
    """
    bound: dict[str, Live] = {}
    for live in snapshot.versions():
        try:
            fusion = bind_profiles(live.bundle.manifest, profiles)
            scored = list(_scored(live, recent, snapshot))
            for name, formula in fusion.formulas.items():
                finite = [bool(np.isfinite(formula.fuse(scores, numerics)).any()) for scores, numerics in scored]
                if scored and not any(finite):
                    count = sum(scores.shape[1] for scores, _ in scored)
                    message = f"fusion profile '{name}' gives none of {count} candidates a finite score"
                    raise FusionError(message, f"profiles.{name}")
        except FusionError as error:
            raise FusionError(f"{error} ({live.place} {live.bundle.label})", error.field) from None
        bound[live.bundle.label] = replace(live, fusion=fusion)
    unused = profiles.unused() if profiles else ()
    warnings = [f"fusion profile '{name}' is used by no scene and no experiment" for name in unused]
    return snapshot.with_bound(bound, replace(snapshot.documents, profiles=profiles)), warnings


def _scored(live: Live, recent: RecentRequests, snapshot: ServingSnapshot) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return task scores `[tasks, C]` and item numerics `[C, N]` of requests, scored by the model."""
    bundle = live.bundle
    candidates = 0
    for inputs in _requests(live, recent, snapshot):
        numerics = inputs.get("item_numerics")
        if numerics is None:
            continue
        scores = _scores(bundle, inputs)
        if scores is None or not np.isfinite(scores).any():
            continue
        yield scores, numerics
        candidates += scores.shape[1]
        if candidates >= _MOST_CANDIDATES:
            return


def _requests(live: Live, recent: RecentRequests, snapshot: ServingSnapshot) -> Iterator[Mapping[str, np.ndarray]]:
    bundle = live.bundle
    of_lines = [recent.of(bundle.layouts.inputs_fingerprint, line.name) for line in snapshot.lines_with(bundle)]
    requests = max(of_lines, key=len)
    if not requests:
        yield bundle.golden
    for assembly in reversed(requests):
        yield assembly.inputs


def _scores(bundle: Bundle, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Task scores `[tasks, C]`; None if the model fails, which is no fault of the profiles."""
    try:
        return bundle.score(bundle.graph_inputs(inputs))
    except Exception:  # noqa: BLE001 - onnxruntime raises its own classes
        return None
