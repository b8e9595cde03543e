"""Lists folders of an object store, past names that its client library cannot read, as `prefix//a`."""

import logging
from functools import lru_cache
from typing import Any

import obstore
from obstore.exceptions import InvalidPathError

from features.files.object_errors import in_one_line
from service.objects.answers import plain_tag

log = logging.getLogger("funnelrank.objects")


def folder_names(store: Any, prefix: str) -> list[str]:
    """The names of the folders directly below a prefix, sorted. Raises obstore's errors.

    The library refuses a whole list for one name with an empty part, `.` or `..`. All of these sort before "0", and the
    names of models and versions do not, so that S3 and Google Cloud Storage are asked to begin there. Azure cannot
    begin in the middle: there the error stays.
    """
    try:
        listed = obstore.list_with_delimiter(store, prefix or None)
        return sorted(str(path).rpartition("/")[2] for path in listed["common_prefixes"])
    except InvalidPathError as error:
        later = _entries(store, prefix, offset=f"{prefix}/0".lstrip("/"))
        _report(in_one_line(error))
        return sorted(_by_folder(later, prefix))


def manifest_tags(store: Any, prefix: str, file: str) -> dict[str, str]:
    """The folders directly below a prefix, each with the plain ETag of its object `file`, "" if that is unknown.

    One list tells both, unless it has a name that cannot be read. Raises obstore's errors.
    """
    try:
        entries = _entries(store, prefix)
    except InvalidPathError:
        return dict.fromkeys(folder_names(store, prefix), "")
    tags = _by_folder(entries, prefix)
    for entry in entries:
        folder, _, name = _below(entry, prefix)
        if name == file:
            tags[folder] = plain_tag(str(entry["e_tag"] or ""))
    return tags


def _entries(store: Any, prefix: str, offset: str | None = None) -> list[Any]:
    return [entry for entries in obstore.list(store, prefix or None, offset=offset) for entry in entries]


def _by_folder(entries: list[Any], prefix: str) -> dict[str, str]:
    """The folders that the entries lie in, without tags; an object that lies in none is left out."""
    parts = [_below(entry, prefix) for entry in entries]
    return {folder: "" for folder, slash, _ in parts if slash}


def _below(entry: Any, prefix: str) -> tuple[str, str, str]:
    return str(entry["path"]).removeprefix(f"{prefix}/" if prefix else "").partition("/")


@lru_cache(maxsize=256)
def _report(problem: str) -> None:
    """Log a name that is left out, once."""
    log.warning("objects are left out of a list: %s", problem)
