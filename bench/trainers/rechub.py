"""Trains with torch-rechub's models and its own trainer and data loader."""

import math
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE, PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

from bench.trainers.exchange import EncodedInputs, EncodedPart, TrainerSettings

_SCORED_ROWS = 4096


class RechubTrainer:
    """A torch-rechub model; every key column has a table of its own, as the package's features have."""

    package = "torch-rechub"

    def __init__(self, inputs: EncodedInputs, settings: TrainerSettings) -> None:
        self.version = version("torch-rechub")
        self.inputs = inputs
        self.esmm = settings.model == "esmm"
        tasks = 3 if self.esmm else len(inputs.labels)
        self.trainer = MTLTrainer(
            _model(inputs, settings),
            ["classification"] * tasks,
            optimizer_params={"lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            n_epoch=settings.epochs,
            device="cpu",
            model_path=tempfile.gettempdir(),
        )
        part = inputs.parts["train"]
        generator = DataGenerator(self._columns(part), self._labels(part))
        some = {name: values[:1] for name, values in self._columns(part).items()}
        loaders = generator.generate_dataloader(
            x_val=some, y_val=self._labels(part)[:1], x_test=some, y_test=self._labels(part)[:1],
            batch_size=settings.batch_size,
        )  # fmt: skip
        self.loader: Any = loaders[0]

    def train_epoch(self, epoch: int) -> None:
        self.trainer.train_one_epoch(self.loader)

    def scores(self, part: str) -> np.ndarray:
        columns = self._columns(self.inputs.parts[part])
        n = len(self.inputs.parts[part].labels)
        model = self.trainer.model.eval()
        predicted = []
        with torch.no_grad():
            for begin in range(0, n, _SCORED_ROWS):
                batch = {name: torch.from_numpy(v[begin : begin + _SCORED_ROWS]) for name, v in columns.items()}
                predicted.append(model(batch).numpy())
        scores = np.concatenate(predicted)
        return scores[:, 1:] if self.esmm else scores

    def _columns(self, part: EncodedPart) -> dict[str, np.ndarray]:
        """The columns by the name of their feature. The package's ESMM reads no numbers, so it gets their quantiles."""
        columns = {f"key{i}": np.ascontiguousarray(part.keys[:, i]) for i in range(part.keys.shape[1])}
        kind, numbers = ("bin", part.bins) if self.esmm else ("number", part.numerics)
        return columns | {f"{kind}{i}": np.ascontiguousarray(numbers[:, i]) for i in range(numbers.shape[1])}

    def _labels(self, part: EncodedPart) -> np.ndarray:
        """The labels; for ESMM a column before them, that of the conversion, whose loss its trainer leaves out."""
        return np.concatenate([part.labels[:, -1:], part.labels], axis=1) if self.esmm else part.labels


class SlicedRechubTrainer(RechubTrainer):
    """The same with batches that are cut from whole tensors in place of the package's loader, which stacks rows."""

    package = "torch-rechub, batches cut by us"

    def __init__(self, inputs: EncodedInputs, settings: TrainerSettings) -> None:
        super().__init__(inputs, settings)
        part = inputs.parts["train"]
        columns = {name: torch.from_numpy(values) for name, values in self._columns(part).items()}
        self.loader = _SlicedBatches(columns, torch.from_numpy(self._labels(part)), settings.batch_size)


class _SlicedBatches:
    """Batches of a random order, anew whenever they are iterated."""

    def __init__(self, columns: dict[str, torch.Tensor], labels: torch.Tensor, size: int) -> None:
        self.columns = columns
        self.labels = labels
        self.size = size

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.size)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for picked in torch.randperm(len(self.labels)).split(self.size):
            yield {name: values[picked] for name, values in self.columns.items()}, self.labels[picked]


def _model(inputs: EncodedInputs, settings: TrainerSettings) -> Any:
    width = settings.embedding
    keys = [SparseFeature(f"key{i}", size, embed_dim=width) for i, size in enumerate(inputs.key_sizes)]
    expert = {"dims": list(settings.expert_hidden), "dropout": settings.dropout}
    tower = {"dims": list(settings.tower_hidden), "dropout": settings.dropout}
    if settings.model == "esmm":
        bins = [SparseFeature(f"bin{i}", size, embed_dim=width) for i, size in enumerate(inputs.bin_sizes)]
        return ESMM(keys, bins, cvr_params=dict(tower), ctr_params=dict(tower))
    features = [*keys, *(DenseFeature(f"number{i}") for i in range(len(inputs.bin_sizes)))]
    tasks = len(inputs.labels)
    kinds = ["classification"] * tasks
    towers = [dict(tower) for _ in range(tasks)]
    if settings.model == "ple":
        return PLE(features, kinds, 2, 1, 2, expert, towers)
    return MMOE(features, kinds, 4, expert, towers)


def build(inputs: EncodedInputs, settings: TrainerSettings) -> RechubTrainer:
    """Return the trainer with the package's own loader."""
    return RechubTrainer(inputs, settings)
