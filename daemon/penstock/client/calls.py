"""What one reader says to its nodes: it opens where that is needed, repeats what got no answer, and stops when fenced.

No threads, no sockets, no clock: nodes, time and sleep are handed in, so that whole queries run in simulation.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from penstock.client.commits import PendingCommits
from penstock.client.node import Node
from penstock.contract import PROTOCOL_VERSION, Reader, new_id
from penstock.contract.actions import (
    AliveRequest,
    Backlog,
    ByeRequest,
    CloseRequest,
    CreateSubscription,
    OpenReply,
    OpenRequest,
    ReaderRequest,
    StatusRequest,
)
from penstock.contract.body import Request
from penstock.errors import (
    DiskFull,
    Draining,
    NodeUnreachable,
    OpenAgain,
    PenstockError,
    ReaderFenced,
    ServiceUnavailable,
    SubscriptionShared,
)

_LOG = logging.getLogger("penstock.client")

RETRY_FIRST_S = 0.05
RETRY_LAST_S = 1.0
"""Waits between two tries of a node that does not answer double from the first to the last."""


@dataclass(frozen=True, kw_only=True)
class ReaderSettings:
    """How one consumer reads one subscription. `columns`: those wanted, in order; None for all."""

    subscription: str
    share: bool = False
    create: CreateSubscription | None = None
    columns: tuple[str, ...] | None = None
    node_wait_s: float = 90.0
    commit_ttl: int = 5


class Peer:
    """One node as this reader knows it. `id` is None until it was opened.

    `held`: epochs that it had sealed for the consumer before `open`, and that no call has asked for since.
    `endpoint`: where tasks read. `left`: nodes that answered at this address before, and when another one first did.
    """

    def __init__(self, node: Node, commit_ttl: int) -> None:
        self.node = node
        self.id: str | None = None
        self.opened = False
        self.endpoint = node.endpoint
        self.up = True
        self.heartbeat_s = RETRY_LAST_S
        self._backlog: Backlog | None = None
        self.held: set[int] = set()
        self.left: dict[str, float] = {}
        self.commits = PendingCommits(commit_ttl)

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


class Calls:
    """One reader's calls. `after` is the last epoch that Spark has finished, for nodes that are to be opened.

    `turn` is held by a call that may open, so that a heartbeat on another thread leaves opening to it.
    """

    def __init__(
        self,
        consumer: str,
        settings: ReaderSettings,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.consumer = consumer
        self.settings = settings
        self.reader: Reader | None = None
        self.after = 0
        self.turn = threading.Lock()
        self._fenced: ReaderFenced | None = None
        self._clock, self._wall, self._sleep = clock, wall, sleep

    def patiently(self, peer: Peer, action: str, request: Callable[[], Request]) -> Any:
        """Call, opening first where needed, again and again until there is an answer or `node_wait_s` is over.

        All our calls may be repeated: a lost reply costs a second call. The last error is raised.
        """
        waiting_since, pause_s = self._clock(), RETRY_FIRST_S
        while True:
            try:
                if not peer.opened:
                    self.open(peer)
                reply = self.once(peer, action, request())
            except OpenAgain:
                peer.opened = False
                error: PenstockError = NodeUnreachable(
                    f"the daemon at {peer.node.endpoint} forgets this reader again and again"
                )
            except (NodeUnreachable, ServiceUnavailable, Draining, DiskFull, SubscriptionShared) as failure:
                error = failure
                if pause_s == RETRY_FIRST_S:
                    _LOG.warning("waiting up to %g s: %s", self.settings.node_wait_s, failure)
            else:
                return reply
            waited_s = self._clock() - waiting_since
            if waited_s >= self.settings.node_wait_s:
                raise type(error)(
                    f"{error.message} (waited {waited_s:.0f} s, option nodeWait)", node=error.node, **error.details
                ) from error
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)

    def open(self, peer: Peer) -> None:
        """Take the consumer over on a node, asking for its generation first. Raises what the node says."""
        settings = self.settings
        if self.reader is None:
            status = self.once(peer, "status", StatusRequest(v=PROTOCOL_VERSION, consumer=self.consumer))
            # The wall clock makes a reader newer even where no node remembers the one before it.
            self.reader = Reader(max(1 + status.generation, int(self._wall() * 1000)), new_id())
        request = self.ask(
            OpenRequest,
            subscription=settings.subscription,
            after=self.after,
            share=settings.share,
            create=settings.create,
        )
        reply: OpenReply = self.once(peer, "open", request)
        if peer.id is not None and peer.id != reply.node:
            peer.left[peer.id] = self._clock()
            _LOG.warning("%s leads to another daemon than before, or to one that was restarted", peer.node.endpoint)
        peer.id, peer.heartbeat_s, peer.held = reply.node, reply.heartbeat_s, set(reply.held)
        peer.endpoint = reply.endpoint or peer.node.endpoint
        peer.opened = True

    def once(self, peer: Peer, action: str, request: Request) -> Any:
        """One call. Raises `ReaderFenced` without a call once a node has said so."""
        if self._fenced is not None:
            raise self._fenced.with_traceback(None)  # else each call makes the traceback longer
        if isinstance(request, ReaderRequest) and not isinstance(request, OpenRequest):
            # Another node that knows this reader from before must not answer in the name of the one it opened last.
            request = replace(request, node=peer.id)
        try:
            reply = peer.node.call(action, request)
        except ReaderFenced as error:
            self._fenced = error
            raise
        except NodeUnreachable:
            peer.up = False
            raise
        peer.up = True
        return reply

    def beat(self, peer: Peer) -> float:
        """One heartbeat; the seconds until the next. A node that asks for `open` gets it, unless `turn` is taken."""
        if self._fenced is not None:
            return peer.heartbeat_s
        try:
            self.once(peer, "alive", self.ask(AliveRequest))
        except OpenAgain:
            if not self.turn.acquire(blocking=False):
                return RETRY_LAST_S
            try:
                self.open(peer)
            except PenstockError as error:
                _LOG.warning("open again at %s: %s", peer.node.endpoint, error)
                return RETRY_LAST_S
            finally:
                self.turn.release()
        except NodeUnreachable:
            return min(peer.heartbeat_s, RETRY_LAST_S)
        except PenstockError as error:
            _LOG.warning("heartbeat to %s: %s", peer.node.endpoint, error)
        return peer.heartbeat_s

    def part(self, peer: Peer, action: str, kind: type[ByeRequest | CloseRequest]) -> None:
        """Say the last word to a node that was opened; what goes wrong is logged."""
        if peer.id is None or self._fenced is not None:
            return
        try:
            self.once(peer, action, self.ask(kind))
        except PenstockError as error:
            _LOG.info("%s to %s: %s", action, peer.node.endpoint, error)

    def ask(self, kind: Callable[..., Any], **fields: Any) -> Any:
        """A request of this reader."""
        return kind(v=PROTOCOL_VERSION, consumer=self.consumer, reader=self.reader, **fields)
