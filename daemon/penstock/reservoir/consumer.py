"""One reader of a subscription over its whole life: its reader, contact, and what became of each epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.contract import HEARTBEATS_PER_TIMEOUT, MAX_EXCLUDED, MAX_NAME_LENGTH, Reader
from penstock.errors import BatchGone, InvalidRequest, OpenAgain, ReaderFenced
from penstock.reservoir.batch import Batch, State
from penstock.reservoir.plans import Plans

TOMBSTONES = 16
"""Epochs whose end is remembered, so that late calls are told what happened (design.md, section 5)."""

MISSED_HEARTBEATS = 3
"""A consumer that missed this many may be displaced by another one."""


@dataclass(frozen=True)
class Tombstone:
    """How a batch ended."""

    batch: str
    reason: str


@dataclass(eq=False)
class Consumer:
    """State of one consumer on this node. `reader` outlives contact: fencing is for ever.

    `contact`: it was heard of within its time-out. `must_open`: its reader has to `open` before any other call.
    `closed`: it ended for good and is forgotten with its last batch. `excluded`: batch ID, of whichever node, → epoch.
    `plans`: those that this node deals the slices of.
    """

    id: str
    timeout_s: float
    reader: Reader = field(default_factory=lambda: Reader(0, ""))
    contact: bool = False
    must_open: bool = True
    said_bye: bool = False
    closed: bool = False
    share: bool = False
    dedupe: bool = False
    last_contact: float = 0.0
    committed_through: int = 0
    batches: dict[int, Batch] = field(default_factory=dict)
    ended: OrderedDict[int, Tombstone] = field(default_factory=OrderedDict)
    excluded: dict[str, int] = field(default_factory=dict)
    plans: Plans = field(default_factory=Plans)

    @property
    def heartbeat_s(self) -> float:
        """How often its driver says `alive`."""
        return self.timeout_s / HEARTBEATS_PER_TIMEOUT

    def admit(self, reader: Reader, now: float, *, share: bool) -> None:
        """Take a reader over by `open`. Raises `ReaderFenced` for a lower one."""
        self.fence(reader)
        self.reader = reader
        self.share = share
        self.contact = True
        self.must_open = False
        self.said_bye = self.closed = False
        self.last_contact = now

    def check(self, reader: Reader) -> None:
        """Refuse a reader that is fenced, or that must `open` first."""
        self.fence(reader)
        if reader > self.reader or self.must_open:
            raise OpenAgain(f"this daemon does not know reader {reader.uuid} of consumer {self.id}: call open")

    def lose(self) -> None:
        """Contact is over; whoever speaks for it next has to open, and plan anew."""
        self.contact = False
        self.must_open = True
        self.plans.clear()

    def touch(self, now: float) -> None:
        """An unfenced reader has spoken."""
        self.last_contact = now

    def timed_out(self, now: float) -> bool:
        """Whether contact was lost for `timeout_s`."""
        return self.contact and now - self.last_contact >= self.timeout_s

    def displaceable(self, now: float) -> bool:
        """Whether another consumer may take its subscription over."""
        return not self.contact or self.said_bye or now - self.last_contact > MISSED_HEARTBEATS * self.heartbeat_s

    def exclude(self, epoch: int, batches: Sequence[str]) -> int:
        """Never acknowledge these batches of an epoch, all of them or `InvalidRequest`; how many are news."""
        for batch_id in batches:
            if not 0 < len(batch_id) <= MAX_NAME_LENGTH:
                raise InvalidRequest(f"exclude: a batch ID has 1 to {MAX_NAME_LENGTH} characters, not {len(batch_id)}")
            known = self._epoch_of(batch_id)
            if known not in {None, epoch}:
                raise InvalidRequest(f"exclude: batch {batch_id} is of epoch {known}, not of {epoch}")
        news = dict.fromkeys((batch_id for batch_id in batches if batch_id not in self.excluded), epoch)
        if len(self.excluded) + len(news) > MAX_EXCLUDED:
            raise InvalidRequest(
                f"exclude: {len(news)} batches more than the {len(self.excluded)} of consumer {self.id} that are "
                f"excluded already; at most {MAX_EXCLUDED} are kept until their epochs are committed"
            )
        self.excluded.update(news)
        return len(news)

    def pass_epochs(self) -> bool:
        """What was kept for epochs that are committed is not needed any more; whether exclusions are fewer now."""
        self.plans.finish(self.committed_through)
        kept = {batch_id: epoch for batch_id, epoch in self.excluded.items() if epoch > self.committed_through}
        fewer, self.excluded = len(kept) < len(self.excluded), kept
        return fewer

    def end(self, batch: Batch, reason: str) -> None:
        """Record how a batch left the node."""
        self.batches.pop(batch.epoch, None)
        self.bury(batch.epoch, Tombstone(batch.id, reason))

    def bury(self, epoch: int, tombstone: Tombstone) -> None:
        """Remember how the batch of an epoch ended; the oldest are forgotten."""
        self.ended[epoch] = tombstone
        self.ended.move_to_end(epoch)
        while len(self.ended) > TOMBSTONES:
            self.ended.popitem(last=False)

    def batch(self, epoch: int, batch_id: str) -> Batch:
        """The batch of that ID. Raises `BatchGone` telling what became of it."""
        batch = self.batches.get(epoch)
        if batch is None or batch.id != batch_id:
            raise gone(batch_id, epoch, self.ended.get(epoch))
        if batch.state is not State.SEALED:
            raise gone(batch_id, epoch, Tombstone(batch_id, batch.state.value))
        return batch

    def _epoch_of(self, batch_id: str) -> int | None:
        """Of a batch that is held, or known to be excluded."""
        held = next((epoch for epoch, batch in self.batches.items() if batch.id == batch_id), None)
        return self.excluded.get(batch_id) if held is None else held

    def fence(self, reader: Reader) -> None:
        """Refuse a lower reader. Raises `ReaderFenced`."""
        fence(self.id, self.reader, reader)


def fence(consumer_id: str, newest: Reader, reader: Reader) -> None:
    """Raises `ReaderFenced` if `reader` is below the newest that the consumer has had."""
    if reader < newest:
        raise ReaderFenced(
            f"reader {reader.uuid} of consumer {consumer_id} is fenced: a newer one, {newest.uuid}, took over. "
            "Two queries run on one checkpoint; stop one of them",
            newer=list(newest),
        )


def gone(batch_id: str, epoch: int | None, tombstone: Tombstone | None) -> BatchGone:
    """The error for a batch that is not here."""
    known = tombstone is not None and tombstone.batch == batch_id
    reason = tombstone.reason if tombstone and known else "not held by this daemon (it may have been restarted)"
    of = "" if epoch is None else f" of epoch {epoch}"
    return BatchGone(f"batch {batch_id}{of} is gone: {reason}", batch=batch_id, reason=reason)
