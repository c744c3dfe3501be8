"""What one reader says to its nodes: it opens where that is needed, repeats what got no answer, and stops when fenced.

No threads, no sockets, no clock: nodes, time and sleep are handed in, so that whole queries run in simulation.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from penstock.client.left_out import LeftOut
from penstock.client.peer import Peer
from penstock.contract import PROTOCOL_VERSION, Reader, new_id
from penstock.contract.actions import (
    AliveRequest,
    ByeRequest,
    CloseRequest,
    CreateSubscription,
    OpenReply,
    OpenRequest,
    ReaderRequest,
    StatusReply,
    StatusRequest,
)
from penstock.contract.body import Request
from penstock.errors import (
    DiskFull,
    Draining,
    NodeError,
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

CONTACT = frozenset({"open", "alive", "seal", "plan", "commit"})
"""Calls by which a node knows that its consumer lives (design.md, section 5)."""

PASSING = (NodeUnreachable, OpenAgain, ServiceUnavailable, Draining, DiskFull, SubscriptionShared)
"""Answers, or none, that may be another one a while later."""

T = TypeVar("T")


class Together(Protocol):
    """Does several things at once, and returns what each returned, in order."""

    def __call__(self, works: Sequence[Callable[[], T]], /) -> list[T]:
        """Raises what one of them raised."""


def one_by_one(works: Sequence[Callable[[], T]], /) -> list[T]:
    """`Together` without threads."""
    return [work() for work in works]


@dataclass(frozen=True, kw_only=True)
class ReaderSettings:
    """How one consumer reads one subscription. `columns`: those wanted, in order; None for all.

    `dedupe`: as `OpenRequest` says. `exclude_lost`: a batch of a node that is gone for long is left out for good; else
    the query fails.
    """

    subscription: str
    share: bool = False
    dedupe: bool = False
    create: CreateSubscription | None = None
    columns: tuple[str, ...] | None = None
    node_wait_s: float = 90.0
    commit_ttl: int = 5
    exclude_lost: bool = True


class Patience:
    """How long somebody waits for nodes, and how long between two tries. Made anew for each wait."""

    def __init__(self, node_wait_s: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._node_wait_s = node_wait_s
        self._clock, self._sleep = clock, sleep
        self._since = clock()
        self._pause_s = RETRY_FIRST_S

    def wait(self, error: PenstockError) -> None:
        """Sleep for a while, or raise what is in the way when there was time enough."""
        if self._pause_s == RETRY_FIRST_S:
            _LOG.warning("waiting up to %g s: %s", self._node_wait_s, error)
        waited_s = self._clock() - self._since
        if waited_s >= self._node_wait_s:
            raise type(error)(
                f"{error.message} (waited {waited_s:.0f} s, option nodeWait)", node=error.node, **error.details
            ) from error
        self._sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, RETRY_LAST_S)


class Calls:
    """One reader's calls. `after` is the last epoch that Spark has finished, for nodes that are to be opened.

    A node that missed a deadline is down: from then on it is only asked for its `status`, which is no contact, until it
    answers. `turn` is held by a call that may open, so that a heartbeat on another thread leaves opening to it.
    """

    def __init__(
        self,
        consumer: str,
        settings: ReaderSettings,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        sleep: Callable[[float], None],
        together: Together = one_by_one,
    ) -> None:
        self.consumer = consumer
        self.settings = settings
        self.reader: Reader | None = None
        self.after = 0
        self.turn = threading.Lock()
        self.left_out = LeftOut()
        self.together = together
        self._fenced: ReaderFenced | None = None
        self._contact: dict[str, float] = {}
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._started = clock()

    # --- to several ---------------------------------------------------------------------------------------------

    def patience(self) -> Patience:
        """For a wait that begins now."""
        return Patience(self.settings.node_wait_s, self._clock, self._sleep)

    def to_all(self, peers: Sequence[Peer], action: str, request: Callable[[Peer], Request]) -> dict[Peer, Any]:
        """Call those that are up, each once, again and again until one has answered or `node_wait_s` is over.

        All our calls may be repeated: a lost reply costs a second call. An error of none in particular is raised at
        once, and the last one of those that may pass.
        """
        patience = self.patience()
        while True:
            outcomes = self.ask_all([peer for peer in peers if peer.up] or peers, action, request)
            answered = {peer: said for peer, said in outcomes.items() if not isinstance(said, PenstockError)}
            if answered:
                return answered
            patience.wait(next(said for said in outcomes.values() if isinstance(said, PenstockError)))

    def ask_all(self, peers: Sequence[Peer], action: str, request: Callable[[Peer], Request]) -> dict[Peer, Any]:
        """What each says, or why it does not (an error that may pass)."""
        works = [functools.partial(self.outcome, peer, action, functools.partial(request, peer)) for peer in peers]
        return dict(zip(peers, self.together(works), strict=True))

    def outcome(self, peer: Peer, action: str, request: Callable[[], Request]) -> Any:
        """A reply, or an error that may pass. Opens where that is needed; another error is raised."""
        for last in (False, True):
            try:
                self.reach(peer)
                return self.once(peer, action, request())
            except OpenAgain:
                peer.opened = False
                if last:
                    return NodeUnreachable(
                        f"the daemon at {peer.node.endpoint} forgets this reader again and again",
                        endpoint=peer.node.endpoint,
                    )
            except PASSING as error:
                return error
        raise AssertionError("one of both has returned")

    # --- to one -------------------------------------------------------------------------------------------------

    def reach(self, peer: Peer) -> None:
        """Make sure that a node answers and knows this reader. Raises what it says."""
        if not peer.up:
            self.probe(peer)
        if not peer.opened:
            self._open(peer)

    def probe(self, peer: Peer) -> StatusReply:
        """Ask who answers there, which is no contact. Raises what it says."""
        status: StatusReply = self.once(peer, "status", StatusRequest(v=PROTOCOL_VERSION, consumer=self.consumer))
        peer.answers_as(status.node, status.incarnation)
        return status

    def greet(self, peers: Sequence[Peer]) -> None:
        """Become a reader that is newer than any that the nodes know; those that do not answer are not waited for.

        Raises what they say when none answers.
        """
        works = [functools.partial(self._greeted, peer) for peer in peers]
        answers = self.together(works)
        known = [said.generation for said in answers if isinstance(said, StatusReply)]
        if not known:
            raise next(said for said in answers if isinstance(said, PenstockError))
        # The wall clock makes a reader newer even where no node remembers the one before it.
        self.reader = Reader(max(1 + max(known), int(self._wall() * 1000)), new_id())

    def once(self, peer: Peer, action: str, request: Request) -> Any:
        """One call. Raises `ReaderFenced` without a call once a node has said so."""
        if self._fenced is not None:
            raise self._fenced.with_traceback(None)  # else each call makes the traceback longer
        if isinstance(request, ReaderRequest) and request.node is None:
            # Another node that knows this reader from before must not answer in the name of the one it opened last.
            request = replace(request, node=peer.id)
        if action in CONTACT and peer.id is not None:
            self._contact[peer.id] = self._clock()
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

    def last_contact(self, node: str) -> float:
        """When a node was last sent something that it may take for contact; the reader's start if it never was."""
        return self._contact.get(node, self._started)

    def beat(self, peer: Peer) -> float:
        """One heartbeat; the seconds until the next. Never raises.

        A node that is down gets a probe; one that asks for `open` gets it, unless `turn` is taken.
        """
        if self._fenced is not None or self.reader is None:
            return peer.heartbeat_s
        try:
            if not peer.up:
                self.probe(peer)
            if peer.opened:
                self.once(peer, "alive", self.ask(AliveRequest))
        except OpenAgain:
            peer.opened = False
        except NodeUnreachable:
            return min(peer.heartbeat_s, RETRY_LAST_S)
        except PenstockError as error:
            _LOG.warning("heartbeat to %s: %s", peer.node.endpoint, error)
        return peer.heartbeat_s if peer.opened or self._opened_meanwhile(peer) else min(peer.heartbeat_s, RETRY_LAST_S)

    def part(self, peer: Peer, action: str, kind: type[ByeRequest | CloseRequest]) -> None:
        """Say the last word to a node that was opened; what goes wrong is logged."""
        if peer.id is None or self.reader is None or self._fenced is not None:
            return
        try:
            self.once(peer, action, self.ask(kind))
        except PenstockError as error:
            _LOG.info("%s to %s: %s", action, peer.node.endpoint, error)

    def ask(self, kind: Callable[..., Any], **fields: Any) -> Any:
        """A request of this reader."""
        return kind(v=PROTOCOL_VERSION, consumer=self.consumer, reader=self.reader, **fields)

    def _open(self, peer: Peer) -> None:
        """Take the consumer over on the node that answers there. Raises what it says."""
        settings = self.settings
        self.probe(peer)
        request = self.ask(
            OpenRequest,
            subscription=settings.subscription,
            after=self.after,
            share=settings.share,
            dedupe=settings.dedupe,
            create=settings.create,
        )
        reply: OpenReply = self.once(peer, "open", request)
        for batch in reply.excluded:
            self.left_out.add(batch, self.after + 1)
        peer.admitted(reply)

    def _opened_meanwhile(self, peer: Peer) -> bool:
        """Open from the heartbeat's thread, if nobody else is at it."""
        if not self.turn.acquire(blocking=False):
            return False
        try:
            self._open(peer)
        except PenstockError as error:
            _LOG.warning("open again at %s: %s", peer.node.endpoint, error)
            return False
        finally:
            self.turn.release()
        return True

    def _greeted(self, peer: Peer) -> StatusReply | PenstockError:
        try:
            return self.probe(peer)
        except NodeError as error:
            return error
