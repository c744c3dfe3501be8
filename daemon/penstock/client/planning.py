"""Which slices an epoch has: those of every batch that still exists, on whichever nodes (design.md, section 7)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from penstock.client.calls import RETRY_LAST_S, Calls
from penstock.client.offset import NamedBatch, Offset
from penstock.client.peer import Peer
from penstock.client.sharing import shared_out
from penstock.contract import new_id, same_site
from penstock.contract.actions import (
    AssignReply,
    AssignRequest,
    ExcludeRequest,
    PlacedSlice,
    PlanReply,
    PlanRequest,
    Ticket,
)
from penstock.errors import BatchGone, NodeUnreachable, PenstockError

_LOG = logging.getLogger("penstock.client")

RELEASED_AFTER = 1.1
"""A node that heard of its consumer last this many time-outs ago has released what it held (design.md, section 7)."""

UNKNOWN_TIMEOUT_S = 300.0
"""`consumer_timeout_s` of nodes when none has said its own: the default of the daemon's settings."""


@dataclass(frozen=True)
class PlannedRead:
    """One slice and where it is."""

    placed: PlacedSlice
    rows: int
    bytes: int

    @property
    def node(self) -> str:
        """The node that has it."""
        return self.placed.node

    @property
    def endpoint(self) -> str:
        """Where tasks read it."""
        return self.placed.endpoint

    @property
    def ticket(self) -> Ticket:
        """Which rows it is."""
        return self.placed.ticket


@dataclass(frozen=True)
class PlanHost:
    """The node that deals the slices of a plan to the tasks that claim one."""

    endpoint: str
    plan: str
    incarnation: str


class Planner:
    """Plans epochs for a reader's `calls`. `peers` gives the nodes as they were listed last, by `list_nodes`."""

    def __init__(
        self,
        calls: Calls,
        peers: Callable[[], Sequence[Peer]],
        list_nodes: Callable[[], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._calls = calls
        self._peers = peers
        self._list_nodes = list_nodes
        self._left_out = calls.left_out
        self._clock, self._sleep = clock, sleep
        self._dealt: dict[str, tuple[int, int]] = {}

    @property
    def local_share(self) -> float | None:
        """How many of the slices that were claimed, from 0 to 1, were of the node beside the task; None: none."""
        claims, local = (sum(part) for part in zip((0, 0), *self._dealt.values(), strict=True))
        return local / claims if claims else None

    def plan(self, end: Offset, slices: int) -> list[PlannedRead]:
        """The slices of every batch that `end` names and that still exists; the others are left out for good.

        `slices`: on all nodes together, by their rows, at least one on each.

        Waits for nodes that do not answer, until they do or have released what they held by themselves. Raises
        `NodeUnreachable`, and what nodes say.
        """
        missing = {node: named for node, named in end.nodes.items() if named.batch not in self._left_out}
        planned: dict[str, list[PlannedRead]] = {}
        parts = shared_out(slices, [named.rows for named in end.nodes.values()])
        cuts = {node: max(part, 1) for node, part in zip(end.nodes, parts, strict=True)}
        patience, said_so = self._calls.patience(), False
        while True:
            silent = self._look_for(missing)
            outcomes = self._ask_all(end.epoch, missing, cuts)
            planned |= {node: found for node, found in outcomes.items() if isinstance(found, list)}
            missing = {node: named for node, named in missing.items() if node not in planned}
            if not missing:
                break
            if self._calls.settings.exclude_lost and (ended := [node for node in missing if self._must_be_over(node)]):
                self._exclude(end.epoch, {node: missing[node] for node in ended})
                planned |= {node: [] for node in ended}
                missing = {node: named for node, named in missing.items() if node not in planned}
                continue
            trouble = next((error for error in outcomes.values() if isinstance(error, PenstockError)), silent)
            if self._only_time_helps(missing):
                if not said_so:
                    _LOG.warning("%s", _waiting(end.epoch, missing))
                    said_so = True
                self._keep_open()
                self._sleep(RETRY_LAST_S)
                patience = self._calls.patience()
            else:
                patience.wait(trouble or NodeUnreachable(_waiting(end.epoch, missing)))
            self._list_nodes()  # one that comes back may be under another address
        return [read for node in end.nodes for read in planned.get(node, ())]

    def host(self, epoch: int, planned: Sequence[PlannedRead]) -> PlanHost | None:
        """Let a node deal the slices to tasks, that with most rows first; None when all are on one node.

        Raises the last node's error when none does.
        """
        nodes = {read.node for read in planned}
        if len(nodes) < 2:
            return None
        rows = {node: sum(read.rows for read in planned if read.node == node) for node in nodes}
        slices = tuple(read.placed for read in planned)
        plan, patience = new_id(), self._calls.patience()
        ask = functools.partial(self._calls.ask, AssignRequest, epoch=epoch, plan=plan, slices=slices)
        while True:
            error: PenstockError = NodeUnreachable("no node answers that could deal the slices")
            known = [peer for peer in self._peers() if peer.id in nodes and peer.up]
            for peer in sorted(known, key=lambda peer: -rows[peer.id or ""]):
                said: AssignReply | PenstockError = self._calls.outcome(peer, "assign", ask)
                if isinstance(said, AssignReply):
                    self._dealt[said.incarnation] = said.claims, said.local
                    return PlanHost(peer.endpoint, plan, said.incarnation)
                error = said
            patience.wait(error)

    # --- one node -----------------------------------------------------------------------------------------------

    def _ask_all(
        self, epoch: int, named: dict[str, NamedBatch], cuts: dict[str, int]
    ) -> dict[str, list[PlannedRead] | PenstockError | None]:
        works = [functools.partial(self._asked, epoch, node, batch, cuts[node], cuts) for node, batch in named.items()]
        return dict(zip(named, self._calls.together(works), strict=True))

    def _asked(
        self, epoch: int, node: str, named: NamedBatch, slices: int, in_offset: Collection[str]
    ) -> list[PlannedRead] | PenstockError | None:
        """The slices on a node, none if its batch is gone for good; why it does not say, or None when nobody can."""
        peer = _at_site(self._peers(), node)
        if peer is None:
            return None
        request = functools.partial(
            self._calls.ask,
            PlanRequest,
            epoch=epoch,
            batch=named.batch,
            slices=slices,
            columns=self._calls.settings.columns,
        )
        try:
            reply: PlanReply | PenstockError = self._calls.outcome(peer, "plan", request)
        except BatchGone as error:
            # Who says so is that node, or the daemon after it at the same site, whose memory ended with it. One that
            # has rows in this epoch too is not after it: two machines of one name. A heartbeat may have found another
            # daemon meanwhile, so the error has to say whose it is.
            says = error.node or peer.id
            if says is None or (says != node and (says in in_offset or not same_site(says, node))):
                return None
            self._leave_out(epoch, node, named, str(error))
            return []
        if isinstance(reply, PenstockError):
            return reply
        return [
            PlannedRead(PlacedSlice(node=node, endpoint=peer.endpoint, ticket=part.ticket), part.rows, part.bytes)
            for part in reply.slices
        ]

    def _look_for(self, nodes: Collection[str]) -> PenstockError | None:
        """Ask all listed daemons who they are if none is known at a node's site; why one of them does not say.

        It may never have been reached, or its address leads elsewhere now and may lead back again.
        """
        peers = self._peers()
        if all(_at_site(peers, node) is not None for node in nodes):
            return None
        outcomes = self._calls.together([functools.partial(self._reached, peer) for peer in peers])
        return next((error for error in outcomes if error is not None), None)

    def _reached(self, peer: Peer) -> PenstockError | None:
        try:
            self._calls.probe(peer)
        except NodeUnreachable as error:
            return error
        return None

    def _keep_open(self) -> None:
        """Minutes may pass: a node that wants to be opened again meanwhile would else give its rows back.

        The heartbeat's thread leaves that to us, who have the `turn`.
        """
        peers = [peer for peer in self._peers() if peer.up and not peer.opened]
        outcomes = self._calls.together([functools.partial(self._kept_open, peer) for peer in peers])
        for peer, error in zip(peers, outcomes, strict=True):
            if error is not None:
                _LOG.info("open at %s: %s", peer.node.endpoint, error)

    def _kept_open(self, peer: Peer) -> PenstockError | None:
        try:
            self._calls.reach(peer)
        except PenstockError as error:
            return error
        return None

    # --- lost nodes ---------------------------------------------------------------------------------------------

    def _only_time_helps(self, missing: Collection[str]) -> bool:
        """Whether some node answers, and all that is missing is on others, which may be over one day."""
        if not self._calls.settings.exclude_lost:
            return False
        up = [peer for peer in self._peers() if peer.up and peer.id is not None]
        return bool(up) and not any(peer.id in missing for peer in up)

    def _must_be_over(self, node: str) -> bool:
        """Whether a node has been without contact from this reader for so long that it has released by itself.

        Not for one that answers, and not for the only one that is listed and down: that one is waited for.
        """
        peers = self._peers()
        if any(peer.id == node and (peer.up or len(peers) == 1) for peer in peers):
            return False
        if not any(peer.up and peer.id is not None for peer in peers):
            return False
        known = [peer.consumer_timeout_s for peer in peers if peer.consumer_timeout_s is not None]
        silent_s = self._clock() - self._calls.last_contact(node)
        return silent_s >= RELEASED_AFTER * max(known, default=UNKNOWN_TIMEOUT_S)

    def _exclude(self, epoch: int, lost: dict[str, NamedBatch]) -> None:
        """Record on every node that answers, before a plan is used that goes without these batches."""
        batches = tuple(named.batch for named in lost.values())
        self._calls.to_all(
            self._peers(), "exclude", lambda _peer: self._calls.ask(ExcludeRequest, epoch=epoch, batches=batches)
        )
        for node, named in lost.items():
            self._leave_out(epoch, node, named, "the node is gone, and has released it by itself")

    def _leave_out(self, epoch: int, node: str, named: NamedBatch, why: str) -> None:
        self._left_out.gone += 1
        # Should the node that has it come back, the commit must not acknowledge it.
        self._left_out.add(named.batch, epoch)
        _LOG.warning(
            "batch of epoch %d on node %s is left out, its %d rows come again: %s", epoch, node, named.rows, why
        )


def _at_site(peers: Sequence[Peer], node: str) -> Peer | None:
    """Who answers for a node: itself, else one at its site (two machines of one name are no site, but it happens)."""
    known = [peer for peer in peers if peer.id is not None and same_site(peer.id, node)]
    return max(known, key=lambda peer: (peer.id == node, peer.up), default=None)


def _waiting(epoch: int, missing: Collection[str]) -> str:
    return (
        f"epoch {epoch} has rows on {', '.join(missing)}, which no listed daemon answers for: waiting until it is back "
        "or must have given them back to Pub/Sub. Start it again, or name its address in the option `daemons`; with "
        "lostNodes=exclude a query goes on without it then, as long as another daemon answers"
    )
