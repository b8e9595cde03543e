"""Finds the canonical tables of a recipe: the folder, the files, and their columns."""

import hashlib
from pathlib import Path

from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import DataSection
from tables import Table, open_table

Tables = dict[str, Table]


def open_role(folder: Path, role: str, file_name: str) -> Table:
    """Open the table of a role. If the Parquet file is missing and the folder has the CSV file, the CSV file is read.

    Raises RecipeError if neither file exists, TableError if it cannot be read.
    """
    path = existing(folder / file_name)
    if path is None:
        there = sorted(p.name for p in folder.iterdir() if p.is_file())
        problem = f"no file '{file_name}' in {folder}; found: {', '.join(there) or 'nothing'}"
        raise RecipeError(f"data.{role}: {problem}", ("data", role))
    return open_table(path, role)


def tables_of(recipe: Recipe, source: Path) -> Tables:
    """Open the tables that a recipe reads, by role. Raises RecipeError and TableError."""
    data = recipe.data
    schema = recipe.features
    tables = {"impressions": open_role(source, "impressions", data.impressions)}
    for role, name, features, id_feature in (
        ("users", data.users, schema.user, schema.user_id_feature),
        ("items", data.items, schema.item, schema.item_id_feature),
    ):
        beyond_id = [f.name for f in features if f.name != id_feature]
        if name is not None:
            tables[role] = open_role(source, role, name)
        elif beyond_id:
            group = f"features.{role.removesuffix('s')}"
            problem = f"data.{role} is null, but {group} names '{beyond_id[0]}', which only that table has"
            raise RecipeError(problem, ("data", role))
    if schema.behaviour is not None:
        if data.behaviours is None:
            problem = "data.behaviours is null, but features.behaviour needs behaviour sequences"
            raise RecipeError(problem, ("data", "behaviours"))
        tables["behaviours"] = open_role(source, "behaviours", data.behaviours)
    if schema.counters and data.behaviours is not None and not data.served:
        tables["events"] = open_role(source, "behaviours", data.behaviours)
    return tables


def existing(path: Path) -> Path | None:
    """Return the Parquet file or, if it is missing, the CSV file beside it; None if neither exists."""
    if path.is_file():
        return path
    csv = path.with_suffix(".csv")
    return csv if path.suffix == ".parquet" and csv.is_file() else None


def data_folder(data: DataSection) -> Path:
    """Return the folder of `data.dir`, else of `data.fallback`. Raises RecipeError if neither has the impressions."""
    for name in (data.dir, data.fallback):
        if name is not None and existing(Path(name) / data.impressions) is not None:
            return Path(name)
    tried = " and no ".join(f"'{Path(n) / data.impressions}'" for n in (data.dir, data.fallback) if n)
    advice = data.how_to_get or "`python -m models.prepare --help` shows how to make the tables of the included recipes"
    raise RecipeError(f"data.dir: there is no {tried}; {advice}", ("data", "dir"))


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
