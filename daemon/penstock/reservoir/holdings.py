"""All messages of one subscription on this node, and the only code that settles them. The counts add up by design."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from penstock.clock import Clock
from penstock.reservoir.accounting import Ledger
from penstock.reservoir.batch import Batch
from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk, Lease, give_back, let_go
from penstock.reservoir.duplicates import Duplicates
from penstock.reservoir.held import HeldIds, Match, single
from penstock.reservoir.id_table import Hashes, hashes_of
from penstock.reservoir.known import RememberedIds
from penstock.reservoir.leases import Extend, Lapse, Leases
from penstock.reservoir.names import names_of
from penstock.reservoir.notes import Notes
from penstock.reservoir.ordering import BUCKETS
from penstock.reservoir.poison import DeadLetters
from penstock.reservoir.ports import AckOutcome, AckSink, DeadLetterSink
from penstock.reservoir.queue import ChunkQueue
from penstock.reservoir.redelivery import Redeliveries


class Holdings:
    """Unsealed chunks, the leases of all chunks, and the ways out: acknowledged, released, lapsed, dropped.

    `ordered` and `exactly_once` are about what is received from now on: a subscription may have been made anew. What is
    held stays as it came, since rows of a batch are never cut in another way.
    """

    def __init__(  # noqa: PLR0913 - composed in one place
        self,
        acks: AckSink,
        share: Share,
        notes: Notes,
        *,
        deadline_s: float,
        max_lease_s: float,
        remember_s: float,
        ordered: bool,
        dead_letters: DeadLetterSink | None = None,
        max_delivery_attempts: int = 0,
        dedupe_s: float = 0.0,
        dedupe_rows: int = 0,
    ) -> None:
        self.queue = ChunkQueue()
        self.ledger = Ledger()
        self.exactly_once = False
        self.remembered = RememberedIds(remember_s)
        self.held: HeldIds[Chunk] = HeldIds(share)
        self.ordered = ordered
        self._acks = acks
        self._share = share
        self._notes = notes
        self._leases = Leases(deadline_s, max_lease_s)
        self.dead_letters = DeadLetters(
            dead_letters,
            max_delivery_attempts,
            acks=acks,
            leases=self._leases,
            share=share,
            ledger=self.ledger,
            remembered=self.remembered,
        )
        self._redeliveries = Redeliveries(
            acks=acks, share=share, ledger=self.ledger, leases=self._leases, remembered=self.remembered
        )
        self.duplicates = Duplicates(
            acks=acks,
            leases=self._leases,
            share=share,
            ledger=self.ledger,
            held=self.held,
            remembered=self.remembered,
            dedupe_s=dedupe_s,
            dedupe_rows=dedupe_rows,
        )
        self._lapsed_early = 0

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float, *, late_s: float = 0.0) -> None:
        """Take one decoded chunk in: only what is new makes rows.

        What was committed before is acknowledged again and dropped; what is held gets the new ack ID. An exactly-once
        subscription wants to hear of each that it was received, by an extension of its lease.

        They were received at `now` and waited for `late_s`: after a whole deadline new rows are dropped before anybody
        can seal them, since they are on their way again.
        """
        receipt = self.exactly_once
        self.ledger.received += rows.num_rows
        known = self._redeliveries.known(rows, now)
        if known is not None:
            self.ledger.known += int(known.sum())
            asked = pa.array(known)
            self._redeliveries.acknowledge(ack_ids.filter(asked), rows.column("message_id").filter(asked))
            keep = pa.array(~known)
            rows, ack_ids = rows.filter(keep), ack_ids.filter(keep)
        if rows.num_rows == 0:
            return
        hashes = hashes_of(rows.column("message_id"))
        if matches := self._find(rows, hashes, now):
            keep = pa.array(self._redeliveries.take(matches, ack_ids, now, receipt=receipt))
            rows, ack_ids = rows.filter(keep), ack_ids.filter(keep)
            if rows.num_rows == 0:
                return
            hashes = hashes_of(rows.column("message_id"))
        # After what is held: a redelivery of a row in a batch is no dead letter, the row is on its way.
        arrived = rows.num_rows
        rows, ack_ids = self.dead_letters.pick(rows, ack_ids, now, receipt=receipt)
        if rows.num_rows == 0:
            return
        picked = self.duplicates.pick(rows, ack_ids, now)
        rows, ack_ids = picked.rows, picked.ack_ids
        if rows.num_rows < arrived:
            hashes = hashes_of(rows.column("message_id"))
        chunk = self._take_in(rows, ack_ids, hashes, picked.names, now, receipt=receipt) if rows.num_rows else None
        if picked.repeats is not None:
            self.duplicates.wait(picked.repeats, chunk, now, receipt=receipt)
        if chunk is not None and late_s >= self._leases.deadline_s:
            self._lapsed_early += self.lapse([chunk])

    def _take_in(
        self,
        rows: pa.RecordBatch,
        ack_ids: pa.Array,
        hashes: Hashes,
        names: pa.Array | None,
        now: float,
        *,
        receipt: bool,
    ) -> Chunk:
        decoded = functools.partial(Chunk.decoded, received_at=now, share=self._share, ordered=self.ordered)
        chunk = decoded(rows, ack_ids)
        chunk.names = names
        if not self.held.add(chunk, hashes):
            several = rows.num_rows
            rows, ack_ids = single(rows, ack_ids)
            self.ledger.renewed += several - rows.num_rows
            chunk = decoded(rows, ack_ids)
            chunk.names = None if names is None else names_of(rows.column("attributes"))
            self.held.add(chunk, hashes_of(rows.column("message_id")), distinct=True)
        self._leases.hold(chunk, now + self._leases.deadline_s, receipt=receipt)
        self.queue.append(chunk)
        self._notes.keep(chunk, self._share)
        self.duplicates.watch(chunk)
        return chunk

    def restore(self, chunks: Sequence[Chunk], now: float) -> None:
        """Chunks of a batch that a store had: nobody kept their leases, so each is due at once and counts as lapsed."""
        for chunk in chunks:
            self._leases.hold(chunk, now)
            self.held.add(chunk, hashes_of(chunk.rows.column("message_id")), distinct=True)
        self.ledger.recovered += _rows(chunks)

    def give_back_unread(self, ack_ids: Sequence[pa.Array]) -> None:
        """Messages that came and were never taken in go back at once."""
        count = sum(len(array) for array in ack_ids)
        self.ledger.received += count
        self.ledger.released += count
        size = sum(array.get_total_buffer_size() for array in ack_ids)
        self._acks.release(ack_ids, functools.partial(let_go, [self._share.claim(size)]))

    def take(self, max_rows: int, max_bytes: int) -> list[Chunk]:
        """Chunks for a batch, oldest rows first; empty when nothing is buffered."""
        chunks, cut = self.queue.take(max_rows, min(max_bytes, self._notes.sealable_bytes(self.queue)))
        if cut is not None:
            whole, parts = cut
            self._replace(whole, parts)
        for chunk in chunks:  # parts of chunks that lost rows are new
            self._notes.keep(chunk, self._share)
        return chunks

    def dedupe(self, batches: Iterable[Batch], *, on: bool) -> None:
        """Drop duplicates from now on, or no more; those of rows in `batches` as well, which are all that are held."""
        sealed = (chunk for batch in batches for chunk in batch.chunks)
        self.duplicates.switch(on=on, held=itertools.chain(self.queue, sealed))

    def put_back(self, chunks: Sequence[Chunk]) -> None:
        """Chunks that nobody read return to the head of the queue, leases kept."""
        self.queue.put_back(chunks)

    def acknowledge(self, chunks: Sequence[Chunk], clock: Clock, done: Callable[[], None]) -> None:
        """Committed chunks: their rows go at once, their leases are kept until every ack is confirmed.

        What may come again is remembered from then on: acks may have been pending for longer than anything is.
        """
        self.duplicates.committed(chunks, clock)
        for chunk in chunks:
            chunk.shed(self._share)

        def settled(outcome: AckOutcome) -> None:
            for chunk in chunks:
                if outcome.lost or self._may_come_again(chunk):
                    ids, times = chunk.rows.column("message_id"), chunk.rows.column("publish_time")
                    self.remembered.remember(ids, clock(), beside=times)
            self.ledger.acknowledged += outcome.confirmed
            self.ledger.acks_lost += outcome.lost
            self._end(chunks)
            done()

        self._acks.acknowledge([chunk.ack_ids for chunk in chunks], settled)

    def release(self, chunks: Sequence[Chunk]) -> None:
        """Give chunks back to Pub/Sub at once; with ordering, the later unsealed rows of their buckets too."""
        if not chunks:
            return
        give_back(self._acks, chunks)
        self.ledger.released += _rows(chunks)
        self._end(chunks)
        self._expel_followers(chunks)

    def release_unsealed(self) -> None:
        """Give back all that is not sealed."""
        self.release(self.queue.clear())

    def lapse(self, chunks: Iterable[Chunk]) -> int:
        """Drop unsealed chunks whose deadline ran out: Pub/Sub delivers them again. Returns the rows dropped."""
        dropped = self.queue.remove(chunks)
        self.ledger.lapsed += _rows(dropped)
        self._end(dropped)
        self._expel_followers(dropped)
        return _rows(dropped)

    def lapsed_unsealed(self, now: float) -> list[Chunk]:
        """Unsealed chunks whose deadline is over, as after a pause of the whole machine."""
        return [chunk for chunk in self.queue if chunk.lease is not None and chunk.lease.until <= now]

    def keep_leases(self, now: float, clock: Callable[[], float]) -> int:
        """Extend what is due and drop what has lapsed. Returns the rows dropped."""
        dropped, self._lapsed_early = self._lapsed_early, 0
        return dropped + self._act(self._leases.due(now, lambda chunk: chunk.unsealed), now, clock)

    def behind(self, now: float) -> bool:
        """Whether leases are extended so late that more messages would cost those that are held."""
        return self._leases.behind(now)

    def _act(self, works: Iterable[Extend | Lapse], now: float, clock: Callable[[], float]) -> int:
        """Returns the rows dropped."""
        dropped = 0
        for work in works:
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
        if lease.chunk is None:  # it went with what lapsed
            self._leases.extended(Extend((lease,)), now, now, confirmed=False)
            return

        def settled(confirmed: bool) -> None:  # noqa: FBT001 - the port's callback
            ended = clock()
            self._leases.extended(Extend((lease,)), now, ended, confirmed=confirmed)
            if self._leases.waiting:  # not before the next tick: the senders would stand idle until then
                more = self._leases.due(ended, lambda chunk: chunk.unsealed, room_only=True)
                self._lapsed_early += self._act(more, ended, clock)

        self._acks.extend([lease.chunk.ack_ids], settled)

    def _may_come_again(self, chunk: Chunk) -> bool:
        """Whether messages of a chunk may be on their way although every ack was confirmed.

        Not on exactly-once subscriptions, where a confirmation is a promise.
        """
        return not self.exactly_once and (chunk.renewed or (chunk.lease is not None and chunk.lease.lapsed))

    def _find(self, rows: pa.RecordBatch, hashes: Hashes, now: float) -> list[Match[Chunk]]:
        """Which of these rows are held.

        Not in unsealed chunks whose deadline is over, which are dropped first, as the next `keep_leases` would do: to
        renew one of their rows would leave it without a lease and without a place.
        """
        matches = self.held.find(rows, hashes)
        over = [
            m.chunk for m in matches if m.chunk.unsealed and m.chunk.lease is not None and m.chunk.lease.until <= now
        ]
        if not over:
            return matches
        self._lapsed_early += self.lapse(over)
        return self.held.find(rows, hashes)

    def _replace(self, whole: Chunk, parts: Sequence[Chunk]) -> None:
        """`parts` hold the messages of a chunk now, and have its lease each."""
        lease = whole.lease
        assert lease is not None
        lease.end()
        self.held.replace(whole, parts)
        self.duplicates.replace(whole, parts)
        for part in parts:
            self._leases.hold(part, lease.until, receipt=lease.receipt, lapsed=lease.lapsed)

    def _expel_followers(self, gone: Sequence[Chunk]) -> None:
        ordered = [chunk.buckets for chunk in gone if chunk.buckets is not None]
        if not ordered or not len(self.queue):
            return
        buckets = np.zeros(BUCKETS, bool)
        for found in ordered:
            buckets[found] = True
        out, replaced = self.queue.expel(buckets, self._share)
        for part, (whole, rest) in zip(out, replaced, strict=True):
            if rest is not None:
                self._replace(whole, [rest, part])
        if out:
            give_back(self._acks, out)
            self.ledger.released += _rows(out)
            self._end(out)

    def _end(self, chunks: Sequence[Chunk]) -> None:
        """All that is known of chunks that are settled goes with them."""
        self.held.drop(chunks)
        self.duplicates.given_up(chunks)
        for chunk in chunks:
            if chunk.lease is not None:
                chunk.lease.end()


def _rows(chunks: Iterable[Chunk]) -> int:
    return sum(len(chunk) for chunk in chunks)
