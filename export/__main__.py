"""Owns `python -m export`."""

import argparse
import sys
from pathlib import Path

from torch.onnx import OnnxExporterError

from export.bundle import export_run
from export.parity import ParityError
from export.publish import PublishError
from export.sign import signer
from models.run import RunError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Check a trained run against its ONNX graph and publish it as a model bundle. On any doubt nothing is published.",
        epilog="example: python -m export runs/kuairand-mmoe --registry registry",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that training wrote")
    parser.add_argument("--registry", type=Path, required=True, metavar="DIR", help="where bundles are published")
    parser.add_argument("--version", metavar="V", help="the version's name (default: one more than the last)")
    parser.add_argument("--sign-with", type=Path, metavar="KEY.pem", help="private Ed25519 key; export.sign --help says how to make one")
    arguments = parser.parse_args()
    try:
        sign = signer(arguments.sign_with) if arguments.sign_with else None
        done = export_run(arguments.run, arguments.registry, arguments.version, sign)
    except (RunError, ParityError, PublishError, OnnxExporterError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    parity, manifest = done.manifest.parity, done.manifest
    print(f"parity      torch against ONNX Runtime: largest difference {parity.max_abs_difference:.2e} (allowed {parity.tolerance:g})")
    print(f"            over {len(parity.candidates)} candidate counts x {len(parity.behaviours)} behaviour counts, unknown ids included")
    print(f"graph       {done.graph_bytes / 2**20:.2f} MiB, tasks {', '.join(manifest.task_names)}")
    for part in manifest.left_out:
        print(f"left out    {part.part} ({', '.join(part.columns)}): {part.note}")
    print(f"published   {done.folder}{', signed' if sign else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
