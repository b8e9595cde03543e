"""Prints the shape of the code (`make shape`): sizes of functions and files, import cycles, and faults of style."""

import ast
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "funnelrank",
    "features",
    "tables",
    "service",
    "batch",
    "models",
    "export",
    "loop",
    "loadtest",
    "bench",
    "tools",
)
MOST_LINES = 250
MOST_COLUMNS = 120
MOST_ATTRIBUTES = 7  # of a class of the folders below
CORE = ("service/ranking/", "service/rollout/")
PRAGMA = re.compile(r"\s+# (noqa|nosec|type: ignore).*$")


@dataclass(frozen=True)
class Source:
    """One source file: its path from the root, its lines, and its syntax tree."""

    path: str
    lines: list[str]
    tree: ast.Module


def sources(packages: tuple[str, ...] = PACKAGES, root: Path = ROOT) -> list[Source]:
    """Every Python file of the packages, by path."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return [_source(path, root) for path in paths]


def _source(path: Path, root: Path) -> Source:
    text = path.read_text()
    return Source(str(path.relative_to(root)), text.splitlines(), ast.parse(text))


def functions(source: Source) -> Iterator[tuple[str, int]]:
    """Name and length in lines of each function; a decorator does not count."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield f"{source.path}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def long_files(code: list[Source]) -> dict[str, int]:
    """Files over the limit, with their lines."""
    return {source.path: len(source.lines) for source in code if len(source.lines) > MOST_LINES}


def long_scripts(root: Path = ROOT) -> dict[str, int]:
    """TypeScript files over the limit, with their lines."""
    folders = (root / "clients" / "typescript" / "src", root / "console" / "src")
    paths = [path for folder in folders for path in sorted(folder.rglob("*.ts*"))]
    counts = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in paths}
    return {path: count for path, count in counts.items() if count > MOST_LINES}


def wide_lines(code: list[Source]) -> list[str]:
    """Places of lines that are too wide. A pragma at the end does not count, as for ruff."""
    return [
        f"{source.path}:{number}"
        for source in code
        for number, line in enumerate(source.lines, 1)
        if len(PRAGMA.sub("", line)) > MOST_COLUMNS
    ]


def packed_assignments(code: list[Source]) -> list[str]:
    """Places of `a, b = 1, 2`: two assignments in one."""
    return [
        f"{source.path}:{node.lineno}"
        for source in code
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assign) and _is_packed(node)
    ]


def _is_packed(node: ast.Assign) -> bool:
    many = isinstance(node.value, ast.Tuple) and any(isinstance(target, ast.Tuple) for target in node.targets)
    return many and not _is_swap(node)


def _is_swap(node: ast.Assign) -> bool:
    """`a, b = b, a` needs both at once."""
    names = {ast.unparse(part) for target in node.targets for part in getattr(target, "elts", [])}
    values = {ast.unparse(part) for part in getattr(node.value, "elts", [])}
    return bool(names & values)


def doubled_classes(code: list[Source]) -> dict[str, list[str]]:
    """Class names with more than one meaning, and where each is. A name with an underscore is its file's own."""
    places: dict[str, list[str]] = defaultdict(list)
    for source in code:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(source.path)
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def attributes(code: list[Source]) -> dict[str, set[str]]:
    """The attributes of each class by `path:class`: fields, slots, and what methods assign to `self`."""
    return {
        f"{source.path}:{node.name}": _fields(node) | _assigned(node)
        for source in code
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    }


def _fields(node: ast.ClassDef) -> set[str]:
    """The annotated names of a class's body, and the names in `__slots__`."""
    names: set[str] = set()
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.add(statement.target.id)
        elif isinstance(statement, ast.Assign) and "__slots__" in map(ast.unparse, statement.targets):
            slots = ast.literal_eval(statement.value)
            names.update([slots] if isinstance(slots, str) else slots)
    return names


def _assigned(node: ast.ClassDef) -> set[str]:
    """The names that methods assign to `self`."""
    return {
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self"
    }


def many_attributes(code: list[Source]) -> dict[str, int]:
    """Classes with more attributes than the limit, and the number of their attributes."""
    counts = {place: len(names) for place, names in attributes(code).items()}
    return {place: count for place, count in counts.items() if count > MOST_ATTRIBUTES}


def full_folders(code: list[Source], most: int) -> dict[str, int]:
    """Folders with more than `most` files directly in them, without `__init__.py`."""
    counts: dict[str, int] = defaultdict(int)
    for source in code:
        folder, _, name = source.path.rpartition("/")
        counts[folder] += name != "__init__.py"
    return {folder: count for folder, count in sorted(counts.items()) if count > most}


def import_cycles(code: list[Source]) -> list[list[str]]:
    """Groups of modules that import each other at their top level."""
    modules = {_module(source.path) for source in code}
    arrows = {_module(source.path): set(_imports(source, modules)) for source in code}
    return [group for group in _components(arrows) if len(group) > 1]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(source: Source, modules: set[str]) -> Iterator[str]:
    for node in source.tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from ({inner, node.module} & modules if inner not in modules else {inner})


def _components(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan, SIAM J. Comput. 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in arrows[node] - {node}:
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            start = stack.index(node)
            components.append(sorted(stack[start:]))
            del stack[start:]

    for node in arrows:
        if node not in order:
            visit(node)
    return components


def spread(values: list[int]) -> str:
    """Median, 90th percentile and maximum."""
    p90 = statistics.quantiles(values, n=10)[-1]
    return f"median {statistics.median(values):.0f}  p90 {p90:.0f}  max {max(values)}"


def report(code: list[Source]) -> Iterator[str]:
    """The lines that `make shape` prints."""
    lengths = dict(pair for source in code for pair in functions(source))
    total = sum(len(source.lines) for source in code)
    comments = sum(line.lstrip().startswith("#") for source in code for line in source.lines)
    conditional = sum(isinstance(node, ast.IfExp) for source in code for node in ast.walk(source.tree))
    yield f"files      {len(code)}: {spread([len(source.lines) for source in code])} lines"
    yield f"functions  {len(lengths)}: {spread(list(lengths.values()))} lines"
    yield f"longest    {', '.join(sorted(lengths, key=lambda name: -lengths[name])[:3])}"
    per_line = 1000 / total
    yield f"per 1000   {comments * per_line:.0f} comment lines, {conditional * per_line:.1f} conditional expressions"
    yield f"cycles     {import_cycles(code) or 'none'}"
    yield f"over {MOST_LINES}   {long_files(code) | long_scripts() or 'none'}"
    yield f"wide       {len(wide_lines(code))} lines over {MOST_COLUMNS} columns"
    yield f"packed     {packed_assignments(code) or 'none'}"
    yield f"doubled    {doubled_classes(code) or 'none'}"
    core = [source for source in code if source.path.startswith(CORE)]
    yield f"classes    {many_attributes(core) or 'none'} of {' '.join(CORE)} with over {MOST_ATTRIBUTES} attributes"
    yield f"folders    {full_folders(code, 10) or 'none'} with more than 10 files"


if __name__ == "__main__":
    sys.stdout.write("\n".join(report(sources())) + "\n")
