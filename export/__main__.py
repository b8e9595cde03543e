"""Owns `python -m export`."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from torch.onnx import OnnxExporterError

from export.bundle import export_run
from export.page import lines
from export.parity import ParityError
from export.precision import ReductionError
from export.publish import PublishError
from export.reduction import MAX_LOSS
from export.sign import signer
from models.data.cache import DEFAULT_CACHE
from models.training.run import RunError
from service.bundle.manifest import Reduced


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Check a trained run against its ONNX graph and publish it as a model bundle. On any doubt nothing is published.",
        epilog="example: python -m export runs/kuairand-mmoe --registry registry",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that training wrote")
    parser.add_argument("--registry", type=Path, required=True, metavar="DIR", help="where bundles are published")
    parser.add_argument("--version", metavar="V", help="the version's name (default: one more than the last)")
    parser.add_argument(
        "--precision",
        choices=["float32", *get_args(Reduced)],
        default="float32",
        help="int8: large products in eight bits, for speed; float16: embedding tables in half precision, for size. "
        "Both are measured on the run's own test part before anything is published (default: float32)",
    )
    parser.add_argument(
        "--max-auc-loss",
        type=float,
        default=MAX_LOSS,
        metavar="X",
        help="the most that any output's AUC may fall by reduced precision, or the RMSE of a value rise, as a share (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=DEFAULT_CACHE,
        metavar="DIR",
        help="where encoded data is kept (default: %(default)s)",
    )
    parser.add_argument(
        "--sign-with", type=Path, metavar="KEY.pem", help="private Ed25519 key; export.sign --help says how to make one"
    )
    arguments = parser.parse_args()
    try:
        sign = signer(arguments.sign_with) if arguments.sign_with else None
        done = export_run(
            arguments.run,
            arguments.registry,
            arguments.version,
            arguments.precision,
            arguments.max_auc_loss,
            arguments.cache,
            sign,
        )
    except (RunError, ParityError, ReductionError, PublishError, OnnxExporterError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    parity = done.manifest.parity
    manifest = done.manifest
    print(
        f"parity      torch against ONNX Runtime: largest difference {parity.max_abs_difference:.2e} (allowed {parity.tolerance:g})"
    )
    print(
        f"            over {len(parity.candidates)} candidate counts x {len(parity.behaviours)} behaviour counts, unknown ids included"
    )
    for line in lines(manifest.reduction) if manifest.reduction else ():
        print(line)
    print(f"graph       {done.graph_bytes / 2**20:.2f} MiB, tasks {', '.join(manifest.task_names)}")
    for part in manifest.left_out:
        print(f"left out    {part.part} ({', '.join(part.columns)}): {part.note}")
    print(f"published   {done.folder}{', signed' if sign else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
