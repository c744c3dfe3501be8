"""The promises of design.md, section 8, looked at after every event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.simulation.history import Spans, Violation
from tests.simulation.storage import Lasting

from penstock.contract import Reader
from penstock.contract.actions import CommitRequest, PlacedSlice, ReaderRequest, SealReply, Ticket
from penstock.contract.body import Request
from penstock.flight.actions import DECISIONS
from penstock.reservoir.batch import Batch, State
from penstock.reservoir.consumer import MISSED_HEARTBEATS, Consumer
from penstock.storage import Found

if TYPE_CHECKING:
    from tests.simulation.daemon import Daemon
    from tests.simulation.tasks import Job
    from tests.simulation.world import World

CONTACT = frozenset({"open", "alive", "seal", "plan", "commit"})
"""Calls that count as contact (design.md, section 5)."""


class Checks:
    """Knows what Spark has finished, what every batch contained when it was first seen, and who was heard when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._finished: set[int] = set()
        self._contents: dict[str, tuple[int, ...]] = {}
        self._dealt: dict[str, dict[int, PlacedSlice]] = {}
        self._slices: dict[tuple[str, int, int], list[int]] = {}
        self._newest: dict[tuple[str, str], Reader] = {}
        self._committed: dict[tuple[str, str], int] = {}
        self._heard: dict[tuple[str, str], float] = {}
        self._in_contact: dict[tuple[str, str], bool] = {}
        self._opening: str | None = None
        # What somebody was told, so that no restart of the same node may take it back.
        self._told_newest: dict[tuple[str, str], Reader] = {}
        self._told_committed: dict[tuple[str, str], int] = {}
        self._told_batches: set[str] = set()
        self._owed: dict[str, set[str]] = {}
        self._nodes: dict[str, str] = {}

    # --- never acknowledged early -------------------------------------------------------------------------------

    def finished(self, rows: Iterable[int]) -> None:
        """Spark has finished an epoch; these are what its successful tasks read."""
        self._finished.update(rows)

    def is_finished(self, number: int) -> bool:
        """Whether a message may be acknowledged."""
        return number in self._finished

    def acknowledged(self, numbers: Iterable[int], daemon: str) -> None:
        """A daemon has decided to acknowledge."""
        early = [number for number in numbers if number not in self._finished]
        if early:
            raise Violation(f"{daemon} acknowledges messages of no finished epoch", early)

    # --- batches never change -----------------------------------------------------------------------------------

    def read(self, ticket: Ticket, rows: list[int]) -> None:
        """A task has read a slice, and Spark takes it for whole."""
        if len(rows) != ticket.rows:
            raise Violation(f"a task got {len(rows)} of the {ticket.rows} rows of a slice, and no error", rows)
        key = (ticket.batch, ticket.slice, ticket.slices)
        before = self._slices.setdefault(key, rows)
        if before != rows:
            raise Violation(f"slice {ticket.slice} of batch {ticket.batch} was read with other rows before", rows)
        strange = set(rows) - set(self._contents.get(ticket.batch, ()))
        if strange:
            raise Violation(f"batch {ticket.batch} was served with rows it was not sealed with", strange)

    def claimed(self, job: Job, partition: int, placed: PlacedSlice) -> None:
        """A partition of a plan was told what it reads."""
        assert job.host is not None, "a plan has a host"
        dealt = self._dealt.setdefault(job.host.plan, {})
        if dealt.setdefault(partition, placed) != placed:
            raise Violation(f"partition {partition} of plan {job.host.plan} was dealt two slices")
        if list(dealt.values()).count(placed) > 1:
            raise Violation(f"plan {job.host.plan}: {placed} was dealt to two partitions")

    # --- contact and fences -------------------------------------------------------------------------------------

    def booted(self, daemon: Daemon) -> None:
        """A new incarnation: of what the one before it knew, it has to know what was answered."""
        node = daemon.reservoir.node
        for known in (self._newest, self._committed, self._heard, self._in_contact):
            for key in [key for key in known if key[0] == node]:
                del known[key]
        for key, reader in self._told_newest.items():
            if key[0] == node:
                self._newest[key] = reader
        for key, epoch in self._told_committed.items():
            if key[0] == node:
                self._committed[key] = epoch

    def crashed(self, daemon: Daemon) -> None:
        """Its memory is about to be gone: note which batches somebody was told of."""
        batches = [] if daemon.held is None else daemon.held.batches
        self._owed[daemon.name] = {batch.id for batch in batches if batch.id in self._told_batches}

    def found(self, daemon: Daemon, found: Found) -> None:
        """A daemon starts with what its disk holds: all that was answered, unchanged, unless the disk was damaged."""
        owed = self._owed.get(daemon.name, set()) if found.node == self._nodes.get(daemon.name) else set()
        self._nodes[daemon.name] = found.node
        injured = daemon.memory.disk.injured if isinstance(daemon.memory, Lasting) else set()
        for batch in (b for _, consumers in found.subscriptions for consumer in consumers for b in consumer.batches):
            places = [piece.kept.place for piece in batch.pieces]
            hurt = any(place is not None and (place.segment, place.offset) in injured for place in places)
            if batch.damage is not None:
                if not hurt:
                    rows = self._contents.get(batch.id, ())
                    raise Violation(f"{daemon.name} lost the rows of batch {batch.id}: {batch.damage}", rows)
            elif hurt:
                raise Violation(f"{daemon.name} takes up batch {batch.id}, whose rows are damaged")
            owed.discard(batch.id)
        for batch_id in sorted(owed):
            raise Violation(f"{daemon.name} forgot batch {batch_id}, of which it had told", self._contents[batch_id])

    def begins(self, action: str, request: Request) -> None:
        """A daemon decides on a request now."""
        self._opening = request.consumer if action == "open" and isinstance(request, ReaderRequest) else None

    def answered(self, daemon: Daemon, action: str, request: Request, reply: bytes) -> None:
        """A daemon has told somebody: from now on it may not forget."""
        if not isinstance(request, ReaderRequest) or action not in DECISIONS:
            return
        key = (daemon.reservoir.node, request.consumer)
        self._told_newest[key] = max(request.reader, self._told_newest.get(key, request.reader))
        if isinstance(request, CommitRequest):
            through = [finished.epoch for finished in request.epochs]
            self._told_committed[key] = max([self._told_committed.get(key, 0), *through])
        if action == "seal" and (batch := SealReply.from_json(reply).batch) is not None:
            self._told_batches.add(batch)

    def decided(self, daemon: Daemon, action: str, request: Request) -> None:
        """A daemon did what a request asked, and may not have told anybody yet."""
        if not isinstance(request, ReaderRequest):
            return
        key = (daemon.reservoir.node, request.consumer)
        newest = self._newest.get(key, request.reader)
        if request.reader < newest:
            raise Violation(f"{daemon.name} forgot a fence: it serves {request.reader}, though it has seen {newest}")
        self._newest[key] = request.reader
        if action in CONTACT and not getattr(request, "task", False):
            self._heard[key] = self._world.now

    def _contact(self, daemon: Daemon, consumer: Consumer) -> None:
        key = (daemon.reservoir.node, consumer.id)
        before, self._in_contact[key] = self._in_contact.get(key, False), consumer.contact
        if not before or consumer.contact or consumer.said_bye or consumer.closed or daemon.draining:
            return
        if key not in self._heard:  # not since the daemon's start
            return
        silent_s = self._world.now - self._heard[key]
        displaced = self._opening is not None and self._opening != consumer.id
        allowed_s = MISSED_HEARTBEATS * consumer.heartbeat_s if displaced else consumer.timeout_s
        if silent_s < allowed_s:
            raise Violation(
                f"{daemon.name} gave consumer {consumer.id} up, which it had heard {silent_s:.3f} s before",
                [number for batch in consumer.batches.values() for number in self._contents.get(batch.id, ())],
            )

    # --- after every event --------------------------------------------------------------------------------------

    def after(self, daemon: Daemon) -> None:
        """Everything that must hold of one daemon at any instant."""
        held = daemon.held
        if held is None or not daemon.up:
            return
        missing = held.unaccounted()
        if missing:
            raise Violation(f"{daemon.name}: {missing} messages are in no place (or, below 0, in two): {held.ledger}")
        confirmed = daemon.sender.confirmed_rows
        if held.ledger.acknowledged > confirmed:
            raise Violation(
                f"{daemon.name} counts {held.ledger.acknowledged} rows as acknowledged; the service confirmed "
                f"{confirmed}"
            )
        if held.used_bytes < 0:
            raise Violation(f"{daemon.name} counts {held.used_bytes} bytes in use")
        for consumer in held.consumers.values():
            self._contact(daemon, consumer)
            self._progress(daemon, consumer)
            for batch in consumer.batches.values():
                self._content(daemon, batch)
        self._opening = None

    def _progress(self, daemon: Daemon, consumer: Consumer) -> None:
        key = (daemon.reservoir.node, consumer.id)
        before = self._committed.get(key, 0)
        if consumer.committed_through < before:
            raise Violation(
                f"{daemon.name} forgot that {consumer.id} has committed through {before}: it says "
                f"{consumer.committed_through}"
            )
        self._committed[key] = consumer.committed_through

    def _content(self, daemon: Daemon, batch: Batch) -> None:
        known = self._contents.get(batch.id)
        if known is None:
            known = self._contents[batch.id] = _numbers(batch)
            self._world.note("%s seals epoch %d as %s: %s", daemon.name, batch.epoch, batch.id, Spans(known))
        elif batch.id not in daemon.compared:
            daemon.compared.add(batch.id)
            # One that is committed keeps its ack IDs only.
            if batch.state is State.SEALED and _numbers(batch) != known:
                raise Violation(f"batch {batch.id} had other rows before a restart: {Spans(known)}", _numbers(batch))
        elif batch.rows != len(known):
            raise Violation(f"batch {batch.id} had {len(known)} rows and has {batch.rows}", _numbers(batch))


def _numbers(batch: Batch) -> tuple[int, ...]:
    return tuple(int(name) for chunk in batch.chunks for name in chunk.rows.column("message_id").to_pylist())
