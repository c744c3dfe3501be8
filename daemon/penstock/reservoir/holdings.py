"""All messages of one subscription on this node, and the only code that settles them. The counts add up by design."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from penstock.reservoir.accounting import Ledger
from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk, Lease
from penstock.reservoir.known import RememberedIds
from penstock.reservoir.leases import Extend, Lapse, Leases
from penstock.reservoir.notes import Notes
from penstock.reservoir.ordering import BUCKETS
from penstock.reservoir.ports import AckOutcome, AckSink
from penstock.reservoir.queue import ChunkQueue


class Holdings:
    """Unsealed chunks, the leases of all chunks, and the ways out: acknowledged, released, lapsed, dropped as known."""

    def __init__(
        self, acks: AckSink, share: Share, notes: Notes, *, deadline_s: float, max_lease_s: float, ordered: bool
    ) -> None:
        self.queue = ChunkQueue()
        self.ledger = Ledger()
        self.remembered = RememberedIds()
        self.ordered = ordered
        self._acks = acks
        self._share = share
        self._notes = notes
        self._leases = Leases(deadline_s, max_lease_s)

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float, *, receipt: bool) -> None:
        """Take one decoded chunk in; rows that were committed before are acknowledged again and dropped.

        `receipt`: the service wants to hear that it was received, by an extension of its lease.
        """
        self.ledger.received += rows.num_rows
        known = self.remembered.known(rows.column("message_id"), now)
        if known is not None:
            self.ledger.known += int(known.sum())
            self._acks.acknowledge([ack_ids.filter(pa.array(known))], _ignore)
            keep = pa.array(~known)
            rows, ack_ids = rows.filter(keep), ack_ids.filter(keep)
        if rows.num_rows == 0:
            return
        chunk = Chunk.decoded(rows, ack_ids, received_at=now, share=self._share, ordered=self.ordered)
        self._leases.hold(chunk, now + self._leases.deadline_s, receipt=receipt)
        self.queue.append(chunk)
        self._notes.keep(chunk, self._share)

    def restore(self, chunks: Sequence[Chunk], now: float) -> None:
        """Chunks of a batch that a store had: nobody kept their leases, so each is due at once and counts as lapsed."""
        for chunk in chunks:
            self._leases.hold(chunk, now)
        self.ledger.recovered += _rows(chunks)

    def take(self, max_rows: int, max_bytes: int) -> list[Chunk]:
        """Chunks for a batch, oldest rows first; empty when nothing is buffered."""
        chunks, cut = self.queue.take(max_rows, min(max_bytes, self._notes.sealable_bytes(self.queue)))
        if cut is not None:
            whole, parts = cut
            self._replace_leases([whole], parts)
        for chunk in chunks:  # parts of chunks that lost rows are new
            self._notes.keep(chunk, self._share)
        return chunks

    def put_back(self, chunks: Sequence[Chunk]) -> None:
        """Chunks that nobody read return to the head of the queue, leases kept."""
        self.queue.put_back(chunks)

    def acknowledge(self, chunks: Sequence[Chunk], now: float, done: Callable[[], None]) -> None:
        """Committed chunks: their rows go at once, their leases are kept until every ack is confirmed."""
        for chunk in chunks:
            chunk.shed(self._share)
            if chunk.lease is not None and chunk.lease.lapsed:
                self.remembered.remember(chunk.rows.column(0), now)

        def settled(outcome: AckOutcome) -> None:
            if outcome.lost:
                for chunk in chunks:
                    self.remembered.remember(chunk.rows.column(0), now)
            self.ledger.acknowledged += outcome.confirmed
            self.ledger.acks_lost += outcome.lost
            _end(chunks)
            done()

        self._acks.acknowledge([chunk.ack_ids for chunk in chunks], settled)

    def release(self, chunks: Sequence[Chunk]) -> None:
        """Give chunks back to Pub/Sub at once; with ordering, the later unsealed rows of their buckets too."""
        if not chunks:
            return
        self._acks.release([chunk.ack_ids for chunk in chunks])
        self.ledger.released += _rows(chunks)
        _end(chunks)
        self._expel_followers(chunks)

    def release_unsealed(self) -> None:
        """Give back all that is not sealed."""
        self.release(self.queue.clear())

    def lapse(self, chunks: Iterable[Chunk]) -> int:
        """Drop unsealed chunks whose deadline ran out: Pub/Sub delivers them again. Returns the rows dropped."""
        dropped = self.queue.remove(chunks)
        self.ledger.lapsed += _rows(dropped)
        _end(dropped)
        self._expel_followers(dropped)
        return _rows(dropped)

    def lapsed_unsealed(self, now: float) -> list[Chunk]:
        """Unsealed chunks whose deadline is over, as after a pause of the whole machine."""
        return [chunk for chunk in self.queue if chunk.lease is not None and chunk.lease.until <= now]

    def keep_leases(self, now: float, clock: Callable[[], float]) -> int:
        """Extend what is due and drop what has lapsed. Returns the rows dropped."""
        dropped = 0
        for work in self._leases.due(now, lambda chunk: chunk.unsealed):
            if isinstance(work, Lapse):
                dropped += self.lapse(work.chunks)
            else:
                for lease in work.leases:
                    self._extend(lease, now, clock)
        return dropped

    def refuse(self) -> None:
        """The service says no for good: leases are asked for rarely until `ask_again`."""
        self._leases.refused = True

    def ask_again(self, now: float) -> None:
        """Leases are asked for as usual, and at once where they are late."""
        if self._leases.refused:
            self._leases.ask_again(now)

    def _extend(self, lease: Lease, now: float, clock: Callable[[], float]) -> None:
        """Chunk by chunk (the sink fills requests with several): one that fails is tried again alone."""
        if lease.chunk is None:
            return

        def settled(confirmed: bool) -> None:  # noqa: FBT001 - the port's callback
            self._leases.extended(Extend((lease,)), now, clock(), confirmed=confirmed)

        self._acks.extend([lease.chunk.ack_ids], settled)

    def _replace_leases(self, old: Sequence[Chunk], new: Sequence[Chunk]) -> None:
        """`new` hold the messages of `old` now: the shortest deadline counts."""
        leases = [chunk.lease for chunk in old if chunk.lease is not None]
        until, lapsed = min(lease.until for lease in leases), any(lease.lapsed for lease in leases)
        receipt = any(lease.receipt for lease in leases)
        _end(old)
        for chunk in new:
            self._leases.hold(chunk, until, receipt=receipt)
            assert chunk.lease is not None
            chunk.lease.lapsed = lapsed

    def _expel_followers(self, gone: Sequence[Chunk]) -> None:
        if not self.ordered or not gone or not len(self.queue):
            return
        buckets = np.zeros(BUCKETS, bool)
        for chunk in gone:
            buckets[chunk.buckets] = True
        out, replaced = self.queue.expel(buckets)
        for whole, rest in replaced:
            if rest is not None:
                self._replace_leases([whole], [rest])
        if out:
            self._acks.release([chunk.ack_ids for chunk in out])
            self.ledger.released += _rows(out)
            _end(out)


def _rows(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk) for chunk in chunks)


def _end(chunks: Iterable[Chunk]) -> None:
    for chunk in chunks:
        if chunk.lease is not None:
            chunk.lease.end()


def _ignore(_outcome: AckOutcome) -> None:
    """A redelivery acknowledged again: nothing here waits for it."""
