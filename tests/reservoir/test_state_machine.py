"""Invariants 1 to 5 of the design against random seals, plans, retries, commits, lapses and driver restarts."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.reservoir.making import CONSUMER, Bench, message_ids, number_of

from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import FinishedEpoch
from penstock.errors import BatchGone, EpochPast, OpenAgain, ReaderFenced
from penstock.reservoir import Subscription
from penstock.reservoir.budget import Allocation
from penstock.reservoir.chunk import Chunk

ENDS = ("read and finished", "finished", "read", "", "excluded and finished", "excluded")
"""What becomes of an epoch whose offset was written."""

KEYS = ("red", "green", "blue", None)


class ReservoirMachine(RuleBasedStateMachine):
    """A driver as Spark drives it (offset log, commit log, restarts), a service that confirms late, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.generation = 0
        self.attempt = 1
        self.offset_log: dict[int, dict[str, str]] = {}
        self.finished: set[int] = set()
        self.finished_rows: set[str] = set()
        self.contents: dict[str, list[str]] = {}
        self.chunks: list[weakref.ref[Any]] = []

    @initialize(ordered=st.booleans())
    def start(self, *, ordered: bool) -> None:
        self.bench = Bench(ordered=ordered)
        self.bench.acks.at_once = False
        self.restart_driver()

    @property
    def subscription(self) -> Subscription:
        return self.bench.subscription

    # --- the driver -----------------------------------------------------------------------------------------------

    @rule()
    def restart_driver(self) -> None:
        """A driver dies and its checkpoint is read by a new one: an epoch without a commit is run again."""
        self.generation += 1
        self.reader = self.bench.open(self.generation, after=self.after)
        if self.offset_log and max(self.offset_log) not in self.finished:
            self.run_epoch(max(self.offset_log), "read and finished")

    @property
    def after(self) -> int:
        last = max(self.offset_log, default=0)
        return last if last in self.finished else max(last - 1, 0)

    @rule(max_rows=st.sampled_from([None, 1, 7, 100]), logged=st.booleans(), end=st.sampled_from(ENDS))
    def seal(self, max_rows: int | None, end: str, *, logged: bool) -> None:
        """Commit what is finished, seal the next epoch; a driver may die before it writes the offset down."""
        epoch = max(self.offset_log, default=0) + 1
        if self.offset_log and epoch - 1 not in self.finished:
            return  # Spark runs an epoch to its end before it asks for the next one
        try:
            subscription, consumer = self.bench.reservoir.enter(CONSUMER, self.reader)
            if epoch > 1:
                named = FinishedEpoch(epoch=epoch - 1, nodes=self.offset_log[epoch - 1])
                subscription.commit(consumer, [named], frozenset(), contact=True)
            held = epoch in consumer.batches
            reply = subscription.seal(consumer, epoch, max_rows=max_rows, max_bytes=None)
            again = subscription.seal(consumer, epoch, max_rows=1, max_bytes=1)
        except OpenAgain:
            self.restart_driver()
            return
        if reply.batch is None:
            return
        assert (again.batch, again.rows) == (reply.batch, reply.rows), "a seal asked again answers the same"
        assert held or max_rows is None or reply.rows <= max_rows
        self.chunks += [weakref.ref(chunk) for chunk in consumer.batches[epoch].chunks]
        known = self.contents.setdefault(reply.batch, message_ids(consumer.batches[epoch]))
        assert message_ids(consumer.batches[epoch]) == known, "a batch's rows never change"
        if logged:
            self.offset_log[epoch] = {self.bench.reservoir.node: reply.batch}
            self.run_epoch(epoch, end)
        else:
            self.restart_driver()

    def run_epoch(self, epoch: int, end: str) -> None:
        """Plan and read several times with different slices, as retries and `union` do.

        An epoch may finish although nobody read it, as with a `limit`, and be read and not finish, when a driver dies.
        """
        batch = self.offset_log[epoch][self.bench.reservoir.node]
        planned: set[str] = set()
        if "excluded" in end:
            try:
                subscription, consumer = self.bench.reservoir.enter(CONSUMER, self.reader)
                subscription.exclude(consumer, epoch, [batch])
            except OpenAgain:
                end = ""  # nobody may plan without it before that is on record
        for slices in () if batch in self.bench.consumer.excluded else (1, 3, 3):
            try:
                rows = self.plan(epoch, batch, slices, read="read" in end)
            except (BatchGone, OpenAgain):
                break  # left out of the plan: the rows come again
            assert rows is None or sorted(rows) == sorted(self.contents[batch]), "a batch's rows never change"
            planned = set(self.contents[batch])
        if "finished" in end:
            self.finished.add(epoch)
            self.finished_rows |= planned
        else:
            self.restart_driver()

    def plan(self, epoch: int, batch: str, slices: int, *, read: bool) -> list[str] | None:
        subscription, consumer = self.bench.reservoir.enter(CONSUMER, self.reader)
        rows: list[str] = []
        for planned in subscription.plan(consumer, epoch, batch, slices, None, PROTOCOL_VERSION):
            if not read:
                return None
            snapshot = self.bench.reservoir.read(planned.ticket)
            part = [text for p in snapshot.parts for text in p.record_batch().column("message_id").to_pylist()]
            assert len(part) == planned.rows == snapshot.rows
            rows += part
        assert len(set(rows)) == len(rows), "no row is in two slices"
        return rows

    @rule(epoch=st.integers(1, 3))
    def an_old_epoch_cannot_be_sealed(self, epoch: int) -> None:
        try:
            subscription, consumer = self.bench.reservoir.enter(CONSUMER, self.reader)
        except OpenAgain:
            return
        if epoch <= consumer.committed_through:
            try:
                subscription.seal(consumer, epoch, max_rows=None, max_bytes=None)
            except EpochPast:
                return
            raise AssertionError("an epoch that was committed was sealed again")

    # --- the service and time -------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 60))
    def deliver(self, count: int) -> None:
        self.bench.deliver(count, keys=KEYS)

    @rule(data=st.data(), most=st.sampled_from([1, 5, 60]))
    def deliver_again(self, data: st.DataObject, most: int) -> None:
        """Some of what was delivered before, held or not, in any order, perhaps twice at once."""
        if self.bench.next_message:
            number = st.integers(0, self.bench.next_message - 1)
            self.attempt += 1
            numbers = data.draw(st.lists(number, min_size=1, max_size=most))
            self.bench.deliver_again(numbers, self.attempt, keys=KEYS)

    @rule(data=st.data())
    def deliver_a_batch_again(self, data: st.DataObject) -> None:
        """All that one batch holds, or the end of it and what follows: as after a deadline that ran out."""
        chunks = [chunk for batch in self.subscription.batches for chunk in batch.chunks]
        chunks += list(self.subscription._holdings.queue)
        if chunks:
            first = data.draw(st.integers(0, len(chunks) - 1))
            ids = [text for chunk in chunks[first : first + 2] for text in chunk.rows.column("message_id").to_pylist()]
            self.attempt += 1
            renewed = self.subscription.ledger.renewed
            held = self.subscription.backlog().rows + sum(batch.rows for batch in self.subscription.batches)
            lapsed = self.subscription.ledger.lapsed
            self.bench.deliver_again([int(text[1:]) for text in ids], self.attempt, keys=KEYS)
            if self.subscription.ledger.lapsed == lapsed:
                assert self.subscription.ledger.renewed == renewed + len(ids)
                assert held == self.subscription.backlog().rows + sum(b.rows for b in self.subscription.batches)

    @rule(lost=st.booleans())
    def answer_acks(self, *, lost: bool) -> None:
        self.bench.acks.confirm(lost=lost)

    @rule(seconds=st.sampled_from([1, 40, 200, 400]))
    def time_passes(self, seconds: int) -> None:
        self.bench.pass_time(seconds)

    @rule(seconds=st.sampled_from([6, 90, 400]))
    def the_machine_sleeps(self, seconds: int) -> None:
        self.bench.clock.now += seconds
        self.bench.reservoir.tick()

    @rule(works=st.booleans())
    def extensions_fail_or_work(self, *, works: bool) -> None:
        self.bench.acks.extension_works = works

    @precondition(lambda self: self.generation > 1)
    @rule()
    def an_older_reader_is_fenced(self) -> None:
        with pytest.raises((ReaderFenced, OpenAgain)):
            self.bench.reservoir.enter(CONSUMER, Reader(self.generation - 1, "zombie"))

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def acknowledged_messages_are_of_finished_epochs(self) -> None:
        if hasattr(self, "bench"):
            assert self.sent_acks() <= self.finished_rows, "acknowledged before its epoch was finished"

    def sent_acks(self) -> set[str]:
        """Messages whose ack was sent, confirmed or not."""
        pending = [ack_id for ids, _ in self.bench.acks.pending for ack_id in ids]
        return {f"m{number_of(ack_id)}" for ack_id in [*self.bench.acks.acknowledged, *pending]}

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        """As the places say, and as what is held and what went out say."""
        if not hasattr(self, "bench"):
            return
        holdings, accounting = self.subscription._holdings, self.subscription.accounting()
        assert accounting.unaccounted == 0
        assert accounting.received == self.bench.received
        places = accounting.places
        assert places["buffered"] == sum(len(chunk) for chunk in holdings.queue)
        assert places["buffered"] + places["in_batches"] == len(holdings.held)
        assert places["released"] == len(self.bench.acks.released)
        settled = places["acknowledged"] + places["known"] + places["dead_lettered"]
        assert len(self.bench.acks.acknowledged) <= settled

    @invariant()
    def the_budget_counts_what_is_held_and_nothing_else(self) -> None:
        if not hasattr(self, "bench"):
            return
        holdings = self.subscription._holdings
        chunks = [chunk for table in holdings.held._tables for chunk in table.chunks.values()]
        chunks += holdings.dead_letters._pending
        claims = {claim for chunk in chunks for claim in chunk._claims}
        claims |= {table.ids._claim for table in holdings.held._tables}
        for _, settled in self.bench.acks.pending:
            if isinstance(settled, functools.partial):  # redeliveries acknowledged again
                claims |= {part for part in settled.args if isinstance(part, Allocation)}
            for cell in getattr(settled, "__closure__", None) or ():  # dead letters
                if isinstance(cell.cell_contents, Chunk):
                    claims |= set(cell.cell_contents._claims)
        claims |= self.claims_elsewhere()
        assert self.subscription.used_bytes == sum(claim.size_bytes for claim in claims)
        on_heap = [chunk for chunk in chunks if chunk.kept is None or chunk.kept.copy is None]
        buffers = sum(chunk.rows.nbytes for chunk in on_heap) + sum(chunk.ack_ids.nbytes for chunk in chunks)
        assert self.subscription.used_bytes >= buffers

    def claims_elsewhere(self) -> set[Allocation]:
        """What is held by others than the reservoir."""
        return set()

    @invariant()
    def a_message_is_held_once(self) -> None:
        if not hasattr(self, "bench"):
            return
        holdings = self.subscription._holdings
        chunks = [chunk for batch in self.subscription.batches for chunk in batch.chunks] + list(holdings.queue)
        ids = [text for chunk in chunks for text in chunk.rows.column("message_id").to_pylist()]
        assert len(set(ids)) == len(ids), "a redelivery became a second row"
        pending = sum(batch.rows for batch in self.subscription.batches if not batch.chunks)
        assert len(holdings.held) == len(ids) + pending

    def teardown(self) -> None:
        """When the consumer ends and acks are answered, nothing is held: no chunk, no byte of the budget."""
        if not hasattr(self, "bench"):
            return
        self.bench.acks.confirm()
        self.bench.pass_time(400)
        self.bench.acks.confirm()
        assert not self.subscription.batches
        assert self.subscription.unaccounted() == 0
        gc.collect()
        assert not [chunk for chunk in self.chunks if chunk() is not None], "a settled chunk is still held"
        assert self.bench.reservoir.budget.used_bytes == 0


TestReservoir = ReservoirMachine.TestCase
TestReservoir.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
