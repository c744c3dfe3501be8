"""The reader's side of the protocol: what a Spark driver and a plain consumer have in common.

Which epochs are committed and sealed, and when; `planning` cuts them into slices, `calls` says it to the nodes,
`session` adds the threads.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.client.available_now import AvailableNow, Verdict
from penstock.client.calls import Calls, Patience, ReaderSettings, Together, one_by_one
from penstock.client.node import Node
from penstock.client.offset import NamedBatch, Offset
from penstock.client.peer import FIRST_HEARTBEAT_S, Peer
from penstock.client.planning import PlanHost, PlannedRead, Planner
from penstock.client.sharing import shared_out
from penstock.contract.actions import (
    Backlog,
    BacklogRequest,
    ByeRequest,
    CloseRequest,
    CommitReply,
    CommitRequest,
    FinishedEpoch,
    SealReply,
    SealRequest,
)
from penstock.errors import InvalidRequest, NodeUnreachable, PenstockError

_LOG = logging.getLogger("penstock.client")

POLL_S = 0.05
"""How often AvailableNow looks at the backlog while it waits for silence."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one batch may have on all nodes, and what is worth one; None: the daemons' own limits, any row."""

    max_rows: int | None = None
    max_bytes: int | None = None
    min_rows: int | None = None
    max_delay_s: float | None = None

    def met(self, backlogs: Sequence[Backlog]) -> bool:
        """Whether a batch is due: enough rows, or rows that waited long enough, or no more that could come."""
        waiting = [backlog for backlog in backlogs if backlog.rows]
        if not waiting:
            return False
        late = self.max_delay_s is not None and any((b.oldest_age_s or 0.0) >= self.max_delay_s for b in waiting)
        stuck = any(backlog.paused or backlog.draining for backlog in waiting)
        return self.min_rows is None or sum(b.rows for b in waiting) >= self.min_rows or late or stuck

    def shared_out(self, backlogs: Sequence[Backlog]) -> list[Limits]:
        """The part of each node, by what waits there."""
        rows = _parts(self.max_rows, [backlog.rows for backlog in backlogs])
        sizes = _parts(self.max_bytes, [backlog.bytes for backlog in backlogs])
        return [replace(self, max_rows=r, max_bytes=s) for r, s in zip(rows, sizes, strict=True)]

    @property
    def nothing(self) -> bool:
        """Whether not a row may be taken."""
        return self.max_rows == 0 or self.max_bytes == 0


@dataclass(frozen=True)
class CarriedCommit:
    """Finished epochs that these nodes could not be told of: a task beside one of them tells it."""

    nodes: tuple[str, ...]
    request: CommitRequest


class Driver:
    """Speaks for one consumer as one reader. Calls block; one at a time, but for `beat`, `look` and `bye`.

    `nodes`: where daemons are listed, asked anew for each epoch. After `ReaderFenced` every call raises it, and no node
    is called again.
    """

    def __init__(  # noqa: PLR0913 - time, sleep and threads are handed in
        self,
        consumer: str,
        settings: ReaderSettings,
        nodes: Sequence[Node] | Callable[[], Sequence[Node]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        together: Together = one_by_one,
    ) -> None:
        self.consumer = consumer
        self.settings = settings
        self._nodes = nodes if callable(nodes) else functools.partial(list, nodes)
        self._peers: list[Peer] = []
        self._away: dict[str, Peer] = {}
        self._calls = Calls(consumer, settings, clock=clock, wall=wall, sleep=sleep, together=together)
        self._planner = Planner(self._calls, lambda: self._peers, self._list_nodes, clock, sleep)
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._available_now: tuple[dt.datetime, float] | None = None
        self._rules: dict[Peer, AvailableNow] = {}
        self._ended = False
        self._list_nodes()

    # --- epochs -------------------------------------------------------------------------------------------------

    def latest(self, start: Offset, limits: Limits) -> Offset | None:
        """Commit `start`, which Spark has finished, and seal the epoch after it; None when nothing is due.

        Raises `NodeUnreachable` when no node answers for `node_wait_s`, `SubscriptionShared`, `SubscriptionFailed`,
        `EpochPast`, `ReaderFenced`.
        """
        with self._calls.turn:
            self._ready(start)
            self._commit(start)
            if self._available_now is not None:
                return self._until_quiet(start, limits)
            return self._seal_if_due(start, limits)

    def seal(self, start: Offset, limits: Limits) -> Offset | None:
        """Seal the epoch after `start` and commit nothing; None when nothing is due. Raises as `latest`."""
        with self._calls.turn:
            self._ready(start)
            return self._seal_if_due(start, limits)

    def commit(self, finished: Offset) -> None:
        """The epoch that ends at `finished` was processed: its rows may be acknowledged. Raises as `latest`."""
        with self._calls.turn:
            self._ready()
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
            self._calls.left_out.learn(end.excluded)
            self._ready(start)
            return self._planner.plan(end, slices)

    def host(self, epoch: int, planned: Sequence[PlannedRead]) -> PlanHost | None:
        """Who deals these slices to tasks, so that each reads what is near; None: partition i reads slice i."""
        with self._calls.turn:
            return self._planner.host(epoch, planned)

    def take_what_is_there(self, idle_s: float) -> None:
        """From now on `latest` waits for rows, and ends for good once all that was published before now is taken."""
        self._available_now = (dt.datetime.fromtimestamp(self._wall(), dt.UTC), idle_s)

    # --- for threads beside the caller's ------------------------------------------------------------------------

    @property
    def peers(self) -> Sequence[Peer]:
        """The nodes as they are listed now."""
        return self._peers

    def beat(self, peer: Peer | None = None) -> float:
        """One heartbeat to a node, or to all; returns the seconds until the next.

        Never raises: what is wrong shows at the caller's next call. A node that asks for `open` gets it, unless a call
        is running, which will do so itself.
        """
        pauses = [self._calls.beat(each) for each in ([peer] if peer is not None else self._peers)]
        return min(pauses, default=FIRST_HEARTBEAT_S)

    def look(self, wait_s: float, peer: Peer | None = None) -> bool:
        """Whether an unsealed row is on a node, waiting up to `wait_s` for one. Raises what the node said."""
        peer = peer or self._peers[0]
        if not (peer.opened and peer.up):
            return False
        backlog: Backlog = self._calls.once(peer, "backlog", self._calls.ask(BacklogRequest, wait_s=wait_s))
        peer.backlog = backlog
        return backlog.rows > 0

    def bye(self) -> None:
        """Tell the nodes that this reader stops; waits for each no longer than the action's deadline, never raises.

        Safe in a signal handler: takes no lock.
        """
        for peer in self._peers:
            if peer.up:
                self._calls.part(peer, "bye", ByeRequest)

    def close(self) -> None:
        """End the consumer for good: what it holds goes back to Pub/Sub. Never raises."""
        up = [peer for peer in self._peers if peer.up]
        self._calls.together([functools.partial(self._calls.part, peer, "close", CloseRequest) for peer in up])

    # --- figures ------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether AvailableNow has taken all."""
        return self._ended

    @property
    def waits_for_rows(self) -> bool:
        """Whether `latest` answers at once when nothing is due, so that waiting is the caller's part."""
        return self._available_now is None

    @property
    def gone_batches(self) -> int:
        """Batches that plans or commits went without: their rows came, or will come, again."""
        return self._calls.left_out.gone

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
            "local_share": self._planner.local_share,
            "epochs_pending": max((len(peer.commits) for peer in self._peers), default=0),
            "batches_gone": self.gone_batches,
            "trouble": "; ".join(dict.fromkeys(b.trouble for b in known if b.trouble)) or None,
        }

    def pending_commits(self) -> CarriedCommit | None:
        """What tasks may carry to the nodes that the driver could not tell; None when there is nothing."""
        behind = [peer for peer in self._peers if len(peer.commits) and not peer.told]
        if not behind or self._calls.reader is None:
            return None
        epochs = {finished.epoch: finished for peer in behind for finished in peer.commits.epochs()}
        request: CommitRequest = replace(self._commit_of([epochs[epoch] for epoch in sorted(epochs)]), task=True)
        return CarriedCommit(tuple(peer.id for peer in behind if peer.id is not None), request)

    # --- inside -------------------------------------------------------------------------------------------------

    def _ready(self, start: Offset | None = None) -> None:
        """Know the nodes that are listed, and be known to those that answer, before anything is decided."""
        if start is not None:
            self._calls.after = max(self._calls.after, start.epoch)
            self._calls.left_out.learn(start.excluded)
        self._list_nodes()
        if self._calls.reader is None:
            patience = self._calls.patience()
            while self._calls.reader is None:
                try:
                    self._calls.greet(self._peers)
                except NodeUnreachable as error:
                    patience.wait(error)
        if len(self._peers) > 1:  # with one, the next call does it
            new = [peer for peer in self._peers if peer.up and not peer.opened]
            self._calls.together([functools.partial(self._opened, peer) for peer in new])

    def _opened(self, peer: Peer) -> None:
        try:
            self._calls.reach(peer)
        except PenstockError as error:
            _LOG.info("open at %s: %s", peer.node.endpoint, error)

    def _list_nodes(self) -> None:
        """New nodes join; one that is not listed any more stays while it answers.

        One that comes back is still owed commits: a name resolves to those that are ready, so a restart takes a node
        off the list for a while.
        """
        listed = {node.endpoint: node for node in self._nodes()}
        known = {peer.node.endpoint for peer in self._peers}
        if known == set(listed):
            return
        stay = [peer for peer in self._peers if peer.node.endpoint in listed or peer.up]
        new = [
            self._away.pop(endpoint) if endpoint in self._away else Peer(node, self.settings.commit_ttl)
            for endpoint, node in listed.items()
            if endpoint not in known
        ]
        self._away |= {peer.node.endpoint: peer for peer in self._peers if peer not in stay}
        self._peers = stay + new

    def _commit(self, finished: Offset) -> None:
        for peer in (*self._peers, *self._away.values()):
            if finished.epoch:
                peer.commits.add(finished.finished())
        behind = [peer for peer in self._peers if len(peer.commits)]
        # Nobody waits for a node that is down while another one answers: it is told later, or by a task.
        others = len(self._peers) > 1 and any(peer.up for peer in self._peers)
        told = [peer for peer in behind if peer.up] if others else behind
        for peer in behind:
            peer.told = False
        if told:
            tell = self._calls.ask_all if others else self._calls.to_all
            for peer, said in tell(told, "commit", lambda peer: self._commit_of(peer.commits.epochs())).items():
                if isinstance(said, CommitReply):
                    peer.told = True
                    self._settle(peer, said)
        self._calls.left_out.forget(finished.epoch - self.settings.commit_ttl)

    def _commit_of(self, epochs: Sequence[FinishedEpoch]) -> CommitRequest:
        request: CommitRequest = self._calls.ask(
            CommitRequest, epochs=tuple(epochs), excluded=self._calls.left_out.batches
        )
        return request

    def _settle(self, peer: Peer, reply: CommitReply) -> None:
        if gone := peer.commits.settle(reply, peer.id or ""):
            self._calls.left_out.gone += gone
            _LOG.warning("%d finished batches were gone at %s: their rows come again", gone, peer.node.endpoint)

    def _seal_if_due(self, start: Offset, limits: Limits) -> Offset | None:
        if limits.min_rows is not None:
            due = limits.met(list(self._backlogs().values()))
            if not due and not self._was_sealed(start.epoch + 1):
                return None
        return self._seal(start, limits)

    def _was_sealed(self, epoch: int) -> bool:
        """Whether a node said at `open` that it has a batch of this epoch, which a driver before this one sealed.

        Such rows are in no backlog. True until the node was asked for it, since the batch may be gone by then.
        """
        return any(epoch in peer.held and peer.up for peer in self._peers)

    def _seal(self, start: Offset, limits: Limits) -> Offset | None:
        parts = self._parts(start.epoch + 1, limits)
        asked_of: dict[Peer, str | None] = {}

        def request(peer: Peer) -> SealRequest:
            # Until it says that it did not, it may have: a reply that was lost leaves a batch in no backlog.
            peer.held.add(start.epoch + 1)
            # A heartbeat may find another daemon there before all have answered: a batch is of the node that was asked.
            node = asked_of[peer] = peer.id
            asked: SealRequest = self._calls.ask(
                SealRequest,
                node=node,
                epoch=start.epoch + 1,
                after=start.epoch,
                max_rows=parts[peer].max_rows,
                max_bytes=parts[peer].max_bytes,
            )
            return asked

        named: dict[str, NamedBatch] = {}
        for peer, reply in self._calls.to_all(list(parts), "seal", request).items():
            assert isinstance(reply, SealReply), "to_all gives replies"
            peer.backlog = reply.backlog
            peer.held = {epoch for epoch in peer.held if epoch > start.epoch + 1}
            node = asked_of[peer]
            if reply.batch is not None and node is not None:
                named[node] = NamedBatch(batch=reply.batch, rows=reply.rows)
        return start.next(named, self._calls.left_out.by_batch) if named else None

    def _parts(self, epoch: int, limits: Limits) -> dict[Peer, Limits]:
        """Who is asked for rows, and for how many. A node that may give none, and has sealed none before, is not."""
        if len(self._peers) == 1 or (limits.max_rows is None and limits.max_bytes is None):
            return dict.fromkeys(self._peers, limits)
        known = self._backlogs()
        parts = dict(zip(known, limits.shared_out(list(known.values())), strict=True))
        one_row = replace(limits, max_rows=1)  # a batch that was sealed before is answered whole, whatever is asked for
        sealed = {peer: one_row for peer in self._peers if epoch in peer.held and peer.up}
        return sealed | {peer: part for peer, part in parts.items() if not part.nothing} or {next(iter(parts)): limits}

    def _until_quiet(self, start: Offset, limits: Limits) -> Offset | None:
        patience = self._calls.patience()
        while not self._ended:
            backlogs = self._backlogs()
            verdicts = {Verdict.TAKE} if self._was_sealed(start.epoch + 1) else self._judge(backlogs)
            if Verdict.TAKE in verdicts and (sealed := self._seal(start, limits)) is not None:
                return sealed
            silent = [peer for peer in self._peers if peer not in backlogs]
            if silent:  # it may have what was published before
                self._wait_for(silent, patience)
                continue
            patience = self._calls.patience()
            self._ended = verdicts == {Verdict.END}
            if not self._ended:
                self._sleep(POLL_S)
        return None

    def _wait_for(self, silent: Sequence[Peer], patience: Patience) -> None:
        """Ask those again that did not say what waits there; raises why when there was time enough.

        One that is down and not listed any more is not waited for.
        """
        outcomes = self._calls.ask_all(silent, "backlog", lambda _peer: self._calls.ask(BacklogRequest))
        error = next((said for said in outcomes.values() if isinstance(said, PenstockError)), None)
        self._list_nodes()
        if error is not None and any(peer in self._peers for peer in silent):
            patience.wait(error)

    def _judge(self, backlogs: dict[Peer, Backlog]) -> set[Verdict]:
        assert self._available_now is not None, "only then is there an end"
        now = self._clock()
        for peer in backlogs:
            if peer not in self._rules:
                self._rules[peer] = AvailableNow(*self._available_now)
        return {self._rules[peer].judge(backlog, now) for peer, backlog in backlogs.items()}

    def _backlogs(self) -> dict[Peer, Backlog]:
        """What waits on the nodes that answer."""
        said: dict[Peer, Backlog] = self._calls.to_all(
            self._peers, "backlog", lambda _peer: self._calls.ask(BacklogRequest)
        )
        for peer, backlog in said.items():
            peer.backlog = backlog
        return said


def _parts(limit: int | None, waiting: Sequence[int]) -> Sequence[int | None]:
    return [None] * len(waiting) if limit is None else shared_out(limit, waiting)
