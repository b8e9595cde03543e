"""Trains with this project's models, whose embeddings start near zero, as those of the other packages do."""

from bench.trainers.exchange import EncodedInputs, TrainerSettings
from bench.trainers.ours import OwnTrainer


class SmallStartTrainer(OwnTrainer):
    """The recipe's model with the standard deviation of the other packages' first embeddings."""

    package = "funnelrank, embeddings from 0.0001"


def build(inputs: EncodedInputs, settings: TrainerSettings) -> SmallStartTrainer:
    """Return the trainer."""
    return SmallStartTrainer(inputs, settings, ("model.embedding.initial_std=0.0001",))
