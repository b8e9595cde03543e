"""Opens object stores.

Credentials come from where each store's own tools find them: its variables, its files, or the machine's identity.
"""

from datetime import timedelta
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from features.files.object_errors import in_one_line
from service.addresses.log_address import LogAddress
from service.addresses.registry_address import MEMORY

_in_memory: dict[str, MemoryStore] = {}


class CannotOpen(Exception):  # noqa: N818 - a state, not a mistake
    """An object store whose address or settings cannot be used; the message says why."""


def open_objects(address: LogAddress, retries: int, timeout: str) -> ObjectStore:
    """Open a store; no call is made yet. A call ends after `timeout` and is repeated up to `retries` times.

    Raises CannotOpen.
    """
    try:
        if address.scheme == MEMORY:
            return _in_memory.setdefault(address.uri, MemoryStore())
        if address.scheme == "file":
            return LocalStore(unquote(urlsplit(address.uri).path), mkdir=True)
        return from_url(
            address.uri,
            # These replace what the store's variables say of its client. A plain address is used only if one is named.
            client_options={"connect_timeout": "5s", "timeout": timeout, "allow_http": True},
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=10)},
        )
    except (BaseError, OSError, ValueError) as error:
        raise CannotOpen(f"{address.uri}: {in_one_line(error)}") from None
