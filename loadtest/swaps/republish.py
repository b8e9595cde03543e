"""Publishes a copy of a bundle as another version."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path


def republish(bundle: Path, version: str) -> Path:
    """Copy `bundle` beside itself as `version`.

    Only the manifest's version changes, so every checksum in it still holds.

    The copy appears under its name in one rename. Raises FileExistsError if that version exists: bundles are immutable.
    """
    target = bundle.parent / version
    if target.exists():
        raise FileExistsError(f"{target} is published already")
    staging = bundle.parent / f".{version}.partial"
    shutil.copytree(bundle, staging)
    manifest = json.loads((staging / "manifest.json").read_text())
    (staging / "manifest.json").write_text(json.dumps(manifest | {"version": version}, indent=2))
    os.rename(staging, target)
    return target


if __name__ == "__main__":  # `python -m loadtest.swaps.republish` is `funnelrank republish`
    sys.argv.insert(1, "republish")
    runpy.run_module("funnelrank", run_name="__main__")
