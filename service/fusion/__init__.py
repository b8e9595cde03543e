"""Fusion: combines the task scores of a candidate into one ranking score, by profiles that operators can
change live.
"""

from service.fusion.binding import bind
from service.fusion.formulas import Chosen, Explained, Formula, Fusion
from service.fusion.profiles import (
    DEFAULT,
    FusionError,
    FusionProfiles,
    Profile,
    Weights,
    plain_profiles,
    read_profiles,
)

__all__ = [
    "DEFAULT",
    "Chosen",
    "Explained",
    "Formula",
    "Fusion",
    "FusionError",
    "FusionProfiles",
    "Profile",
    "Weights",
    "bind",
    "plain_profiles",
    "read_profiles",
]
