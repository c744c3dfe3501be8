"""Addresses to listen on."""

from __future__ import annotations

import ipaddress

MAX_PORT = 65_535

_LOOPBACK_NAMES = frozenset({"localhost"})


def split_address(address: str) -> tuple[str, int]:
    """`host:port` and `[host]:port` in two. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ValueError(f"must look like host:port with a port of 0 to {MAX_PORT}, not {address!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; names other than localhost are not looked up and count as no."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
