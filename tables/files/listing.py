"""Finds the files of a table: one file, a folder with or without partitions, a pattern, or the URI of any of them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tables.files import objects
from tables.files.table_file import State, TableFile, state_on_disk

SUFFIXES = (".parquet", ".csv")
_WILD = re.compile(r"[*?\[]")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # how Hive writes a missing value


def is_one_file(place: str) -> bool:
    """Return whether a place names a single file of a disk."""
    if objects.is_uri(place) or Path(place).is_dir():
        return False
    parts = place.split("/")
    return _first_pattern(parts, on_disk=True) == len(parts)


def list_files(place: str) -> list[TableFile]:
    """The files of a place in the order of their names; an empty list if there is none. Raises OSError.

    `place`: a file, a folder, a pattern (`*`, `?`, `[...]`, and `**` for folders of any depth), or the URI of one. A
    folder is read with all folders below it. Names that begin with `.` or `_` are left out, as Spark and Arrow do. A
    folder whose name has such characters is that folder.
    """
    if is_one_file(place):
        path = Path(place)
        return [TableFile(str(path.parent), path.name, state_on_disk(path))] if path.is_file() else []
    root, pattern = _root_and_pattern(place)
    entries = objects.list_objects(root) if objects.is_uri(root) else _walk(Path(root))
    read = sorted((name, state) for name, state in entries if pattern.fullmatch(name) and not _hidden(name))
    if not objects.is_uri(root):
        _refuse_twice(root, [name for name, _ in read])
    above = _trailing_partition(root)
    return [TableFile(root, name, state, above | _partition(name.split("/")[:-1])) for name, state in read]


def _root_and_pattern(place: str) -> tuple[str, re.Pattern[str]]:
    """Split a place into the folder above its first wildcard, and what the names below it match."""
    scheme, separator, rest = place.rpartition("://")
    parts = rest.rstrip("/").split("/")
    wild = _first_pattern(parts, on_disk=not separator)
    # An object is listed through its folder, since a store has no folders of its own.
    if separator and wild == len(parts) and parts[-1].endswith(SUFFIXES):
        wild -= 1
    root = "/".join(parts[:wild])
    if not separator:
        root = root or ("/" if place.startswith("/") else ".")
    below = "/".join(parts[wild:])
    return f"{scheme}{separator}{root}", re.compile(rf"{_regex(below)}(/.*)?" if below else ".*", re.DOTALL)


def _regex(pattern: str) -> str:
    """Translate a pattern of paths to a regular expression."""
    out = []
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", pattern):
        match part:
            case "**/":
                out.append("(?:.*/)?")
            case "**":
                out.append(".*")
            case "*":
                out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case _ if part.startswith("[") and part.endswith("]") and len(part) > 2:
                inner = part[1:-1]
                out.append(f"[^/{_ranges(inner[1:])}]" if inner.startswith("!") else f"[{_ranges(inner)}]")
            case _:
                out.append(re.escape(part))
    return "".join(out)


def _ranges(characters: str) -> str:
    return characters.replace("\\", r"\\").replace("^", r"\^")


def _first_pattern(parts: list[str], *, on_disk: bool) -> int:
    """The place of the first part of a path that is a pattern; the number of parts if there is none.

    Such characters in the name of a file or folder that there is on the disk are no pattern.
    """
    for i, part in enumerate(parts):
        if _WILD.search(part) and not (on_disk and Path("/".join(parts[: i + 1])).exists()):
            return i
    return len(parts)


def _walk(root: Path) -> Iterator[tuple[str, State]]:
    """The files below a folder that are not hidden, links to folders included. Raises OSError."""
    if not root.is_dir():
        return
    for folder, below, names in os.walk(root, followlinks=True, onerror=_raised):
        # What a running program hides may disappear at any time, as Spark's `_temporary`, or be no file.
        below[:] = [name for name in below if not _hidden(name)]
        for name in below:
            path = Path(folder) / name
            if path.is_symlink() and Path(folder).resolve().is_relative_to(path.resolve()):
                raise OSError(f"'{path}' is a link to a folder above it")
        for name in names:
            path = Path(folder) / name
            if not _hidden(name):
                yield path.relative_to(root).as_posix(), state_on_disk(path)


def _raised(error: OSError) -> None:
    """A folder that may not be read is an error: its rows would be missing."""
    raise error


def _refuse_twice(root: str, names: list[str]) -> None:
    """Raise OSError if two names lead to one file, whose rows would count twice."""
    folders: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in names:
        path = os.path.join(root, name)
        folder, own = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[folder], own)
        other = first.setdefault(real, name)
        if other != name:
            raise OSError(f"'{other}' and '{name}' in {root} are one file through a link, whose rows would count twice")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) and "=" not in part for part in name.split("/"))


def _partition(folders: list[str]) -> dict[str, str | None]:
    """The columns that folders name, as Hive writes them: `date=0430`, with escaped characters."""
    named = (folder.partition("=") for folder in folders)
    return {
        unquote(column): None if value == _NO_VALUE else unquote(value) for column, equals, value in named if equals
    }


def _trailing_partition(root: str) -> dict[str, str | None]:
    """The partition that the last folders of a root name, so that a pattern over one day has the day as well."""
    folders: list[str] = []
    for folder in reversed(root.split("/")):
        if "=" not in folder:
            break
        folders.insert(0, folder)
    return _partition(folders)
