"""`python -m loadtest.swaps.republish REGISTRY/NAME/VERSION NEW_VERSION`: publishes a copy of a bundle as another version."""

import argparse
import json
import os
import shutil
from pathlib import Path


def republish(bundle: Path, version: str) -> Path:
    """Copies `bundle` beside itself as `version`; only the manifest's version changes, so every checksum in it still holds.

    The copy appears under its name in one rename. Raises FileExistsError when that version is there: bundles are immutable.
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.swaps.republish", description="Publish a bundle once more under another version."
    )
    parser.add_argument("bundle", type=Path, help="REGISTRY/NAME/VERSION")
    parser.add_argument("version", help="the new version")
    options = parser.parse_args()
    print(republish(options.bundle, options.version))


if __name__ == "__main__":
    main()
