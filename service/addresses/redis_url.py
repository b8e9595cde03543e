"""Reads the URL of Redis: one Redis, or the first nodes of a Redis Cluster, for which redis-py has no URL form.

`redis+cluster://user:password@host:port,host:port/?option=value`, and `rediss+cluster://` with TLS. User, password and
options are those of `redis://` and apply to every node. Readers and writers connect with the values parsed here, so
both understand a URL in the same way.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from features.nearest import nearest

_CLUSTER = "+cluster"
SCHEMES = ("redis", "rediss", "unix", "redis" + _CLUSTER, "rediss" + _CLUSTER)
_PORT = 6379
_CERT_REQS = ("none", "optional", "required")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
# The options that both redis-py clients (blocking and asyncio) pass to their TLS context.
TLS_OPTIONS = (
    *_TLS_FILES,
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_exclude_verify_flags",
    "ssl_include_verify_flags",
    "ssl_min_version",
    "ssl_password",
)
OPTIONS = ("db", "username", "password", *TLS_OPTIONS)
_TLS_DEFAULTS = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
_ESCAPES = "in a user or password write : / ? # [ ] @ as %3A %2F %3F %23 %5B %5D %40"
_TIMEOUTS = ("timeout", "socket_timeout", "socket_connect_timeout")

Address = tuple[str, int]


@dataclass(frozen=True)
class RedisAddress:
    """How to connect to Redis. `nodes` is empty if `path` names a Unix socket; `tls` is None without TLS."""

    nodes: tuple[Address, ...]
    path: str
    is_cluster: bool
    username: str | None
    password: str | None = field(repr=False)
    database: int
    tls: Mapping[str, Any] | None = field(repr=False)

    def options(self) -> dict[str, Any]:
        """Keyword arguments for redis-py's clients, without the address."""
        known = {"username": self.username, "password": self.password}
        if not self.is_cluster:
            known["db"] = self.database  # type: ignore[assignment]
        return known | ({} if self.tls is None else {"ssl": True} | dict(self.tls))

    @cached_property
    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context that redis-py makes of these options. Raises ValueError that names the unusable
        option.
        """
        from redis.asyncio.connection import SSLConnection

        if self.tls is None:
            return None
        for name in _TLS_FILES:
            if name in self.tls and not Path(self.tls[name]).is_file():
                raise ValueError(f"{name}: there is no file {self.tls[name]}")
        try:
            return SSLConnection(**self.tls).ssl_context.get()
        except (OSError, ValueError, OverflowError) as error:  # ssl.SSLError is an OSError
            raise ValueError(f"{', '.join(sorted(self.tls))}: no TLS context can be made of these: {error}") from None


def address_of(url: str) -> RedisAddress:
    """Parse a URL. The ValueError that it raises never quotes the URL, because a URL may contain a password."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        schemes = ", ".join(f"{s}://" for s in SCHEMES[:-1])
        raise ValueError(f"a URL that starts with {schemes} or {SCHEMES[-1]}:// is expected")
    if "#" in url:
        raise ValueError(f"what follows # is no part of a URL; {_ESCAPES}")
    is_cluster = parts.scheme.endswith(_CLUSTER)
    credentials, at, hosts = parts.netloc.rpartition("@")

    # The address to connect to.
    nodes: tuple[Address, ...] = ()
    if parts.scheme == "unix":
        if hosts or not parts.path.startswith("/") or parts.path == "/":
            raise ValueError("the path of a socket is expected after three slashes: unix:///run/redis.sock")
    elif "," in hosts and not is_cluster:
        raise ValueError(f"several hosts are the nodes of a cluster: {parts.scheme}{_CLUSTER}://host:port,host:port/")
    elif hosts or is_cluster:
        nodes = tuple(_node(host) for host in hosts.split(","))
    else:
        nodes = (("localhost", _PORT),)

    # Everything else is parsed as redis-py parses it.
    options = _options(f"{parts.scheme.removesuffix(_CLUSTER)}://{credentials}{at}{_rest(parts.path, parts.query)}")
    _check_names(parts.query, uses_tls=parts.scheme.startswith("rediss"))
    _check_repeats(parts)
    _check_database(parts.scheme, parts.path, options.get("db", 0))
    tls = None
    if parts.scheme.startswith("rediss"):
        tls = _TLS_DEFAULTS | {name: options[name] for name in TLS_OPTIONS if options.get(name) is not None}
        if tls["ssl_cert_reqs"] not in _CERT_REQS:
            raise ValueError(f"ssl_cert_reqs is one of {', '.join(_CERT_REQS)}")
    return RedisAddress(
        nodes=nodes,
        path=options.get("path", ""),
        is_cluster=is_cluster,
        username=options.get("username"),
        password=options.get("password"),
        database=options.get("db", 0),
        tls=tls,
    )


def _rest(path: str, query: str) -> str:
    return f"{path or '/'}?{query}" if query else path or "/"


def _options(url: str) -> dict[str, Any]:
    from redis.asyncio.connection import parse_url

    try:
        return dict(parse_url(url))
    except ValueError as error:
        raise ValueError(str(error)) from None


def _check_names(query: str, uses_tls: bool) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _TIMEOUTS:
            raise ValueError(f"option {name} is not for the URL: FUNNELRANK_REDIS_TIMEOUT_MS says how long to wait")
        if name not in OPTIONS:
            raise ValueError(f"option {name} is not supported for both reads and writes{nearest(name, OPTIONS)}")
        if name in TLS_OPTIONS and not uses_tls:
            raise ValueError(f"option {name} is for TLS, and the URL does not start with rediss://")
        if not value:
            raise ValueError(f"option {name} has no value")


def _check_repeats(parts: SplitResult) -> None:
    """Raise ValueError for two values of one option: redis-py takes one of them silently."""
    options = parse_qsl(parts.query, keep_blank_values=True)
    options += [("username", unquote(parts.username or "")), ("password", unquote(parts.password or ""))]
    if parts.scheme != "unix":
        options.append(("db", parts.path.strip("/")))
    values: dict[str, str] = {}
    for name, value in options:
        if value and values.setdefault(name, value) != value:
            raise ValueError(f"option {name} has two values")


def _check_database(scheme: str, path: str, database: int) -> None:
    if scheme.endswith(_CLUSTER):
        if path not in ("", "/", "/0") or database:
            raise ValueError("a Redis Cluster has only database 0: leave the path empty")
        return
    if scheme != "unix" and path not in ("", "/") and not (path[1:].isascii() and path[1:].isdigit()):
        raise ValueError("the path of the URL is the number of the database, such as /0")
    if database < 0:
        raise ValueError("the number of the database is 0 or more")


def _node(text: str) -> Address:
    try:
        parts = urlsplit("//" + text)
        host = parts.hostname
        port = parts.port
    except ValueError:
        host = None
        port = None
    if not host or port == 0 or any(character.isspace() for character in host):
        raise ValueError(f"host:port is expected, the port from 1 to 65535; {_ESCAPES}")
    return host, port or _PORT
