"""Builds the docs of this version into site/VERSION and checks them: `python -m tools.docs_site --out site`."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from funnelrank import __version__
from tools.docs_site.diagrams import DiagramError
from tools.docs_site.links import faults_of
from tools.docs_site.staging import ROOT, stage

_LATEST = """<!doctype html>
<meta charset="utf-8">
<title>funnelrank</title>
<meta http-equiv="refresh" content="0; url={version}/">
<a href="{version}/">funnelrank {version}</a>
"""


class DocsError(Exception):
    """The site cannot be built, or has faults; the message names each."""


def build(out: Path, version: str) -> Path:
    """Build the site of `version`, put it beside the other versions in `out`, and return its folder.

    Raises DocsError if Zensical warns, or if a link has no target.
    """
    with tempfile.TemporaryDirectory(prefix="funnelrank-docs-") as temporary:
        # Built in a folder of its own, so that a failed build leaves `out` as it was.
        folder = Path(temporary)
        try:
            stage(folder / "docs")
        except DiagramError as error:
            raise DocsError(str(error)) from None
        shutil.copy(ROOT / "zensical.toml", folder)
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise DocsError(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr))
        faults = faults_of(folder / "site")
        if faults:
            raise DocsError("\n".join(faults))
        shutil.rmtree(out / version, ignore_errors=True)
        shutil.copytree(folder / "site", out / version)
    _list_versions(out, version)
    return out / version


def _list_versions(out: Path, newest: str) -> None:
    """Write what the selector of versions reads, and the page that leads to the version just built."""
    versions = sorted(
        (folder.name for folder in out.iterdir() if (folder / "index.html").is_file()), key=_numbers, reverse=True
    )
    entries = [
        {"version": version, "title": version, "aliases": ["latest"] if version == newest else []}
        for version in versions
    ]
    (out / "versions.json").write_text(json.dumps(entries, indent=1) + "\n")
    (out / "index.html").write_text(_LATEST.format(version=newest))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.docs_site",
        description="Build the docs site with Zensical and check its links. Other versions in the folder stay.",
        epilog="example: python -m tools.docs_site --out site",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="the folder of all versions (site)")
    parser.add_argument("--version", default=__version__, help=f"of the docs ({__version__})")
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"\w[\w.+-]*", options.version):
        parser.error("--version must be a name such as 1.2.0: it is the name of a folder")
    try:
        folder = build(options.out, options.version)
    except DocsError as error:
        sys.stderr.write(f"{error}\nerror: the site was not built\n")
        return 1
    sys.stdout.write(f"{folder}: look at it with `python3 -m http.server --directory {options.out}`\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
