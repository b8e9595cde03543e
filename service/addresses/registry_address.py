"""Reads the address of a registry: a folder, or the URI of an object store, of which each host has a copy in a folder.

The name of a copy's folder is the URI, quoted. So whoever has the folder knows the store, in every process.
"""

import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from service.addresses.log_address import LogAddress, is_uri, log_address

MEMORY: Final = "memory"
GOOGLE: Final = "gs"
_SCHEMES: Final = ("s3", GOOGLE, "az", MEMORY)
_COPY_NAME = re.compile(rf"({'|'.join(_SCHEMES)})%3A%2F%2F.+")
_LONGEST_NAME = 200  # file systems end at 255, and temporary files beside it have longer names


def registry_folder(address: str, cache: Path) -> Path:
    """Return the folder of a registry: the address itself, or the folder in `cache` of the copy. Raises ValueError."""
    if not is_uri(address):
        return Path(address)
    parts = urlsplit(address)
    if parts.scheme == "file":
        if parts.netloc or not parts.path:
            raise ValueError("write file:///folder")
        return Path(unquote(parts.path))
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in (*_SCHEMES[:-1], "file"))
        raise ValueError(f"a folder or one of {known} is needed")
    if parts.scheme != MEMORY:
        log_address(address)  # the same rules: a bucket, and no credentials
    name = quote(address.rstrip("/"), safe="")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"the address is too long: {len(name)} characters quoted, {_LONGEST_NAME} are possible")
    try:
        return cache.expanduser().absolute() / name
    except RuntimeError as error:  # a user without a home
        raise ValueError(f"{cache}: {error}; set FUNNELRANK_REGISTRY_CACHE") from None


def uri_of(folder: Path) -> str | None:
    """Return the object store that a registry's folder is the copy of; None if it is no copy."""
    return unquote(folder.name) if _COPY_NAME.fullmatch(folder.name) else None


def store_address(uri: str) -> LogAddress:
    """The address of a copy's object store, as the stores are opened with."""
    return LogAddress(uri, urlsplit(uri).scheme)


def shown(path: Path) -> str:
    """Return a path for people: what lies in a copy has the address that it has in the object store."""
    for folder in (path, *path.parents):
        uri = uri_of(folder)
        if uri is not None:
            return "/".join((uri, *path.relative_to(folder).parts))
    return str(path)
