"""Trains with deepctr-torch's models and their own `fit`."""

import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bench.trainers.exchange import EncodedInputs, EncodedPart, TrainerSettings

# The package imports `requests`, which it does not install, to ask a registry for its newest version. Here it asks
# nobody.
sys.modules.setdefault("requests", ModuleType("requests"))

from deepctr_torch.inputs import DenseFeat, SparseFeat  # noqa: E402
from deepctr_torch.models import ESMM, MMOE, PLE  # noqa: E402

_SCORED_ROWS = 4096


class DeepctrTrainer:
    """A deepctr-torch model; every key column has a table of its own, as the package's features have."""

    package = "deepctr-torch"

    def __init__(self, inputs: EncodedInputs, settings: TrainerSettings) -> None:
        self.version = version("deepctr-torch")
        self.inputs = inputs
        self.settings = settings
        self.model = _model(inputs, settings)
        optimiser = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.model.compile(optimiser, loss=["binary_crossentropy"] * len(inputs.labels), metrics=[])

    def train_epoch(self, epoch: int) -> None:
        part = self.inputs.parts["train"]
        self.model.fit(_columns(part), part.labels, batch_size=self.settings.batch_size, epochs=1, verbose=0)

    def scores(self, part: str) -> np.ndarray:
        return np.asarray(self.model.predict(_columns(self.inputs.parts[part]), _SCORED_ROWS))


def _columns(part: EncodedPart) -> dict[str, np.ndarray]:
    columns = {f"key{i}": part.keys[:, i].astype(np.float32) for i in range(part.keys.shape[1])}
    return columns | {f"number{i}": part.numerics[:, i] for i in range(part.numerics.shape[1])}


def _model(inputs: EncodedInputs, settings: TrainerSettings) -> Any:
    keys = [SparseFeat(f"key{i}", size, settings.embedding) for i, size in enumerate(inputs.key_sizes)]
    columns = [*keys, *(DenseFeat(f"number{i}", 1) for i in range(len(inputs.bin_sizes)))]
    tasks = len(inputs.labels)
    # The weight decay is the optimiser's, as in the other packages.
    shared: dict[str, Any] = {
        "tower_dnn_hidden_units": settings.tower_hidden,
        "dnn_dropout": settings.dropout,
        "l2_reg_embedding": 0,
        "l2_reg_linear": 0,
        "seed": settings.seed,
        "task_types": ["binary"] * tasks,
        "task_names": list(inputs.labels),
        "device": "cpu",
    }
    if settings.model == "esmm":
        return ESMM(columns, **shared)
    shared |= {"expert_dnn_hidden_units": settings.expert_hidden, "gate_dnn_hidden_units": ()}
    if settings.model == "ple":
        # The package builds as many shared experts as own ones; other counts end in an IndexError.
        return PLE(columns, shared_expert_num=1, specific_expert_num=1, num_levels=2, **shared)
    return MMOE(columns, num_experts=4, **shared)


def build(inputs: EncodedInputs, settings: TrainerSettings) -> DeepctrTrainer:
    """Return the trainer."""
    return DeepctrTrainer(inputs, settings)
