"""Combines the losses of several tasks into one gradient: static or decayed weights, uncertainty, GradNorm, PCGrad.

Every weighting starts from the recipe's `loss_weights` (1 by default). A run selects its weights by validation metrics,
never by a weighted loss.
"""

from models.network.model import MultiTaskModel
from models.recipe.sections.training import (
    DecayedWeighting,
    GradnormWeighting,
    PcgradWeighting,
    StaticWeighting,
    TrainingSection,
    UncertaintyWeighting,
)
from models.training.weighting.base import Decayed, Uncertainty, Weighting
from models.training.weighting.gradnorm import GradNorm
from models.training.weighting.pcgrad import PcGrad

__all__ = ["Weighting", "build_weighting"]


def build_weighting(ranker: MultiTaskModel, section: TrainingSection) -> Weighting:
    """The weighting of a recipe for a ranker's trained outputs."""
    base = {o.name: section.loss_weights.get(o.name, 1.0) for o in ranker.outputs if o.trained}
    match section.weighting:
        case StaticWeighting():
            return Decayed(base, {})
        case DecayedWeighting(decay=decay):
            return Decayed(base, decay)
        case UncertaintyWeighting() as chosen:
            scale = {o.name: o.kind.loss_scale for o in ranker.outputs if o.trained}
            return Uncertainty(base, scale, chosen.bound, chosen.learning_rate)
        case GradnormWeighting() as chosen:
            return GradNorm(ranker, base, chosen.alpha, chosen.learning_rate)
        case PcgradWeighting():
            return PcGrad(ranker, base)
