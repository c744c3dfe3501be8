"""The promises of the state machine once more, where the sink published many messages several times.

Names come from a small stock, so that most deliveries repeat something: a held row, a processed one, or each other.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, rule
from tests.reservoir.making import CONSUMER, Bench, again, number_of
from tests.reservoir.test_state_machine import KEYS, ReservoirMachine

from penstock.contract import ROWS_SCHEMA, Reader
from penstock.contract.publishing import TRACE_KEYS
from penstock.reservoir.budget import Allocation
from penstock.settings import ReservoirSettings

NAMES = 40


class TracedBench(Bench):
    """A reader that wants each name once; `names` by message number, None for one without."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.names: dict[int, str | None] = {}

    def open(self, generation: int = 1, *, after: int = 0, consumer: str = CONSUMER, share: bool = False) -> Reader:
        reader = Reader(generation, f"reader-{generation}")
        self.reservoir.open(self.subscription, consumer, reader, after=after, share=share, dedupe=True)
        return reader

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array) -> None:
        names = [self.names.get(number_of(text)) for text in rows.column("message_id").to_pylist()]
        column = ROWS_SCHEMA.get_field_index("attributes")
        attributes: list[Any] = [
            None if name is None else list(zip(TRACE_KEYS, ("query", "1", name), strict=True)) for name in names
        ]
        field = ROWS_SCHEMA.field(column)
        super().receive(rows.set_column(column, field, pa.array(attributes, field.type)), ack_ids)


class DuplicatesMachine(ReservoirMachine):
    """Some of what is delivered has names, and few different ones."""

    bench: TracedBench

    @initialize(ordered=st.booleans())
    def start(self, *, ordered: bool) -> None:
        # Room for nearly all names, and little enough that some make room for others.
        self.bench = TracedBench(ordered=ordered, settings=ReservoirSettings(memory_limit_mb=64, dedupe_rows=30))
        self.bench.acks.at_once = False
        self.restart_driver()

    @rule(data=st.data(), count=st.integers(1, 20))
    def deliver_named(self, data: st.DataObject, count: int) -> None:
        name = st.one_of(st.none(), st.integers(0, NAMES).map(str))
        first = self.bench.next_message
        self.bench.names.update(enumerate(data.draw(st.lists(name, min_size=count, max_size=count)), first))
        self.bench.deliver(count, keys=KEYS)

    @rule(data=st.data(), most=st.sampled_from([1, 5, 30]))
    def deliver_names_again(self, data: st.DataObject, most: int) -> None:
        """The sink wrote some of its rows again: other messages, the same names."""
        if self.bench.next_message:
            number = st.integers(0, self.bench.next_message - 1)
            numbers = data.draw(st.lists(number, min_size=1, max_size=most))
            first = self.bench.next_message
            self.bench.names.update({first + at: self.bench.names.get(old) for at, old in enumerate(numbers)})
            self.bench.deliver(len(numbers), keys=KEYS)

    def deliver_a_batch_again(self, data: st.DataObject) -> None:
        """Counts rows that it may not count here: what comes again may repeat something."""

    @rule(data=st.data())
    def deliver_held_again(self, data: st.DataObject) -> None:
        """A redelivery of rows, and of what waits for them."""
        held = [
            text
            for table in self.subscription._holdings.held._tables
            for chunk in table.chunks.values()
            for text in chunk.rows.column("message_id").to_pylist()
        ]
        if held:
            ids = data.draw(st.lists(st.sampled_from(held), min_size=1, max_size=10))
            self.attempt += 1
            self.bench.receive(*again([number_of(text) for text in ids], self.attempt, keys=KEYS))

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def acknowledged_messages_are_of_finished_epochs(self) -> None:
        """Or repeat a row of one, under another message ID."""
        if hasattr(self, "bench"):
            names = {self.bench.names.get(number_of(text)) for text in self.finished_rows} - {None}
            unread = self.sent_acks() - self.finished_rows
            assert {self.bench.names.get(number_of(text)) for text in unread} <= names

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        if not hasattr(self, "bench"):
            return
        holdings, accounting = self.subscription._holdings, self.subscription.accounting()
        assert accounting.unaccounted == 0
        assert accounting.received == self.bench.received
        places = accounting.places
        assert places["buffered"] == sum(len(chunk) for chunk in holdings.queue)
        held = places["buffered"] + places["in_batches"] + places["duplicates_pending"]
        assert held == len(holdings.held)
        assert places["released"] == len(self.bench.acks.released)
        settled = places["acknowledged"] + places["known"] + places["duplicates"]
        assert len(self.bench.acks.acknowledged) <= settled

    @invariant()
    def a_message_is_held_once(self) -> None:
        """And of each name one row at most."""
        if not hasattr(self, "bench"):
            return
        holdings = self.subscription._holdings
        chunks = [chunk for batch in self.subscription.batches for chunk in batch.chunks] + list(holdings.queue)
        ids = [text for chunk in chunks for text in chunk.rows.column("message_id").to_pylist()]
        assert len(set(ids)) == len(ids), "a redelivery became a second row"
        names = [name for text in ids if (name := self.bench.names.get(number_of(text))) is not None]
        assert len(set(names)) == len(names), "what was published twice became two rows"
        assert len(holdings.duplicates.names) == len(names)

    def claims_elsewhere(self) -> set[Allocation]:
        duplicates = self.subscription._holdings.duplicates
        claims = {named.claim for named in duplicates._named.values()}
        return claims | {table.ids._claim for table in duplicates.names._tables}

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "bench"):
            duplicates = self.subscription._holdings.duplicates
            assert [duplicates.rows, duplicates._named, duplicates._waiting] == [0, {}, {}]


TestDuplicates = DuplicatesMachine.TestCase
TestDuplicates.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
