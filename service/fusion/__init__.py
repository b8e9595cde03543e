"""Fusion: from task scores to one ranking score per candidate, by profiles that operators change while it serves."""

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
