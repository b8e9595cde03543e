"""Checks on a GPU that losses and gradients go through NCCL unharmed: the sum over one process is what it had.

One GPU suffices, and the processor stands in for it without one. On a machine with several, `funnelrank train
--processes N --device cuda` takes one GPU per process.
"""

import sys
import tempfile
from pathlib import Path

import click
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from models.data.batches import shuffled_batches
from models.data.cache import open_data
from models.network.build import build_model
from models.prepare.sample import sample_tables
from models.recipe import load_recipe
from models.training.device import chosen_device, on_device
from models.training.processes.exchange import add_gradients, losses_of_part
from models.training.processes.ranks import Ranks
from models.training.updates.optimisation import Optimiser

ROOT = Path(__file__).parents[1]
RECIPES = ("kuairand-mmoe", "variants/kuairand-mmoe-lazy", "variants/kuairand-din-dice", "kuairand-star")


@click.command(epilog="\b\nexample:\n  python -m tools.gpu_exchange --device cuda")
@click.option("--device", default="cuda", show_default=True, metavar="NAME", help="Where to compute.")
def check(device: str) -> None:
    """Compare losses and gradients before and after the exchange, by recipe."""
    chosen = chosen_device(device)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            differences = {name: exchanged(name, Path(folder), chosen) for name in RECIPES}
    finally:
        dist.destroy_process_group()
    for name, difference in differences.items():
        print(f"{name:40} {difference:.2g}")
    sys.exit(0 if max(differences.values()) == 0 else 1)


def exchanged(name: str, folder: Path, device: torch.device) -> float:
    """The largest sum of differences that the exchange of one process makes to a loss, a gradient or a buffer."""
    tables = folder / "kuairand"
    if not tables.exists():
        sample_tables(ROOT / "sample" / "kuairand", tables, 2_000_000, seed=1)
    recipe = load_recipe(ROOT / "models" / "recipes" / f"{name}.yaml", (f"data.dir={tables}",))
    data = open_data(recipe, folder / "cache")
    torch.manual_seed(1)
    model = build_model(recipe, data.encoding, data.cross_values).to(device).train()
    optimiser = Optimiser(model, recipe.training, 10)
    batch = next(on_device(shuffled_batches(data, "train", 512, 1, 0), device))
    losses = losses_of_part(model, batch, Ranks())
    torch.stack([*losses.values()]).sum().backward()
    before = _numbers(model)
    add_gradients(model, optimiser, Ranks())
    after = _numbers(model)
    assert before.keys() == after.keys()
    return max(float((after[key] - value).abs().sum()) for key, value in before.items())


def _numbers(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient, as a dense tensor, and of every buffer."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    numbers = {name: (g.to_dense() if g.is_sparse else g).clone() for name, g in gradients.items()}
    return numbers | {name: buffer.double().clone() for name, buffer in model.named_buffers()}


if __name__ == "__main__":
    check()
