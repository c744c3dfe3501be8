"""What becomes of batches: sealed, then acknowledged, requeued or released, each move noted before it is acted on."""

from __future__ import annotations

from collections.abc import Collection

from penstock.change import Change
from penstock.clock import Clock
from penstock.contract.actions import CommitState, FinishedEpoch
from penstock.reservoir.batch import Batch, State
from penstock.reservoir.budget import Share
from penstock.reservoir.consumer import Consumer, Tombstone
from penstock.reservoir.holdings import Holdings
from penstock.reservoir.notes import Notes
from penstock.reservoir.recovery import RecoveredBatch
from penstock.reservoir.roster import Roster

ACKNOWLEDGED = "acknowledged"
"""The reason on the tombstone of a batch that ended well."""


class Lives:
    """The only code that moves a batch of one subscription from one state to the next."""

    def __init__(
        self, *, node: str, holdings: Holdings, notes: Notes, roster: Roster, change: Change, clock: Clock
    ) -> None:
        self._node = node
        self._holdings = holdings
        self._notes = notes
        self._roster = roster
        self._change = change
        self._clock = clock

    def seal(self, consumer: Consumer, epoch: int, max_rows: int, max_bytes: int) -> Batch | None:
        """A new batch of what is buffered, if anything is. Raises `DiskFull`."""
        self._notes.check()
        chunks = self._holdings.take(max_rows, max_bytes)
        if not chunks:
            return None
        batch = consumer.batches[epoch] = Batch(epoch, chunks)
        self._notes.sealed(consumer, batch, lambda: self._unseal(consumer, batch))
        self._change.tell()
        return batch

    def finish(self, consumer: Consumer, finished: FinishedEpoch, excluded: frozenset[str]) -> CommitState:
        """Spark has finished an epoch: acknowledge what its offset named, give back what it did not."""
        if finished.epoch > consumer.committed_through:
            consumer.committed_through = finished.epoch
            self._notes.consumer(consumer)
        batch = consumer.batches.get(finished.epoch)
        if batch is None:
            tombstone = consumer.ended.get(finished.epoch)
            named = tombstone is not None and tombstone.batch == finished.nodes.get(self._node)
            return CommitState.ACKED if tombstone and named and tombstone.reason == ACKNOWLEDGED else CommitState.GONE
        if batch.state is State.COMMITTED:
            return CommitState.PENDING
        if batch.id in excluded or batch.id in consumer.excluded:
            self.release(consumer, batch, "excluded from a plan of its epoch")
            return CommitState.RELEASED
        if finished.nodes.get(self._node) != batch.id:
            self.requeue(consumer, batch)
            return CommitState.REQUEUED
        self.acknowledge(consumer, batch)
        return CommitState.PENDING if batch.epoch in consumer.batches else CommitState.ACKED

    def release_missed(self, consumer: Consumer, finished: Collection[int]) -> None:
        """Give back what is older than the newest finished epoch and was not named with it: its commit was missed.

        It may have been read, so it cannot be requeued.
        """
        newest = max(finished, default=0)
        for batch in [b for e, b in consumer.batches.items() if e < newest and e not in finished]:
            if batch.state is State.SEALED:
                self.release(consumer, batch, "a later epoch was committed without it")

    def forget_past(self, consumer: Consumer) -> None:
        """Drop what was kept for epochs that are committed, when none of their batches can be acknowledged any more.

        On record after what became of those batches, so that no restart finds one without its exclusion.
        """
        if consumer.pass_epochs():
            self._notes.consumer(consumer)

    def requeue_unknown(self, consumer: Consumer, after: int) -> None:
        """Put back what no offset can name: `after` is the last epoch that the consumer's driver knows of.

        The latest first, so that the earliest ends at the head of the queue.
        """
        for epoch in sorted((epoch for epoch in consumer.batches if epoch > after + 1), reverse=True):
            if consumer.batches[epoch].state is State.SEALED:
                self.requeue(consumer, consumer.batches[epoch])

    def acknowledge(self, consumer: Consumer, batch: Batch) -> None:
        """Committed: its acks are sent once that is on record, and it is gone when they are confirmed."""
        batch.move(State.COMMITTED)
        self._notes.committed(consumer, batch)
        self._send_acks(consumer, batch)

    def requeue(self, consumer: Consumer, batch: Batch) -> None:
        """Nobody can have read it: its rows return to the head of the queue."""
        batch.move(State.QUEUED)
        self._end(consumer, batch, "requeued: no offset named it")
        self._holdings.put_back(batch.surrender())

    def release(self, consumer: Consumer, batch: Batch, reason: str) -> None:
        """Its rows go back to Pub/Sub."""
        batch.move(State.RELEASED)
        batch.move(State.GONE)
        self._end(consumer, batch, f"released: {reason}")
        chunks = batch.surrender()
        self._holdings.dead_letters.came_back(chunks, self._clock())
        self._holdings.release(chunks)

    def give_up(self, consumer: Consumer, reason: str) -> None:
        """The consumer's contact is over: what it did not commit goes back."""
        self._roster.lose(consumer)
        for batch in list(consumer.batches.values()):
            if batch.state is State.SEALED:
                self.release(consumer, batch, reason)

    def recover(self, consumer: Consumer, found: RecoveredBatch, share: Share, now: float) -> None:
        """Take up a batch that a store had. Acks that were not confirmed are sent again."""
        if found.damage is not None:
            reason = f"lost: {found.damage}"
            self._notes.ended(consumer, found.epoch, found.id, reason)
            consumer.bury(found.epoch, Tombstone(found.id, reason))
            return
        batch = Batch(found.epoch, found.chunks(share, now), found.id)
        consumer.batches[batch.epoch] = batch
        self._holdings.restore(batch.chunks, now)
        if found.committed:
            batch.move(State.COMMITTED)
            self._send_acks(consumer, batch)

    def _unseal(self, consumer: Consumer, batch: Batch) -> None:
        """A batch whose rows could not be stored: its `seal` was never answered."""
        if batch.state is State.SEALED:
            self.requeue(consumer, batch)
            self._change.tell()

    def _send_acks(self, consumer: Consumer, batch: Batch) -> None:
        def done() -> None:
            batch.move(State.GONE)
            self._end(consumer, batch, ACKNOWLEDGED)
            self._roster.forget_closed(consumer)
            self._change.tell()

        self._holdings.acknowledge(batch.surrender(), self._clock, done)

    def _end(self, consumer: Consumer, batch: Batch, reason: str) -> None:
        self._notes.ended(consumer, batch.epoch, batch.id, reason)
        consumer.end(batch, reason)
