"""Warns of scenes of lines that the fusion profiles do not name: requests with such a scene are refused."""

import logging
from collections.abc import Mapping

from features.nearest import nearest
from service.fusion import FusionProfiles

log = logging.getLogger("funnelrank.live")
_MOST_SHOWN = 20


def scene_warnings(scenes: Mapping[str, str], profiles: FusionProfiles | None) -> list[str]:
    """Return and log a warning for each scene of a line that no profile has, with the nearest one that has.

    They are no reason to refuse a rollout, because its scenes may be named before the profiles are.
    """
    known = profiles.scenes if profiles is not None else {}
    unknown = [scene for scene in scenes if scene not in known][:_MOST_SHOWN]
    warnings = [
        f"scenes.{scene}: the fusion profiles have no scene '{scene}'{nearest(scene, known)}" for scene in unknown
    ]
    for warning in warnings:
        log.warning("%s", warning)
    return warnings
