"""Keeps load on this machine: a target must be a loopback address unless the user allows another one."""

import ipaddress
import socket
from urllib.parse import urlsplit


class TargetError(ValueError):
    """The address is malformed, unknown or not on this machine."""


def require_loopback(url: str) -> None:
    """Raise TargetError unless every address of the URL's host is a loopback address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TargetError(f"{url} is not an http:// or https:// address")
    try:
        addresses = {
            str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        }
    except socket.gaierror as error:
        raise TargetError(f"{parts.hostname} cannot be resolved: {error}") from error
    remote = sorted(address for address in addresses if not ipaddress.ip_address(address).is_loopback)
    if remote:
        raise TargetError(
            f"{parts.hostname} is {remote[0]}, not this machine; --allow-remote sends load there all the same"
        )
