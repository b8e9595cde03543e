"""Trains with torch-rechub's models and its own trainer, without its data loader."""

from bench.trainers.exchange import EncodedInputs, TrainerSettings
from bench.trainers.rechub import SlicedRechubTrainer


def build(inputs: EncodedInputs, settings: TrainerSettings) -> SlicedRechubTrainer:
    """Return the trainer that gets batches cut from whole tensors."""
    return SlicedRechubTrainer(inputs, settings)
