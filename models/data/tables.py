"""Finds the canonical tables of a recipe: the folder, the files, and their columns."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from models.recipe import Recipe, RecipeError
from models.recipe.sections.data import DataSection
from tables import Table, open_table, place_in
from tables.files.listing import list_files
from tables.files.table_file import TableFile

Tables = dict[str, Table]


def open_role(folder: str, role: str, name: str, how_to_get: str | None = None) -> Table:
    """Open the table of a role: a file, or a folder, a pattern or a URI of several.

    If a Parquet file is missing and the folder has the CSV file, the CSV file is read. Raises RecipeError if there is
    no file, TableError if one cannot be read. `how_to_get`: the recipe's advice for a missing one.
    """
    place = existing(folder, name)
    if place is None:
        there = _names_in(folder)
        problem = f"no file '{name}' in {folder}; found: {', '.join(there) or 'nothing'}"
        if how_to_get:
            problem += f"; {how_to_get}"
        raise RecipeError(f"data.{role}: {problem}", ("data", role))
    return open_table(place, role)


def _names_in(folder: str) -> list[str]:
    """The names of the files, and of the folders with a `/`, for a message."""
    if "://" in folder or not Path(folder).is_dir():
        return []
    return sorted(path.name if path.is_file() else f"{path.name}/" for path in Path(folder).iterdir())


def tables_of(recipe: Recipe, source: str) -> Tables:
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
            tables[role] = open_role(source, role, name, data.how_to_get)
        elif beyond_id:
            group = f"features.{role.removesuffix('s')}"
            problem = f"data.{role} is null, but {group} names '{beyond_id[0]}', which only that table has"
            raise RecipeError(problem, ("data", role))
    if schema.behaviour is not None:
        if data.behaviours is None:
            problem = "data.behaviours is null, but features.behaviour needs behaviour sequences"
            raise RecipeError(problem, ("data", "behaviours"))
        tables["behaviours"] = open_role(source, "behaviours", data.behaviours, data.how_to_get)
    if schema.counters and data.behaviours is not None and not data.served:
        tables["events"] = open_role(source, "behaviours", data.behaviours)
    return tables


def existing(folder: str, name: str) -> str | None:
    """The place of a table; None if it has no file. A CSV takes the place of a missing Parquet table beside it."""
    place = place_in(folder, name)
    try:
        if list_files(place):
            return place
    except OSError as error:
        raise RecipeError(f"data.dir: {error}", ("data", "dir")) from None
    csv = place.removesuffix(".parquet") + ".csv"
    return csv if place.endswith(".parquet") and Path(csv).exists() else None


def data_folder(data: DataSection) -> str:
    """Return the folder of `data.dir`, else of `data.fallback`. Raises RecipeError if neither has the impressions."""
    for name in (data.dir, data.fallback):
        if name is not None and existing(name, data.impressions) is not None:
            return name if "://" in name else str(Path(name))
    tried = " and no ".join(f"'{place_in(n, data.impressions)}'" for n in (data.dir, data.fallback) if n)
    advice = data.how_to_get or "`python -m models.prepare --help` shows how to make the tables of the included recipes"
    raise RecipeError(f"data.dir: there is no {tried}; {advice}", ("data", "dir"))


def table_hashes(tables: Mapping[str, Table]) -> dict[str, str]:
    """A hash of each table's content, in hex: by the name of its file, or by its place where it may have several."""
    hashes: dict[str, str] = {}
    for table in tables.values():
        if table.is_one_file:
            name = table.path.name
            digest = file_hash(table.files[0])
            # Two tables may have files of one name in folders of their own; neither may hide the other.
            if hashes.get(name, digest) != digest:
                name = f"{table.role}: {name}"
            hashes[name] = digest
            continue
        content = hashlib.sha256()
        for file in table.files:
            content.update(f"{file.name} {file_hash(file)}\n".encode())
        hashes[f"{table.role}: {len(table.files):,} files"] = content.hexdigest()
    return hashes


def file_hash(file: TableFile) -> str:
    """SHA-256 of a file's bytes; of an object, which is not read for it, of its place, size and ETag."""
    if file.is_object:
        return hashlib.sha256(f"{file.root} {file.name} {file.state}".encode()).hexdigest()
    with file.path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
