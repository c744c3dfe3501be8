"""One node as a reader knows it."""

from __future__ import annotations

import logging

from penstock.client.commits import PendingCommits
from penstock.client.node import Node
from penstock.contract import HEARTBEATS_PER_TIMEOUT
from penstock.contract.actions import Backlog, OpenReply

_LOG = logging.getLogger("penstock.client")

FIRST_HEARTBEAT_S = 1.0
"""Until a node has said how often it wants to hear of its readers."""


class Peer:
    """What answers at one address. `id` is None until something did.

    `up`: it answered the last call, or none was made yet. `opened`: it knows this reader. `endpoint`: where tasks read.
    `told`: it has heard of all commits, whether their acks are confirmed or not.
    `held`: epochs of which it has, or may have, a batch that no reply has told of.
    """

    def __init__(self, node: Node, commit_ttl: int) -> None:
        self.node = node
        self.id: str | None = None
        self.incarnation = ""
        self.up = True
        self.opened = False
        self.endpoint = node.endpoint
        self.heartbeat_s = FIRST_HEARTBEAT_S
        self.held: set[int] = set()
        self.told = True
        self.commits = PendingCommits(commit_ttl)
        self._backlog: Backlog | None = None

    def __repr__(self) -> str:
        """Where, which, and how it stands."""
        state = "down" if not self.up else "opened" if self.opened else "up"
        return f"<Peer {self.node.endpoint} ({self.id}, {state})>"

    @property
    def consumer_timeout_s(self) -> float | None:
        """After which the node gives a silent consumer up; None until it was opened once."""
        return None if not self.incarnation else self.heartbeat_s * HEARTBEATS_PER_TIMEOUT

    @property
    def backlog(self) -> Backlog | None:
        """What waited there when it last said so."""
        return self._backlog

    @backlog.setter
    def backlog(self, said: Backlog) -> None:
        """Trouble with Pub/Sub fails no query, so the log tells why nothing comes: when it begins and when it ends."""
        before = None if self._backlog is None else self._backlog.trouble
        self._backlog = said
        if said.trouble and not before:
            _LOG.warning("%s has trouble with Pub/Sub, the query waits: %s", self.node.endpoint, said.trouble)
        elif before and not said.trouble:
            _LOG.warning("%s has no trouble with Pub/Sub any more", self.node.endpoint)

    def answers_as(self, node: str, incarnation: str) -> None:
        """Who answers here now: another one than before has to be opened."""
        if self.id is not None and self.id != node:
            _LOG.warning("%s leads to another daemon than before, or to one that was restarted", self.node.endpoint)
        if (self.id, self.incarnation) != (node, incarnation):
            self.opened = False
        self.id = node

    def admitted(self, reply: OpenReply) -> None:
        """`open` was answered."""
        self.incarnation, self.heartbeat_s, self.held = reply.incarnation, reply.heartbeat_s, set(reply.held)
        self.endpoint = reply.endpoint or self.node.endpoint
        self.opened = True
