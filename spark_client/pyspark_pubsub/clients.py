"""Connections of this Python worker, which Spark keeps for many tasks."""

from __future__ import annotations

import os

from penstock.client import NodeClient
from penstock.contract import DEFAULT_ENDPOINT, Reader
from penstock.contract.actions import CommitRequest

_clients: dict[tuple[int, str], NodeClient] = {}
"""By process, since Spark forks its workers."""

_told: dict[tuple[int, str], tuple[Reader, tuple[int, ...]]] = {}
"""Epochs that tasks of this worker told a node of last."""


def client(endpoint: str) -> NodeClient:
    """The one to this daemon."""
    key = (os.getpid(), endpoint)
    if key not in _clients:
        _clients[key] = NodeClient(endpoint)
    return _clients[key]


def beside() -> NodeClient:
    """The one to the daemon beside this worker, as `penstock.client.own_node` finds it."""
    return client(os.environ.get("PENSTOCK_ENDPOINT") or DEFAULT_ENDPOINT)


def is_first(node: str, commit: CommitRequest) -> bool:
    """Whether this worker has not told the node of these epochs yet."""
    key = (os.getpid(), node)
    epochs = (commit.reader, tuple(finished.epoch for finished in commit.epochs))
    first = _told.get(key) != epochs
    _told[key] = epochs
    return first
