"""The reader's side of the protocol: what a Spark driver and a plain consumer have in common.

Which epochs are committed, sealed and planned, and when; `calls` says it to the nodes, `session` adds the threads.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.client.available_now import AvailableNow, Verdict
from penstock.client.calls import RETRY_LAST_S, Calls, Peer, ReaderSettings
from penstock.client.node import Node
from penstock.client.offset import NamedBatch, Offset
from penstock.contract import HEARTBEATS_PER_TIMEOUT, same_site
from penstock.contract.actions import (
    Backlog,
    BacklogRequest,
    ByeRequest,
    CloseRequest,
    CommitRequest,
    PlanReply,
    PlanRequest,
    SealReply,
    SealRequest,
    Ticket,
)
from penstock.errors import BatchGone, InvalidRequest

_LOG = logging.getLogger("penstock.client")

RELEASED_AFTER = 1.1
"""A node that heard of its consumer last this many time-outs ago has released what it held (design.md, section 7)."""

POLL_S = 0.05
"""How often AvailableNow looks at the backlog while it waits for silence."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one batch may have (per node), and what is worth one; None: the daemon's own limit, any row."""

    max_rows: int | None = None
    max_bytes: int | None = None
    min_rows: int | None = None
    max_delay_s: float | None = None

    def met(self, backlog: Backlog) -> bool:
        """Whether a batch is due: enough rows, or rows that waited long enough, or no more that could come."""
        if not backlog.rows:
            return False
        late = self.max_delay_s is not None and (backlog.oldest_age_s or 0.0) >= self.max_delay_s
        return self.min_rows is None or backlog.rows >= self.min_rows or late or backlog.paused or backlog.draining


@dataclass(frozen=True)
class PlannedRead:
    """One slice and where it is."""

    endpoint: str
    ticket: Ticket
    rows: int
    bytes: int


class Driver:
    """Speaks for one consumer as one reader. Calls block; one at a time, but for `beat`, `look` and `bye`.

    After `ReaderFenced` every call raises it, and no node is called again.
    """

    def __init__(
        self,
        consumer: str,
        settings: ReaderSettings,
        nodes: Sequence[Node],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.consumer = consumer
        self.settings = settings
        self.gone_batches = 0
        self._peers = [Peer(node, settings.commit_ttl) for node in nodes]
        self._calls = Calls(consumer, settings, clock=clock, wall=wall, sleep=sleep)
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._available_now: AvailableNow | None = None
        self._ended = False
        self._started = clock()
        self._left_out: dict[str, int] = {}

    # --- epochs -------------------------------------------------------------------------------------------------

    def latest(self, start: Offset, limits: Limits) -> Offset | None:
        """Commit `start`, which Spark has finished, and seal the epoch after it; None when nothing is due.

        Raises `NodeUnreachable` after `node_wait_s`, `SubscriptionShared`, `SubscriptionFailed`, `EpochPast`,
        `ReaderFenced`.
        """
        with self._calls.turn:
            self._calls.after = max(self._calls.after, start.epoch)
            self._commit(start)
            if self._available_now is not None:
                return self._until_quiet(start, limits, self._available_now)
            return self._seal_if_due(start, limits)

    def seal(self, start: Offset, limits: Limits) -> Offset | None:
        """Seal the epoch after `start` and commit nothing; None when nothing is due. Raises as `latest`."""
        with self._calls.turn:
            self._calls.after = max(self._calls.after, start.epoch)
            return self._seal_if_due(start, limits)

    def commit(self, finished: Offset) -> None:
        """The epoch that ends at `finished` was processed: its rows may be acknowledged. Raises as `latest`."""
        with self._calls.turn:
            self._commit(finished)

    def plan(self, start: Offset, end: Offset, slices: int) -> list[PlannedRead]:
        """The slices of every batch that `end` names and that still exists. May be called any number of times.

        A batch that is gone is left out, counted and logged: its rows will come again. Raises as `latest`.
        """
        if end.epoch == start.epoch:
            return []
        if end.epoch != start.epoch + 1:
            raise InvalidRequest(
                f"a batch from epoch {start.epoch} to {end.epoch} is more than one epoch: asynchronous progress "
                "tracking (asyncProgressTrackingEnabled) is not supported, since it reports batches as "
                "done that may be lost"
            )
        with self._calls.turn:
            self._calls.after = max(self._calls.after, start.epoch)
            return [read for node, named in end.nodes.items() for read in self._planned(end.epoch, node, named, slices)]

    def take_what_is_there(self, idle_s: float) -> None:
        """From now on `latest` waits for rows, and ends for good once all that was published before now is taken."""
        now = dt.datetime.fromtimestamp(self._wall(), dt.UTC)
        self._available_now = AvailableNow(now, idle_s)

    # --- for threads beside the caller's ------------------------------------------------------------------------

    def beat(self) -> float:
        """One heartbeat to every node that was opened; returns the seconds until the next.

        Never raises: what is wrong shows at the caller's next call. A node that asks for `open` gets it, unless a call
        is running, which will do so itself.
        """
        pauses = [self._calls.beat(peer) for peer in self._peers if peer.id is not None]
        return min(pauses, default=RETRY_LAST_S)

    def look(self, wait_s: float) -> bool:
        """Whether an unsealed row is on some node, waiting up to `wait_s` for one. Raises what the node said."""
        peer = self._peers[0]
        if not peer.opened:
            return False
        backlog: Backlog = self._calls.once(peer, "backlog", self._calls.ask(BacklogRequest, wait_s=wait_s))
        peer.backlog = backlog
        return backlog.rows > 0

    def bye(self) -> None:
        """Tell the nodes that this reader stops; never waits for more than the action's deadline, never raises."""
        for peer in self._peers:
            self._calls.part(peer, "bye", ByeRequest)

    def close(self) -> None:
        """End the consumer for good: what it holds goes back to Pub/Sub. Never raises."""
        for peer in self._peers:
            self._calls.part(peer, "close", CloseRequest)

    # --- figures ------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether AvailableNow has taken all."""
        return self._ended

    @property
    def waits_for_rows(self) -> bool:
        """Whether `latest` answers at once when nothing is due, so that waiting is the caller's part."""
        return self._available_now is None

    def report(self) -> dict[str, Any]:
        """What is known of the backlog and the nodes, without a call. JSON values."""
        known = [peer.backlog for peer in self._peers if peer.backlog is not None]
        oldest = min((b.oldest_publish_time for b in known if b.oldest_publish_time is not None), default=None)
        lag_s = None if oldest is None else self._wall() - dt.datetime.fromisoformat(oldest).timestamp()
        return {
            "backlog_rows": sum(b.rows for b in known),
            "backlog_bytes": sum(b.bytes for b in known),
            "oldest_age_s": max((b.oldest_age_s for b in known if b.oldest_age_s is not None), default=None),
            "lag_s": None if lag_s is None else round(max(lag_s, 0.0), 3),
            "nodes_up": sum(peer.up for peer in self._peers),
            "nodes_down": sum(not peer.up for peer in self._peers),
            "epochs_pending": max((len(peer.commits) for peer in self._peers), default=0),
            "batches_gone": self.gone_batches,
            "trouble": "; ".join(dict.fromkeys(b.trouble for b in known if b.trouble)) or None,
        }

    def pending_commits(self) -> CommitRequest | None:
        """What a task may carry to a node that the driver could not tell; None when there is nothing."""
        peer = self._peers[0]
        if not len(peer.commits) or self._calls.reader is None:
            return None
        request: CommitRequest = self._calls.ask(
            CommitRequest, epochs=peer.commits.epochs(), excluded=tuple(self._left_out), task=True
        )
        return request

    # --- inside -------------------------------------------------------------------------------------------------

    def _commit(self, finished: Offset) -> None:
        for peer in self._peers:
            if finished.epoch:
                peer.commits.add(finished.finished())
            if len(peer.commits):
                request = functools.partial(
                    self._calls.ask, CommitRequest, epochs=peer.commits.epochs(), excluded=tuple(self._left_out)
                )
                reply = self._calls.patiently(peer, "commit", request)
                if gone := peer.commits.settle(reply):
                    self.gone_batches += gone
                    _LOG.warning("%d finished batches were gone at %s: their rows come again", gone, peer.node.endpoint)
        oldest = finished.epoch - self.settings.commit_ttl
        self._left_out = {batch: epoch for batch, epoch in self._left_out.items() if epoch > oldest}

    def _seal_if_due(self, start: Offset, limits: Limits) -> Offset | None:
        if limits.min_rows is not None:
            due = [limits.met(self._backlog(peer)) for peer in self._peers]
            if not any(due) and not self._was_sealed(start.epoch + 1):
                return None
        return self._seal(start, limits)

    def _was_sealed(self, epoch: int) -> bool:
        """Whether a node said at `open` that it has a batch of this epoch, which a driver before this one sealed.

        Such rows are in no backlog. True at most once, since the batch may be gone by then.
        """
        found = any(epoch in peer.held for peer in self._peers)
        for peer in self._peers:
            peer.held.discard(epoch)
        return found

    def _seal(self, start: Offset, limits: Limits) -> Offset | None:
        named: dict[str, NamedBatch] = {}
        for peer in self._peers:
            request = functools.partial(
                self._calls.ask,
                SealRequest,
                epoch=start.epoch + 1,
                after=start.epoch,
                max_rows=limits.max_rows,
                max_bytes=limits.max_bytes,
            )
            reply: SealReply = self._calls.patiently(peer, "seal", request)
            peer.backlog = reply.backlog
            if reply.batch is not None and peer.id is not None:
                named[peer.id] = NamedBatch(batch=reply.batch, rows=reply.rows)
        return start.next(named) if named else None

    def _until_quiet(self, start: Offset, limits: Limits, rule: AvailableNow) -> Offset | None:
        while not self._ended:
            (peer,) = self._peers
            backlog = self._backlog(peer)
            verdict = Verdict.TAKE if self._was_sealed(start.epoch + 1) else rule.judge(backlog, self._clock())
            if verdict is Verdict.TAKE and (sealed := self._seal(start, limits)) is not None:
                return sealed
            self._ended = verdict is Verdict.END
            if not self._ended:
                self._sleep(POLL_S)
        return None

    def _planned(self, epoch: int, node: str, named: NamedBatch, slices: int) -> list[PlannedRead]:
        (peer,) = self._peers
        request = functools.partial(
            self._calls.ask, PlanRequest, epoch=epoch, batch=named.batch, slices=slices, columns=self.settings.columns
        )
        while True:
            try:
                reply: PlanReply = self._calls.patiently(peer, "plan", request)
                break
            except BatchGone as error:
                if not self._ended_for_good(peer, node):
                    _LOG.warning(
                        "epoch %d is on node %s, but %s leads to another one: waiting until it is back or has given up",
                        *(epoch, node, peer.node.endpoint),
                    )
                    self._sleep(RETRY_LAST_S)
                    continue
                self.gone_batches += 1
                # Should the node that has it come back under this address, the commit must not acknowledge it.
                self._left_out[named.batch] = epoch
                _LOG.warning(
                    "batch of epoch %d on node %s is left out, its %d rows come again: %s",
                    *(epoch, node, named.rows, error),
                )
                return []
        return [PlannedRead(peer.endpoint, part.ticket, part.rows, part.bytes) for part in reply.slices]

    def _ended_for_good(self, peer: Peer, node: str) -> bool:
        """Whether what is not at `peer` can be at `node` no more, so that nobody will acknowledge it unread.

        `node` said so itself; or it was the daemon before `peer` at one site, whose memory ended with it; or it has
        been without contact from this reader for so long that it has released by itself.
        """
        if peer.id is None or same_site(peer.id, node):
            return True
        timeout_s = peer.heartbeat_s * HEARTBEATS_PER_TIMEOUT
        return self._clock() - peer.left.get(node, self._started) >= RELEASED_AFTER * timeout_s

    def _backlog(self, peer: Peer) -> Backlog:
        backlog: Backlog = self._calls.patiently(peer, "backlog", functools.partial(self._calls.ask, BacklogRequest))
        peer.backlog = backlog
        return backlog
