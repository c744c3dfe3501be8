"""Messages that Spark's sink published twice: only the first of those with one name becomes a row.

A name is what `tracing=true` gives a row, the same each time that Spark writes it. What repeats one is never
acknowledged before the row that has the name was processed: it waits beside that row, with a lease of its own, and is
acknowledged when the row's batch is committed, or given back when the row is. Names of committed rows are remembered
for a time, and what repeats one of those is acknowledged at once. A best effort of one node (decision 0018).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from penstock.clock import Clock
from penstock.reservoir.accounting import Ledger
from penstock.reservoir.budget import Allocation, Share
from penstock.reservoir.chunk import Chunk, give_back, let_go
from penstock.reservoir.held import HeldIds, single
from penstock.reservoir.id_table import Seat, hashes_of
from penstock.reservoir.known import RememberedIds
from penstock.reservoir.leases import Leases
from penstock.reservoir.names import names_of
from penstock.reservoir.ports import AckOutcome, AckSink


class Named:
    """The names of a chunk's rows, as `HeldIds` holds them: those of rows without one are left out."""

    __slots__ = ("chunk", "claim", "rows", "seat")

    def __init__(self, chunk: Chunk, names: pa.Array, claim: Allocation) -> None:
        self.chunk = chunk
        self.rows = pa.record_batch([names], ["name"])
        self.claim = claim
        self.seat: Seat | None = None

    def __len__(self) -> int:
        """Names."""
        return int(self.rows.num_rows)


@dataclass(frozen=True)
class Repeats:
    """Messages whose names are held: by chunks, or by other rows of what they came with (`beside`)."""

    rows: pa.RecordBatch
    ack_ids: pa.Array
    chunks: frozenset[Chunk]
    beside: bool


@dataclass(frozen=True)
class Picked:
    """What is left of a delivery, the names of its rows (row by row; None: it has none), and what waits."""

    rows: pa.RecordBatch
    ack_ids: pa.Array
    names: pa.Array | None = None
    repeats: Repeats | None = None


@dataclass(eq=False)
class _Waiting:
    """Repeats as a chunk that is in no queue, and the chunks that have to be committed before it is acknowledged."""

    chunk: Chunk
    on: set[Chunk] = field(default_factory=set)


class Duplicates:
    """Finds and settles them. While it is not `on` no delivery is looked at, and nothing costs.

    `dedupe_s` and `dedupe_rows` bound what is remembered of committed rows.
    """

    def __init__(  # noqa: PLR0913 - a part of `Holdings`
        self,
        *,
        acks: AckSink,
        leases: Leases,
        share: Share,
        ledger: Ledger,
        held: HeldIds[Chunk],
        remembered: RememberedIds,
        dedupe_s: float,
        dedupe_rows: int,
    ) -> None:
        self.on = False
        self.rows = 0
        """That wait for their twins, or for their acks to be confirmed."""
        self.names: HeldIds[Named] = HeldIds(share, ("name",))
        self.processed = RememberedIds(dedupe_s, dedupe_rows)
        self._acks = acks
        self._leases = leases
        self._share = share
        self._ledger = ledger
        self._held = held
        self._remembered = remembered
        self._named: dict[Chunk, Named] = {}
        self._waiting: dict[Chunk, list[_Waiting]] = {}

    def switch(self, *, on: bool, held: Iterable[Chunk]) -> None:
        """Look at deliveries from now on, or no more. What is `held` already counts as rows that may be repeated."""
        if on and not self.on:
            for chunk in held:
                if chunk.names is None and not chunk.committed:
                    chunk.names = names_of(chunk.rows.column("attributes"))
                    self.watch(chunk)
        self.on = on

    def pick(self, rows: pa.RecordBatch, ack_ids: pa.Array, now: float) -> Picked:
        """Take out what repeats a name. None of the rows is held under its message ID."""
        names = names_of(rows.column("attributes")) if self.on else None
        if names is None:
            return Picked(rows, ack_ids)
        processed = self._processed(rows, names, now)
        if processed is not None:
            self._drop(ack_ids.filter(pa.array(processed)))
            keep = pa.array(~processed)
            rows, ack_ids, names = rows.filter(keep), ack_ids.filter(keep), names.filter(keep)
        repeating, chunks, beside = self._repeating(names)
        if repeating is None:
            return Picked(rows, ack_ids, names)
        several = rows.num_rows
        rows, ack_ids = single(rows, ack_ids)  # a message that came twice at once does not repeat itself
        if rows.num_rows < several:
            self._ledger.renewed += several - rows.num_rows
            return self.pick(rows, ack_ids, now)
        out, keep = pa.array(repeating), pa.array(~repeating)
        repeats = Repeats(rows.filter(out), ack_ids.filter(out), chunks, beside)
        return Picked(rows.filter(keep), ack_ids.filter(keep), names.filter(keep), repeats)

    def watch(self, chunk: Chunk) -> None:
        """Rows that may be repeated from now on, if they have names."""
        if chunk.names is None:
            return
        names = chunk.names.drop_null()
        if len(names):
            named = Named(chunk, names, self._share.claim(names.get_total_buffer_size()))
            self._named[chunk] = named
            self.names.add(named, hashes_of(names), distinct=True)

    def wait(self, repeats: Repeats, chunk: Chunk | None, now: float, *, receipt: bool) -> None:
        """Hold what repeats rows of others, or of the `chunk` that it came with, until those are settled."""
        rows = repeats.rows.select(["message_id", "publish_time"])
        own = Chunk.decoded(rows, repeats.ack_ids, received_at=now, share=self._share, ordered=False)
        self._held.add(own, hashes_of(rows.column("message_id")), distinct=True)
        self._leases.hold(own, now + self._leases.deadline_s, receipt=receipt)
        self.rows += len(own)
        waiting = _Waiting(own)
        self._wait_on(waiting, [*repeats.chunks, *([chunk] if repeats.beside and chunk is not None else [])])

    def replace(self, whole: Chunk, parts: Sequence[Chunk]) -> None:
        """`parts` hold the rows of a chunk now; who waited for the whole waits for all of them."""
        if whole.names is None:
            return
        self._unwatch(whole)
        for part in parts:
            self.watch(part)
        for waiting in self._waiting.pop(whole, ()):
            waiting.on.discard(whole)
            self._wait_on(waiting, parts)

    def committed(self, chunks: Iterable[Chunk], clock: Clock) -> None:
        """Spark has finished these rows, all of which are still there: what repeats them is done with."""
        for chunk in chunks:
            if chunk.names is None:
                continue
            traced = chunk.names.is_valid()
            message_ids = chunk.rows.column("message_id").filter(traced)
            self.processed.remember(chunk.names.filter(traced), clock(), beside=message_ids)
            self._unwatch(chunk)
            for waiting in self._waiting.pop(chunk, ()):
                waiting.on.discard(chunk)
                if not waiting.on:
                    self._acknowledge(waiting.chunk, clock)

    def given_up(self, chunks: Iterable[Chunk]) -> None:
        """These rows go back to the service unprocessed, and so does what repeats them: it comes again."""
        for chunk in chunks:
            if chunk.names is None:
                continue
            self._unwatch(chunk)
            for waiting in self._waiting.pop(chunk, ()):
                self._release(waiting)

    def release_all(self) -> None:
        """Give back all that waits for its twins."""
        for waiting in {waiting for several in self._waiting.values() for waiting in several}:
            self._release(waiting)

    def _processed(self, rows: pa.RecordBatch, names: pa.Array, now: float) -> np.ndarray | None:
        """Which rows repeat what was processed (bool); None when none does.

        Not the processed message itself: if that one comes again, somebody asked for it by a seek, or it is for
        `Redeliveries` to judge.
        """
        traced = names.is_valid()
        asked, message_ids = names.filter(traced), rows.column("message_id").filter(traced)
        found = self.processed.known(asked, now, beside=message_ids)
        if found is None:
            return None
        processed = np.zeros(len(names), bool)
        processed[np.flatnonzero(traced.to_numpy(zero_copy_only=False))[found]] = True
        return processed

    def _repeating(self, names: pa.Array) -> tuple[np.ndarray | None, frozenset[Chunk], bool]:
        """Which rows have a name that is held, or that an earlier one of them has (bool; None: none); who has it."""
        at = np.flatnonzero(names.is_valid().to_numpy(zero_copy_only=False))
        asked = names.drop_null()
        repeating = np.zeros(len(names), bool)
        hashes = hashes_of(asked)
        # A hash that two rows share only makes us look at the names.
        if len(np.unique(hashes)) < len(hashes):
            _, numbers = np.unique(asked.dictionary_encode().indices.to_numpy(), return_index=True)
            later = np.ones(len(asked), bool)
            later[numbers] = False
            repeating[at[later]] = True
        beside = bool(repeating.any())
        chunks = set()
        for match in self.names.find(pa.record_batch([asked], ["name"]), hashes):
            repeating[at[match.asked]] = True
            chunks.add(match.chunk.chunk)
        return (repeating if repeating.any() else None), frozenset(chunks), beside

    def _drop(self, ack_ids: pa.Array) -> None:
        """Acknowledge what repeats a processed row; it counts in the budget until that is settled."""
        self._ledger.duplicates += len(ack_ids)
        claim = self._share.claim(ack_ids.get_total_buffer_size())
        self._acks.acknowledge([ack_ids], functools.partial(_settled, claim))

    def _acknowledge(self, chunk: Chunk, clock: Clock) -> None:
        chunk.shed(self._share)

        def settled(outcome: AckOutcome) -> None:
            if outcome.lost or (chunk.lease is not None and chunk.lease.lapsed):
                ids, times = chunk.rows.column("message_id"), chunk.rows.column("publish_time")
                self._remembered.remember(ids, clock(), beside=times)
            self._ledger.duplicates += outcome.confirmed
            self._ledger.acks_lost += outcome.lost
            self._end(chunk)

        self._acks.acknowledge([chunk.ack_ids], settled)

    def _release(self, waiting: _Waiting) -> None:
        for chunk in waiting.on:
            others = [other for other in self._waiting.pop(chunk, ()) if other is not waiting]
            if others:
                self._waiting[chunk] = others
        waiting.on.clear()
        give_back(self._acks, [waiting.chunk])
        self._ledger.released += len(waiting.chunk)
        self._end(waiting.chunk)

    def _end(self, chunk: Chunk) -> None:
        self.rows -= len(chunk)
        self._held.drop([chunk])
        if chunk.lease is not None:
            chunk.lease.end()

    def _wait_on(self, waiting: _Waiting, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            waiting.on.add(chunk)
            self._waiting.setdefault(chunk, []).append(waiting)

    def _unwatch(self, chunk: Chunk) -> None:
        named = self._named.pop(chunk, None)
        if named is not None:
            self.names.drop([named])
        chunk.names = None


def _settled(claim: Allocation, _outcome: AckOutcome) -> None:
    let_go([claim])
