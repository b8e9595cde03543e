"""Owns the forms of Redis' address: one Redis, or the seeds of a Redis Cluster, which redis-py's URLs have no word for.

`redis+cluster://user:password@host:port,host:port/?option=value`, and `rediss+cluster://` with TLS; user, password and options are those of
`redis://` and hold for every node.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

_CLUSTER = "+cluster"
SCHEMES = ("redis", "rediss", "unix", "redis" + _CLUSTER, "rediss" + _CLUSTER)
_PORT = 6379

Address = tuple[str, int]


@dataclass(frozen=True)
class Seeds:
    """Nodes of a cluster that are asked first, and what it takes to talk to any node."""

    scheme: str
    credentials: str
    query: str
    nodes: tuple[Address, ...]

    def at(self, address: Address) -> str:
        """The URL of one node."""
        host, port = address
        shown = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.credentials}{shown}:{port}/{self.query}"


def seeds_of(url: str) -> Seeds | None:
    """What a cluster's URL says; None where it names one Redis. Raises ValueError, which never quotes the URL: it may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"a URL that starts with {', '.join(f'{s}://' for s in SCHEMES[:-1])} or {SCHEMES[-1]}:// is expected"
        )
    credentials, at, hosts = parts.netloc.rpartition("@")
    if not parts.scheme.endswith(_CLUSTER):
        if "," in hosts:
            raise ValueError(
                f"several hosts are the nodes of a cluster: {parts.scheme}{_CLUSTER}://host:port,host:port/"
            )
        if parts.scheme != "unix" and hosts:
            _address(hosts)
        return None
    nodes = tuple(_address(host) for host in hosts.split(","))
    if parts.path not in ("", "/", "/0"):
        raise ValueError("a Redis Cluster has database 0 alone: leave the path empty")
    return Seeds(parts.scheme.removesuffix(_CLUSTER), credentials + at, f"?{parts.query}" if parts.query else "", nodes)


def _address(text: str) -> Address:
    try:
        found = urlsplit("//" + text)
        host = found.hostname
        port = found.port
    except ValueError:
        host = None
        port = None
    if not host or port == 0:
        raise ValueError(
            "host:port is expected, the port from 1 to 65535; in a user or password write : / ? # [ ] @ as %3A %2F %3F %23 %5B %5D %40"
        )
    return host, port or _PORT
