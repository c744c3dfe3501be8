"""A message that comes again while it is held renews the ack ID of its row and makes no other one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from tests.reservoir.making import CONSUMER, DEADLINE_S, Bench, again, messages, number_of

from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import FinishedEpoch
from penstock.reservoir import NotPulling, Snapshot, held, id_table
from penstock.reservoir.batch import Batch
from penstock.settings import ReservoirSettings


def made(*, ordered: bool = False) -> Bench:
    bench = Bench(ordered=ordered, settings=ReservoirSettings(memory_limit_mb=64, consumer_timeout_s=100_000))
    bench.open()
    return bench


@pytest.fixture
def bench() -> Bench:
    return made()


def commit(bench: Bench, batch: Batch) -> None:
    bench.commit(batch.epoch, batch.id)


def snapshot(bench: Bench, batch: Batch) -> Snapshot:
    consumer = bench.subscription.consumers[CONSUMER]
    (planned,) = bench.subscription.plan(consumer, batch.epoch, batch.id, 1, None, PROTOCOL_VERSION)
    return bench.reservoir.read(planned.ticket)


def rows_of(found: Snapshot) -> list[dict[str, object]]:
    return [row for part in found.parts for row in part.record_batch().to_pylist()]


def acks_of(batch: Batch) -> list[str]:
    return [text for chunk in batch.chunks for text in chunk.ack_ids.to_pylist()]


def settled(bench: Bench) -> None:
    """What every test ends with: nothing is lost or counted twice, and without rows nothing is remembered of them."""
    assert bench.subscription.unaccounted() == 0
    found = bench.subscription._holdings.held
    assert len(found) == bench.subscription._holdings.queue.rows + sum(
        batch.rows for batch in bench.subscription.batches
    )


def test_a_buffered_row_gets_the_newest_ack_id_and_stays_one_row(bench: Bench) -> None:
    bench.deliver(10)
    bench.deliver_again([3, 7])
    bench.deliver_again([7], attempt=3)
    assert bench.subscription.backlog().rows == 10
    assert bench.subscription.ledger.renewed == 3
    batch = bench.seal(1)
    commit(bench, batch)
    assert sorted(bench.acks.acknowledged) == sorted([f"a{n}" for n in range(10) if n not in {3, 7}] + ["a3.2", "a7.3"])
    settled(bench)


def test_a_sealed_row_gets_the_newest_ack_id_while_its_batch_is_being_read(bench: Bench) -> None:
    bench.deliver(10)
    batch = bench.seal(1)
    reading = snapshot(bench, batch)
    before = rows_of(reading)
    bench.deliver_again(range(10))
    assert rows_of(reading) == before == rows_of(snapshot(bench, batch)), "rows never change"
    commit(bench, batch)
    assert bench.acks.acknowledged == [f"a{n}.2" for n in range(10)]
    settled(bench)


def test_a_delivery_attempt_stays_what_it_was(bench: Bench) -> None:
    bench.deliver(2)
    rows, ack_ids = again([0, 1])
    second = rows.set_column(5, rows.schema.field("delivery_attempt"), pa.array([2, 2], pa.int32()))
    bench.subscription.receive(second, ack_ids, bench.clock())
    assert [row["delivery_attempt"] for row in rows_of(snapshot(bench, bench.seal(1)))] == [None, None]


def test_what_is_new_among_redeliveries_is_taken_in(bench: Bench) -> None:
    bench.deliver(10)
    bench.deliver_again([8, 9, 10, 11, 4])
    assert bench.subscription.backlog().rows == 12
    assert bench.subscription.ledger.renewed == 3
    ids = [row["message_id"] for row in rows_of(snapshot(bench, bench.seal(1)))]
    assert ids == [f"m{n}" for n in range(12)]
    settled(bench)


def test_a_message_twice_in_one_chunk_is_one_row_in_its_first_place_with_its_last_ack_id(bench: Bench) -> None:
    rows, ack_ids = again([5, 6, 5, 7, 5, 7])
    ack_ids = pa.array([f"{ack_id}{place}" for place, ack_id in enumerate(ack_ids.to_pylist())])
    bench.subscription.receive(rows, ack_ids, bench.clock())
    assert bench.subscription.ledger.renewed == 3
    batch = bench.seal(1)
    assert [row["message_id"] for row in rows_of(snapshot(bench, batch))] == ["m5", "m6", "m7"]
    assert acks_of(batch) == ["a5.24", "a6.21", "a7.25"]
    settled(bench)


def test_a_thousand_deliveries_of_one_message_in_one_chunk_are_one_row(bench: Bench) -> None:
    bench.deliver_again([1] * 1000)
    assert bench.subscription.backlog().rows == 1
    bench.deliver_again([1] * 1000)
    assert bench.subscription.ledger.renewed == 1999
    settled(bench)


def test_messages_without_an_id_are_never_taken_for_one_another(bench: Bench) -> None:
    rows, ack_ids = messages(0, 4)
    unnamed = rows.set_column(0, rows.schema.field("message_id"), pa.array(["", None, "m2", ""], pa.string()))
    for _ in range(2):
        bench.subscription.receive(unnamed, ack_ids, bench.clock())
    bench.deliver_again([2, 2])
    assert bench.subscription.backlog().rows == 7
    assert bench.subscription.ledger.renewed == 3
    settled(bench)


def test_an_id_that_a_restarted_test_server_gives_to_another_message_makes_a_row(bench: Bench) -> None:
    bench.deliver(10)
    rows, ack_ids = again(range(10))
    times = pa.array([1] * 10, rows.schema.field("publish_time").type)
    bench.subscription.receive(rows.set_column(3, rows.schema.field("publish_time"), times), ack_ids, bench.clock())
    assert bench.subscription.backlog().rows == 20
    settled(bench)


def test_both_parts_of_a_chunk_that_a_seal_cut_are_found(bench: Bench) -> None:
    bench.deliver(10)
    batch = bench.seal(1, max_rows=4)
    bench.deliver_again(range(2, 8))
    assert acks_of(batch) == ["a0", "a1", "a2.2", "a3.2"]
    commit(bench, batch)
    bench.deliver_again([0, 5])
    assert bench.subscription.backlog().rows == 6, "the buffered one is no new row"
    assert bench.subscription.ledger.known == 1, "nor the acknowledged one: what came twice is remembered"
    assert acks_of(bench.seal(2)) == ["a4.2", "a5.2", "a6.2", "a7.2", "a8", "a9"]
    settled(bench)


def test_a_requeued_batch_is_still_found(bench: Bench) -> None:
    bench.deliver(10)
    bench.seal(1)
    bench.open(2, after=-1)
    consumer = bench.subscription.consumers[CONSUMER]
    bench.subscription.commit(consumer, [FinishedEpoch(epoch=1, nodes={})], frozenset(), contact=True)
    bench.deliver_again(range(10))
    assert bench.subscription.backlog().rows == 10
    assert bench.subscription.ledger.renewed == 10
    settled(bench)


def test_a_redelivery_of_a_row_whose_ack_is_on_its_way_is_acknowledged_as_well_and_dropped(bench: Bench) -> None:
    bench.acks.at_once = False
    bench.deliver(10)
    commit(bench, bench.seal(1))
    bench.deliver_again([2, 4])
    assert bench.subscription.backlog().rows == 0
    assert bench.subscription.ledger.known == 2
    settled(bench)
    bench.acks.confirm()
    assert sorted(bench.acks.acknowledged) == sorted([f"a{n}" for n in range(10)] + ["a2.2", "a4.2"])
    bench.deliver_again([2])
    assert bench.subscription.backlog().rows == 1, "what is acknowledged for good is not held"
    settled(bench)


def test_a_released_row_that_comes_again_is_a_new_row(bench: Bench) -> None:
    bench.deliver(10)
    batch = bench.seal(1)
    bench.subscription.release(bench.subscription.consumers[CONSUMER], 1, batch.id)
    bench.deliver_again(range(10))
    assert bench.subscription.backlog().rows == 10
    assert bench.subscription.ledger.renewed == 0
    settled(bench)


def test_a_row_that_lapsed_is_new_even_when_it_comes_again_before_anybody_looked_at_the_clock(bench: Bench) -> None:
    bench.deliver(10)
    bench.clock.now += DEADLINE_S + 1
    bench.deliver_again(range(10))
    assert bench.subscription.ledger.lapsed == 10
    assert bench.subscription.ledger.renewed == 0
    assert bench.subscription.backlog().rows == 10
    assert bench.reservoir.tick() == 10, "what lapsed is told with the rest"
    assert bench.subscription.backlog().rows == 10
    assert acks_of(bench.seal(1)) == [f"a{n}.2" for n in range(10)]
    settled(bench)


def test_the_lease_starts_anew_when_all_of_a_chunk_came_again(bench: Bench) -> None:
    bench.deliver(10)
    bench.pass_time(DEADLINE_S / 2 - 1)
    bench.deliver_again(range(10))
    bench.pass_time(DEADLINE_S / 2 - 1)
    assert not bench.acks.extended
    bench.pass_time(2)
    assert bench.acks.extended == [f"a{n}.2" for n in range(10)]


def test_the_earliest_deadline_counts_when_a_part_of_a_chunk_came_again(bench: Bench) -> None:
    bench.deliver(10)
    bench.pass_time(DEADLINE_S / 2 - 1)
    bench.deliver_again(range(5))
    bench.pass_time(2)
    assert bench.acks.extended == [f"a{n}.2" for n in range(5)] + [f"a{n}" for n in range(5, 10)]
    bench.acks.extension_works = False
    bench.pass_time(DEADLINE_S)
    assert bench.subscription.ledger.lapsed == 10
    settled(bench)


def test_a_sealed_batch_whose_lease_had_run_out_has_one_again_when_all_of_it_came_again(bench: Bench) -> None:
    bench.deliver(10)
    batch = bench.seal(1)
    bench.acks.extension_works = False
    bench.pass_time(DEADLINE_S + 2)
    (chunk,) = batch.chunks
    assert chunk.lease is not None
    assert chunk.lease.lapsed
    bench.deliver_again(range(10))
    assert chunk.lease is not None
    assert not chunk.lease.lapsed
    assert chunk.lease.until == bench.clock.now + DEADLINE_S
    settled(bench)


def test_on_an_exactly_once_subscription_the_receipt_of_a_redelivery_is_told_at_once(bench: Bench) -> None:
    bench.subscription.pulling = NotPulling(exactly_once=True)
    bench.deliver(10)
    bench.reservoir.tick()
    bench.acks.extended.clear()
    bench.deliver_again([4])
    bench.reservoir.tick()
    assert "a4.2" in bench.acks.extended
    bench.acks.extended.clear()
    bench.pass_time(DEADLINE_S / 2 - 1)
    assert not bench.acks.extended, "once"


def test_ordered_rows_keep_their_place_and_rows_of_expelled_buckets_are_new() -> None:
    bench = made(ordered=True)
    keys = ["red", "blue"]
    bench.deliver(10, keys=["red"])
    first = bench.seal(1)
    bench.deliver(10, keys=keys)
    bench.subscription.release(bench.subscription.consumers[CONSUMER], 1, first.id)
    released = {number_of(ack_id) for ack_id in bench.acks.released}
    assert len(released) == 15
    bench.deliver_again(range(10, 20), keys=keys)
    assert bench.subscription.ledger.renewed == 5, "the blue ones are held"
    assert bench.subscription.backlog().rows == 10
    settled(bench)
    ids = [number_of(ack_id) for ack_id in acks_of(bench.seal(2))]
    for colour in (0, 1):
        assert [n for n in ids if n % 2 == colour] == [n for n in range(10, 20) if n % 2 == colour]


def test_many_rows_come_and_go_and_each_is_found_for_as_long_as_it_is_held(bench: Bench) -> None:
    """Through tables that grow and shrink, and chunks that move from one to the next."""
    found = bench.subscription._holdings.held
    epoch = 0
    for turn in range(60):
        bench.deliver(3000, data_bytes=1)
        if turn % 20 == 19:
            buffered = bench.subscription.backlog().rows
            first = bench.next_message - buffered
            sample = np.random.default_rng(turn).choice(buffered, 500, replace=False) + first
            before = bench.subscription.ledger.renewed
            bench.deliver_again(sample.tolist(), attempt=turn)
            assert bench.subscription.ledger.renewed == before + 500
            while bench.subscription.backlog().rows > 1000:
                epoch += 1
                commit(bench, bench.seal(epoch, max_rows=7001))
        settled(bench)
    assert len(found) < 20_000
    assert sum(table.ids.capacity for table in found._tables) <= 1 << 17
    bench.deliver(10)
    commit(bench, bench.seal(epoch + 1))
    assert not found._tables
    assert bench.subscription.used_bytes == 0


def test_a_table_that_much_went_through_is_replaced_before_it_gets_slow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "LEAST_ROWS", 128)
    holdings = bench.subscription._holdings
    tables: set[int] = set()
    for epoch in range(1, 150):
        bench.deliver(120, data_bytes=1)
        bench.deliver_again([bench.next_message - 1, bench.next_message - 100], attempt=epoch)
        (table, *_) = holdings.held._tables
        tables.add(id(table))
        assert table.ids._spilled.mean() <= 2 * id_table.WORN + 1 / 16
        # Some rows stay, so that there is always a table.
        batch = bench.seal(epoch, max_rows=119)
        commit(bench, batch)
    assert bench.subscription.ledger.renewed == 2 * 149
    assert len(tables) > 1
    settled(bench)


@pytest.mark.parametrize("ids", [["", "7"], ["x" * 40 + "1", "x" * 40 + "2"], ["1", "12", "123456789", "1" * 17]])
def test_ids_of_any_length_are_told_apart(bench: Bench, ids: Sequence[str]) -> None:
    rows, ack_ids = messages(0, len(ids))
    named = rows.set_column(0, rows.schema.field("message_id"), pa.array(ids, pa.string()))
    for _ in range(2):
        bench.subscription.receive(named, ack_ids, bench.clock())
    assert bench.subscription.backlog().rows == len(ids) + ids.count("")
    settled(bench)
