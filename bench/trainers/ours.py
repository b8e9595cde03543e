"""Trains with this project's models and training steps."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.trainers.exchange import EncodedInputs, TrainerSettings
from bench.trainers.recipes import opened
from funnelrank import __version__
from models.data.batches import shuffled_batches, steps_per_epoch
from models.network.build import build_model
from models.training.evaluation import scores_of
from models.training.session import Progress
from models.training.statistics import fit_statistics
from models.training.step import TrainingState, train_step
from models.training.updates.averaging import Average
from models.training.updates.optimisation import Optimiser
from models.training.weighting import build_weighting


class OwnTrainer:
    """The recipe's model; its data is read from the cache, and the exchange's inputs are made of the same."""

    package = "funnelrank"
    version = __version__

    def __init__(self, inputs: EncodedInputs, settings: TrainerSettings, further: tuple[str, ...] = ()) -> None:
        """Build the recipe's model, with `further` settings."""
        data = opened(settings.model, settings.seed, settings.epochs, further)
        training = data.recipe.training
        steps = steps_per_epoch(len(data.parts["train"]), training.batch_size) * training.epochs
        model = build_model(data.recipe, data.encoding, data.cross_values)
        fit_statistics(model, data)
        self.outputs = (
            [model.outputs[0].name, "pctcvr"] if settings.model == "esmm" else [o.name for o in model.outputs]
        )
        self.state = TrainingState(
            data,
            Path(tempfile.gettempdir()),
            {},
            model,
            Average(model, training.averaging, lazy=training.embedding_updates != "dense"),
            Optimiser(model, training, steps),
            build_weighting(model, training),
            Progress(),
            seed=training.seed,
        )
        torch.use_deterministic_algorithms(True)

    def train_epoch(self, epoch: int) -> None:
        data = self.state.data
        training = data.recipe.training
        self.state.model.train()
        for batch in shuffled_batches(data, "train", training.batch_size, training.seed, epoch):
            train_step(self.state, batch, epoch)
            self.state.progress.step += 1

    def scores(self, part: str) -> np.ndarray:
        scores = scores_of(self.state.average.synchronised(), self.state.data, part)
        return np.asarray(np.exp(np.stack([scores[name] for name in self.outputs], axis=1)))


def build(inputs: EncodedInputs, settings: TrainerSettings) -> OwnTrainer:
    """Return the trainer."""
    return OwnTrainer(inputs, settings)
