"""Finds the canonical tables of a recipe: the folder, the files, and what they hold."""

import hashlib
from pathlib import Path

from models.recipe import RecipeError
from models.recipe.sections.data import DataSection
from tables import Table, open_table

Tables = dict[str, Table]


def open_role(folder: Path, role: str, file_name: str) -> Table:
    """The table of a role. If a folder has the CSV instead of the Parquet file that a recipe names, the CSV is read.

    Raises RecipeError if neither is there, TableError if it cannot be read.
    """
    path = existing(folder / file_name)
    if path is None:
        there = sorted(p.name for p in folder.iterdir() if p.is_file())
        problem = f"no file '{file_name}' in {folder}; found: {', '.join(there) or 'nothing'}"
        raise RecipeError(f"data.{role}: {problem}", ("data", role))
    return open_table(path, role)


def existing(path: Path) -> Path | None:
    """The file itself, or the CSV beside where the Parquet file is missing; None if neither is there."""
    if path.is_file():
        return path
    csv = path.with_suffix(".csv")
    return csv if path.suffix == ".parquet" and csv.is_file() else None


def data_folder(data: DataSection) -> Path:
    """The folder that `data.dir` or else `data.fallback` names. Raises RecipeError if neither has the impressions."""
    for name in (data.dir, data.fallback):
        if name is not None and existing(Path(name) / data.impressions) is not None:
            return Path(name)
    tried = " and no ".join(f"'{Path(n) / data.impressions}'" for n in (data.dir, data.fallback) if n)
    advice = (
        data.how_to_get
        or "`python -m models.prepare --help` shows how to make the tables of the recipes that come along"
    )
    raise RecipeError(f"data.dir: there is no {tried}; {advice}", ("data", "dir"))


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
