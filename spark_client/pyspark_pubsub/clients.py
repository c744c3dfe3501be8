"""Connections of this Python worker, which Spark keeps for many tasks."""

from __future__ import annotations

import os

from penstock.client import NodeClient

_clients: dict[tuple[int, str], NodeClient] = {}
"""By process, since Spark forks its workers."""


def client(endpoint: str) -> NodeClient:
    """The one to this daemon."""
    key = (os.getpid(), endpoint)
    if key not in _clients:
        _clients[key] = NodeClient(endpoint)
    return _clients[key]
