"""Draws the rooms: which folder imports which, as two Mermaid diagrams in docs/architecture.md.

python tools/rooms.py            # print the diagrams
python tools/rooms.py --write    # put them between the markers of docs/architecture.md
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
VERSION = "funnelrank"  # the package itself holds the version alone, which everybody may import
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- rooms {name}: made by `make rooms` -->"
END = "<!-- end of rooms {name} -->"


def packages() -> list[str]:
    """The top-level packages, as the import rules in pyproject.toml name them."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return list(rules["root_packages"])


def arrows(graph: grimp.ImportGraph, depth: int, inside: str = "") -> set[tuple[str, str]]:
    """Pairs of rooms (importer, imported). A room is the first `depth` parts of a module's name."""
    pairs = set()
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module) - {VERSION}:
            importer = room_of(module, depth)
            imported = room_of(target, depth)
            if importer != imported and all(name.startswith(inside) for name in (module, target)):
                pairs.add((importer, imported))
    return pairs


def room_of(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def without_shortcuts(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no longer path replaces: the drawing stays readable, and the order of the layers is the same."""
    targets: dict[str, set[str]] = {}
    for importer, imported in pairs:
        targets.setdefault(importer, set()).add(imported)
    # Raises graphlib.CycleError: rooms that import one another have no order to draw.
    tuple(TopologicalSorter(targets).static_order())
    return {(a, b) for a, b in pairs if not any(reaches(targets, other, b) for other in targets[a] - {b})}


def reaches(targets: dict[str, set[str]], start: str, end: str) -> bool:
    """Whether `end` can be reached from `start`."""
    return start == end or any(reaches(targets, following, end) for following in targets.get(start, set()))


def mermaid(pairs: Iterable[tuple[str, str]], prefix: str = "") -> str:
    lines = [f"    {short(a, prefix)} --> {short(b, prefix)}" for a, b in sorted(pairs)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def short(room: str, prefix: str) -> str:
    return room.removeprefix(prefix)


def diagrams() -> dict[str, str]:
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph(*packages(), cache_dir=None)
    whole = without_shortcuts(arrows(graph, 1))
    service = without_shortcuts(arrows(graph, 2, inside="service."))
    return {"packages": mermaid(whole), "service": mermaid(service, "service.")}


def with_diagrams(page: str) -> str:
    """The page with every diagram brought up to date. Raises ValueError if a marker is missing."""
    for name, drawing in diagrams().items():
        begin = BEGIN.format(name=name)
        end = END.format(name=name)
        if begin not in page or end not in page:
            raise ValueError(f"the page has no place for the diagram {name!r}: it needs {begin} and {end}")
        block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        page = block.sub(lambda _: f"{begin}\n{drawing}\n{end}", page)  # noqa: B023 - called at once
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Draw which folder imports which.",
        epilog="example: python tools/rooms.py --write",
    )
    parser.add_argument("--write", action="store_true", help="put the diagrams into docs/architecture.md")
    options = parser.parse_args(arguments)
    if options.write:
        PAGE.write_text(with_diagrams(PAGE.read_text()))
        return 0
    for name, drawing in diagrams().items():
        sys.stdout.write(f"{name}\n{drawing}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
