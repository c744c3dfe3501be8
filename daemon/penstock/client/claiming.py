"""A task's questions before it reads, where a query has several nodes: which slice is mine, and which node is near."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

from penstock.client.calls import RETRY_FIRST_S, RETRY_LAST_S
from penstock.client.node import NodeClient
from penstock.contract import DEFAULT_ENDPOINT, PROTOCOL_VERSION
from penstock.contract.actions import ClaimReply, ClaimRequest, PlacedSlice, StatusReply, StatusRequest
from penstock.contract.body import Request
from penstock.errors import NodeUnreachable, PenstockError

_LOG = logging.getLogger("penstock.client")

OWN_NODE_DEADLINE_S = 1.0
"""How long a task waits for the daemon beside it to say its name: it answers within milliseconds, or reads are as fast
from another one."""

OWN_NODE_KNOWN_S = 60.0
"""For how long the answer holds, also that nobody answers: Spark keeps its workers for hours, and a daemon that starts
without `data_dir` has another name."""


class Host(Protocol):
    """Where a plan is dealt; as `NodeClient`."""

    def call(self, action: str, request: Request) -> ClaimReply:
        """The reply to `claim`."""


def claim(  # noqa: PLR0913 - what the request has, and how to wait
    host: Host,
    plan: str,
    incarnation: str,
    partition: int,
    near: str | None,
    wait_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> PlacedSlice:
    """The slice that this partition of a plan reads, however often a task asks.

    Raises `NodeUnreachable` when the plan's host did not answer for `wait_s`, and at once what the host itself says,
    such as `PlanGone` from one that was restarted.
    """
    request = ClaimRequest(v=PROTOCOL_VERSION, plan=plan, incarnation=incarnation, partition=partition, near=near)
    waiting_since, pause_s = clock(), RETRY_FIRST_S
    while True:
        try:
            return host.call("claim", request).slice
        except NodeUnreachable as error:
            waited_s = clock() - waiting_since
            if waited_s >= wait_s:
                raise NodeUnreachable(
                    f"{error.message} (it deals the slices of this batch; waited {waited_s:.0f} s, option nodeWait)",
                    node=error.node,
                    **error.details,
                ) from error
            if pause_s == RETRY_FIRST_S:
                _LOG.warning("waiting up to %g s for a slice: %s", wait_s, error)
        sleep(pause_s)
        pause_s = min(2 * pause_s, RETRY_LAST_S)


class OwnNode:
    """The name of the daemon beside a process; asked for when it is needed, and remembered for a while."""

    def __init__(self, ask: Callable[[], str | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._node: str | None = None
        self._asked_at: float | None = None

    def get(self) -> str | None:
        """The node ID; None when nobody answers, which is no failure."""
        now = self._clock()
        if self._asked_at is None or now - self._asked_at >= OWN_NODE_KNOWN_S:
            self._node = self._ask()
            self._asked_at = self._clock()
        return self._node


def ask_own_node() -> str | None:
    """The ID of the node at `PENSTOCK_ENDPOINT`, or on localhost; None when nobody answers there."""
    endpoint = os.environ.get("PENSTOCK_ENDPOINT") or DEFAULT_ENDPOINT
    try:
        with NodeClient(endpoint) as node:
            status: StatusReply = node.call("status", StatusRequest(v=PROTOCOL_VERSION), OWN_NODE_DEADLINE_S)
    except PenstockError as error:
        _LOG.info("no daemon beside this task, so no slice is nearer than another (%s): %s", endpoint, error)
        return None
    return status.node


_own: dict[int, OwnNode] = {}
"""By process, since Spark forks its workers."""


def own_node() -> str | None:
    """The ID of the node beside this process, asked for once a minute; None when there is none. Never a failure."""
    return _own.setdefault(os.getpid(), OwnNode(ask_own_node)).get()
