"""The commands that publish: `export`, `declare`, `sign`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from funnelrank.commands.options import BUNDLE, PATH, REGISTRY, cache_option, examples

if TYPE_CHECKING:
    from export.bundle import Published

PRECISIONS = ["float32", "int8", "float16"]


@click.command(epilog=examples("funnelrank export runs/kuairand-mmoe --registry registry"))
@click.argument("run", type=PATH)
@click.option("--registry", type=REGISTRY, required=True, metavar="DIR|URI", help="Where bundles are published.")
@click.option("--version", metavar="V", help="Name of the version.  [default: one more than the last]")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    metavar="{float32,int8,float16}",
    help="int8: large products in eight bits, for speed; float16: embedding tables in half precision, for size. "
    "Both are measured on the run's own test part before anything is published.",
)
@click.option(
    "--max-auc-loss",
    type=float,
    default=0.001,
    show_default=True,
    metavar="X",
    help="Largest allowed decrease of an output's AUC by reduced precision, or relative increase of a value's RMSE.",
)
@cache_option
@click.option(
    "--sign-with",
    type=PATH,
    metavar="KEY.pem",
    help="Private Ed25519 key; `funnelrank sign --help` says how to make one.",
)
def export(
    run: Path,
    registry: Path,
    version: str | None,
    precision: Literal["float32", "int8", "float16"],
    max_auc_loss: float,
    cache: Path,
    sign_with: Path | None,
) -> None:
    """Check a trained RUN against its ONNX graph and publish it as a model bundle. If a check fails, publish
    nothing.
    """
    from export.bundle import export_run
    from export.sign import signer

    sign = signer(sign_with) if sign_with else None
    published = export_run(run, registry, version, precision, max_auc_loss, cache, sign)
    click.echo("\n".join(_summary(published, sign is not None)))


@click.command(epilog=examples("funnelrank declare registry/kuairand-mmoe/2 rule-features.yaml --registry registry"))
@click.argument("bundle", type=BUNDLE, metavar="BUNDLE")
@click.argument("features", type=PATH, metavar="FEATURES.yaml")
@click.option("--registry", type=REGISTRY, required=True, metavar="DIR|URI", help="Where bundles are published.")
@click.option("--version", metavar="V", help="Name of the version.  [default: one more than the last]")
@click.option("--sign-with", type=PATH, metavar="KEY.pem", help="Private Ed25519 key.")
def declare(bundle: Path, features: Path, registry: Path, version: str | None, sign_with: Path | None) -> None:
    """Publish the graph of BUNDLE (REGISTRY/NAME/VERSION) again, with features that only rules read.

    FEATURES.yaml has the sections `item`, `candidate` and `counters`, as a recipe's `features` has them. Nothing is
    trained, and the scores stay as they are. New item features and counters need a `funnelrank load` of the version.
    """
    from export.declare import declare as published_again
    from export.sign import signer
    from service.addresses.registry_address import shown

    manifest = published_again(bundle, features, registry, version, signer(sign_with) if sign_with else None)
    click.echo(f"published   {shown(registry / manifest.name / manifest.version)}, fingerprint {manifest.fingerprint}")


def _summary(published: "Published", signed: bool) -> Iterator[str]:
    """Lines for the terminal: the measurements, then the folder of the bundle."""
    from export.reduced.page import lines
    from service.addresses.registry_address import shown

    manifest = published.manifest
    parity = manifest.parity
    yield (
        f"parity      torch against ONNX Runtime: largest difference {parity.max_abs_difference:.2e} "
        f"(allowed {parity.tolerance:g})"
    )
    yield (
        f"            over {len(parity.candidates)} candidate counts x {len(parity.behaviours)} behaviour counts, "
        "unknown ids included"
    )
    if manifest.reduction:
        yield from lines(manifest.reduction)
    yield f"graph       {published.graph_bytes / 2**20:.2f} MiB, tasks {', '.join(manifest.task_names)}"
    if manifest.external:
        size = sum(tensor.bytes for tensor in manifest.external)
        yield f"tables      {size / 2**20:.2f} MiB beside the graph; the workers of a host share them"
    for vector in manifest.outputs:
        yield f"output      {vector.name} [{', '.join(map(str, vector.shape))}]"
    for part in manifest.left_out:
        yield f"left out    {part.part} ({', '.join(part.columns)}): {part.note}"
    yield f"published   {shown(published.folder)}{', signed' if signed else ''}"


@click.command(
    epilog="\b\na key pair:\n"
    "  openssl genpkey -algorithm ed25519 -out KEY.pem          # private: for the publisher only\n"
    "  openssl pkey -in KEY.pem -pubout >> TRUSTED.pem          # public: FUNNELRANK_TRUSTED_KEYS of the service\n\n"
    + examples("funnelrank sign registry/kuairand-mmoe/3 --key KEY.pem")
)
@click.argument("bundles", type=BUNDLE, nargs=-1, required=True, metavar="BUNDLE...")
@click.option("--key", type=PATH, required=True, metavar="KEY.pem", help="Private Ed25519 key.")
def sign(bundles: tuple[Path, ...], key: Path) -> None:
    """Sign published bundles (REGISTRY/NAME/VERSION) whose files have the hashes of their manifests."""
    from export.sign import sign_bundle, signer
    from service.addresses.registry_address import shown

    with_key = signer(key)
    for folder in bundles:
        click.echo(f"signed      {shown(sign_bundle(folder, with_key))}")
