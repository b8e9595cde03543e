"""Names the feature store of each URL scheme, and checks a URL. A new store adds one line to `STORES`."""

from urllib.parse import urlsplit

from service.addresses.redis_url import SCHEMES, address_of

# Scheme -> the module that opens the store: it has `check`, `open_store` and `open_writer`, as service/store/redis has.
STORES: dict[str, str] = {
    **dict.fromkeys(SCHEMES, "service.store.redis.opening"),
}


def check_url(url: str) -> None:
    """Raise ValueError for a URL that no store can use; the message never quotes the URL."""
    scheme = urlsplit(url).scheme
    if scheme in SCHEMES or scheme not in STORES:
        address_of(url)
