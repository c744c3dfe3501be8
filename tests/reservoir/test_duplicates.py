"""Messages that Spark's sink published twice: one becomes a row, and the others end as that row does."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest
from tests.reservoir.making import DEADLINE_S, Bench, message_ids, messages

from penstock.contract import ROWS_SCHEMA, Reader
from penstock.contract.publishing import TRACE_KEYS
from penstock.errors import InvalidRequest
from penstock.reservoir import NotPulling
from penstock.settings import ReservoirSettings

DEDUPE_S = 600.0


def named(first: int, names: Sequence[str | None], *, keys: Sequence[str | None] = (None,)) -> pa.RecordBatch:
    """Messages numbered from `first` with these names of rows."""
    rows, _ = messages(first, len(names), keys=keys)
    attributes = [
        [("n", "1")] if name is None else list(zip(TRACE_KEYS, ("query", "1", name), strict=True)) for name in names
    ]
    column = ROWS_SCHEMA.get_field_index("attributes")
    field = ROWS_SCHEMA.field(column)
    return rows.set_column(column, field, pa.array(attributes, field.type))


class TracedBench(Bench):
    """Delivers named messages."""

    def deliver_named(self, *names: str | None, keys: Sequence[str | None] = (None,)) -> None:
        rows = named(self.next_message, names, keys=keys)
        ack_ids = pa.array([f"a{self.next_message + n}" for n in range(len(names))], pa.string())
        self.next_message += len(names)
        self.receive(rows, ack_ids)

    def open_dedupe(self, generation: int = 1, *, after: int = 0) -> None:
        reader = Reader(generation, "r")
        self.reservoir.open(self.subscription, "consumer-1", reader, after=after, share=True, dedupe=True)

    @property
    def places(self) -> dict[str, int]:
        accounting = self.subscription.accounting()
        assert accounting.unaccounted == 0
        assert accounting.received == self.received
        return {place: count for place, count in accounting.places.items() if count}


@pytest.fixture
def bench() -> TracedBench:
    bench = TracedBench(settings=ReservoirSettings(memory_limit_mb=64, consumer_timeout_s=100_000))
    bench.open_dedupe()
    return bench


def test_what_repeats_a_held_row_is_acknowledged_with_it_and_not_before(bench: TracedBench) -> None:
    bench.deliver_named("a", "b")
    bench.deliver_named("b", "c")
    assert bench.places == {"buffered": 3, "duplicates_pending": 1}
    batch = bench.seal(1)
    bench.deliver_named("a")
    assert message_ids(batch) == ["m0", "m1", "m3"]
    assert bench.acks.acknowledged == []
    bench.commit(1, batch.id)
    assert sorted(bench.acks.acknowledged) == ["a0", "a1", "a2", "a3", "a4"]
    assert bench.places == {"acknowledged": 3, "duplicates": 2}
    assert bench.subscription.used_bytes == 0


def test_of_messages_that_come_together_with_one_name_the_first_is_the_row(bench: TracedBench) -> None:
    bench.deliver_named("a", "b", "a", None, None, "a")
    batch = bench.seal(1)
    assert message_ids(batch) == ["m0", "m1", "m3", "m4"]
    bench.commit(1, batch.id)
    assert bench.places == {"acknowledged": 4, "duplicates": 2}


def test_what_repeats_a_processed_row_is_dropped_within_the_time_and_not_later(bench: TracedBench) -> None:
    bench.deliver_named("a")
    bench.commit(1, bench.seal(1).id)
    bench.pass_time(DEDUPE_S - 10)
    bench.deliver_named("a", "b")
    assert bench.places == {"acknowledged": 1, "duplicates": 1, "buffered": 1}
    bench.pass_time(20)
    bench.deliver_named("a")
    assert bench.places == {"acknowledged": 1, "duplicates": 1, "buffered": 2}


def test_what_repeats_a_row_whose_ack_is_not_confirmed_is_dropped_at_once(bench: TracedBench) -> None:
    bench.acks.at_once = False
    bench.deliver_named("a")
    bench.commit(1, bench.seal(1).id)
    bench.deliver_named("a")
    assert bench.places == {"in_batches": 1, "duplicates": 1}
    bench.acks.confirm(lost=True)
    assert bench.places == {"acks_lost": 1, "duplicates": 1}


def test_a_row_that_is_given_back_takes_what_repeats_it_along(bench: TracedBench) -> None:
    bench.deliver_named("a")
    batch = bench.seal(1)
    bench.deliver_named("a")
    bench.subscription.release(bench.consumer, 1, batch.id)
    assert sorted(bench.acks.released) == ["a0", "a1"]
    assert bench.acks.acknowledged == []
    bench.deliver_named("a")
    assert bench.places == {"released": 2, "buffered": 1}, "and is a row when it comes again"


def test_an_unsealed_row_that_lapses_takes_what_repeats_it_along(bench: TracedBench) -> None:
    bench.deliver_named("a")
    bench.pass_time(10)
    bench.deliver_named("a")
    bench.acks.extension_works = False
    bench.pass_time(DEADLINE_S - 5)
    assert bench.places == {"lapsed": 1, "released": 1}
    bench.pass_time(DEADLINE_S)
    assert bench.subscription.used_bytes == 0


def test_what_waits_keeps_its_lease_as_long_as_the_batch_does(bench: TracedBench) -> None:
    bench.deliver_named("a")
    batch = bench.seal(1)
    bench.deliver_named("a")
    bench.pass_time(10 * DEADLINE_S)
    assert {"a0", "a1"} <= set(bench.acks.extended)
    bench.commit(1, batch.id)
    assert bench.places == {"acknowledged": 1, "duplicates": 1}


def test_a_redelivery_of_what_waits_renews_its_ack_id(bench: TracedBench) -> None:
    bench.deliver_named("a", "a")
    batch = bench.seal(1)
    bench.receive(named(1, ["a"]), pa.array(["a1.2"]))
    bench.commit(1, batch.id)
    assert sorted(bench.acks.acknowledged) == ["a0", "a1.2"]
    assert bench.places == {"acknowledged": 1, "duplicates": 1, "renewed": 1}


def test_a_message_that_comes_twice_at_once_does_not_repeat_itself(bench: TracedBench) -> None:
    rows = pa.concat_batches([named(0, ["a"]), named(0, ["a"]), named(1, ["a"])])
    bench.receive(rows, pa.array(["a0", "a0.2", "a1"]))
    batch = bench.seal(1)
    assert message_ids(batch) == ["m0"]
    bench.commit(1, batch.id)
    assert sorted(bench.acks.acknowledged) == ["a0.2", "a1"]
    assert bench.places == {"acknowledged": 1, "duplicates": 1, "renewed": 1}


def test_what_repeats_rows_of_two_batches_waits_for_both(bench: TracedBench) -> None:
    bench.deliver_named("a", "b")
    first = bench.seal(1, max_rows=1)
    bench.deliver_named("a", "b")
    bench.commit(1, first.id)
    assert bench.acks.acknowledged == ["a0"]
    bench.commit(2, bench.seal(2).id)
    assert sorted(bench.acks.acknowledged) == ["a0", "a1", "a2", "a3"]
    assert bench.places == {"acknowledged": 2, "duplicates": 2}


def test_rows_of_a_chunk_that_was_cut_are_still_watched(bench: TracedBench) -> None:
    bench.deliver_named("a", "b")
    bench.seal(1, max_rows=1)
    bench.deliver_named("a", "b")
    assert bench.places == {"in_batches": 1, "buffered": 1, "duplicates_pending": 2}


def test_a_requeued_batch_keeps_what_repeats_it_waiting(bench: TracedBench) -> None:
    bench.deliver_named("a")
    bench.seal(1)
    bench.deliver_named("a")
    bench.commit(1, None)
    assert bench.places == {"buffered": 1, "duplicates_pending": 1}
    bench.commit(2, bench.seal(2).id)
    assert bench.places == {"acknowledged": 1, "duplicates": 1}


def test_a_seek_brings_every_row_back_once(bench: TracedBench) -> None:
    bench.deliver_named("a", "a")
    bench.commit(1, bench.seal(1).id)
    bench.receive(named(0, ["a", "a"]), pa.array(["a0.2", "a1.2"]))
    assert message_ids(bench.seal(2)) == ["m0"], "the one that was processed, and not what repeated it"


def test_untraced_messages_and_queries_without_the_option_are_left_alone() -> None:
    bench = TracedBench(settings=ReservoirSettings(memory_limit_mb=64))
    bench.open()
    bench.deliver_named("a", "a", None)
    assert bench.places == {"buffered": 3}
    assert len(bench.subscription._holdings.duplicates.names) == 0


def test_a_row_that_was_held_before_the_query_began_counts(bench: TracedBench) -> None:
    bench = TracedBench(settings=ReservoirSettings(memory_limit_mb=64))
    bench.open()
    bench.deliver_named("a", "b")
    bench.seal(1, max_rows=1)
    bench.open_dedupe(2)
    bench.deliver_named("a", "b")
    assert bench.places == {"in_batches": 1, "buffered": 1, "duplicates_pending": 2}


def test_consumers_that_share_a_subscription_must_agree(bench: TracedBench) -> None:
    with pytest.raises(InvalidRequest, match="shared with consumer consumer-1, which reads it with dedupe=true"):
        bench.open(consumer="consumer-2", share=True)


def test_an_ordered_row_that_goes_back_takes_its_followers_and_what_repeats_them() -> None:
    bench = TracedBench(ordered=True, settings=ReservoirSettings(memory_limit_mb=64))
    bench.open_dedupe()
    bench.deliver_named("a", keys=("red",))
    batch = bench.seal(1)
    bench.deliver_named("b", "c", keys=("red", "blue"))
    bench.deliver_named("b", "c")
    bench.subscription.release(bench.consumer, 1, batch.id)
    assert bench.places["released"] in {3, 4}
    assert bench.acks.acknowledged == []


def test_on_an_exactly_once_subscription_what_waits_is_received_as_well(bench: TracedBench) -> None:
    bench.subscription.pulling = NotPulling(exactly_once=True)
    bench.deliver_named("a", "a")
    bench.pass_time(1)
    assert sorted(bench.acks.extended) == ["a0", "a1"]


def test_no_more_names_are_remembered_than_there_is_room_for() -> None:
    bench = TracedBench(settings=ReservoirSettings(memory_limit_mb=64, dedupe_rows=100))
    bench.open_dedupe()
    for epoch in range(1, 30):
        bench.deliver_named(*(f"{epoch}-{n}" for n in range(37)))
        bench.commit(epoch, bench.seal(epoch).id)
        assert len(bench.subscription._holdings.duplicates.processed) <= 100
        bench.pass_time(1)
    bench.deliver_named("29-0", "28-5")
    assert bench.places["duplicates"] == 2


def test_a_drained_daemon_gives_back_what_waits(bench: TracedBench) -> None:
    bench.deliver_named("a")
    bench.seal(1)
    bench.deliver_named("a")
    bench.subscription.drain()
    bench.subscription.release_all()
    assert bench.places == {"released": 2}
