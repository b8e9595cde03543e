"""Finds the parameters that every head's logit depends on, and the last layer among them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.network.model import MultiTaskModel
from models.training.updates.sparse_gradients import values_of

TABLE = "inputs.table.weight"


def shared_masks(ranker: MultiTaskModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name, in the order of the forward pass: each parameter that all heads use, and a mask of the part that they
    use.

    A tensor of a grouped layer has several experts, and PLE gives some of them to one head only. So a mask says which
    groups (the first axis of three) or columns (the last axis of two) all heads use; it broadcasts against the
    parameter. The masks follow from the gradients of the logits on one batch in evaluation mode, so they work for any
    composition.
    """
    was_training = ranker.training
    named = {name: p for name, p in ranker.named_parameters() if p.requires_grad}
    ranker.eval()
    logits = ranker.logits(batch)
    common: dict[str, Tensor] = {}
    for logit in logits.values():
        # Beside the logits stand numbers of the input that a task reads, such as a duration; nothing is learnt there.
        if not logit.requires_grad:
            continue
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            logit.sum(), list(named.values()), retain_graph=True, allow_unused=True
        )
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
            reached = _reached(parameter if gradient is None else values_of(gradient), gradient is not None)
            common[name] = common[name] & reached if name in common else reached
    ranker.train(was_training)
    return {name: mask for name, mask in common.items() if mask.any()}


def _reached(gradient: Tensor, used: bool) -> Tensor:
    touched = (gradient != 0) & used
    if touched.dim() < 2:
        return touched
    axes = tuple(range(1, touched.dim())) if touched.dim() > 2 else (0,)
    return touched.any(axes, keepdim=True)


def last_shared_layer(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the last layer that all heads share.

    That is the trunk's last shared layer; if the heads have separate trunks, the last layer of every encoder (the
    output of DIN's activation unit, DUPN's attention); and the embedding table if no layer above it is shared. If a
    layer reads several parts, the weights of each part are returned. Towers are never shared, not even those of a
    chain.
    """
    of_trunk = _last_layers(masks, "trunk.", 1)
    return of_trunk or _last_layers(masks, "encoders.", 2) or {TABLE: masks[TABLE]}


def _last_layers(masks: Mapping[str, Tensor], prefix: str, depth: int) -> dict[str, Tensor]:
    """Return the weights of the last layer of each module, where modules are named by the first `depth` parts of a
    name.
    """
    owners: dict[tuple[str, ...], str] = {}
    weights = [n for n, m in masks.items() if n.startswith(prefix) and m.dim() > 1 and not n.endswith(".bias")]
    for name in weights:
        owners[tuple(name.split(".")[:depth])] = name.rpartition(".")[0]
    return {name: masks[name] for name in weights if name.rpartition(".")[0] in owners.values()}
