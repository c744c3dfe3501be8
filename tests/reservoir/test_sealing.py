"""What a batch is: sealed once, cut the same way, acknowledged only when its offset named it."""

from __future__ import annotations

import pytest
from tests.reservoir.making import CONSUMER, NAME, Bench

from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import CommitState, SealReply
from penstock.errors import (
    BatchGone,
    EpochPast,
    InvalidRequest,
    OpenAgain,
    ReaderFenced,
    SubscriptionShared,
    TooManyConsumers,
)
from penstock.reservoir import NotPulling, evicted
from penstock.reservoir.batch import IllegalMove, State
from penstock.settings import ReservoirSettings


def seal(bench: Bench, epoch: int, max_rows: int | None = None, max_bytes: int | None = None) -> SealReply:
    return bench.subscription.seal(bench.consumer, epoch, max_rows=max_rows, max_bytes=max_bytes)


def rows_of(bench: Bench, epoch: int, batch: str, slices: int) -> list[list[str]]:
    consumer = bench.subscription.consumers[CONSUMER]
    plan = bench.subscription.plan(consumer, epoch, batch, slices, None, PROTOCOL_VERSION)
    snapshots = [bench.reservoir.read(planned.ticket) for planned in plan]
    return [[m for p in s.parts for m in p.record_batch().column("message_id").to_pylist()] for s in snapshots]


def joined(slices: list[list[str]]) -> list[str]:
    return [message for rows in slices for message in rows]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.open()
    return bench


def test_an_empty_seal_makes_no_batch(bench: Bench) -> None:
    reply = seal(bench, 1)
    assert reply.batch is None
    assert reply.rows == 0
    assert not bench.subscription.batches


def test_a_seal_keeps_to_the_row_limit_and_leaves_the_rest(bench: Bench) -> None:
    sent = bench.deliver(100) + bench.deliver(100)
    reply = seal(bench, 1, max_rows=130)
    assert reply.rows == 130
    assert reply.backlog.rows == 70
    assert joined(rows_of(bench, 1, reply.batch or "", 3)) == sent[:130]


def test_a_message_above_the_byte_limit_is_sealed_alone(bench: Bench) -> None:
    bench.deliver(3, data_bytes=10_000)
    assert seal(bench, 1, max_bytes=100).rows == 1


def test_a_seal_takes_at_most_a_third_of_the_share() -> None:
    bench = Bench(settings=ReservoirSettings(memory_limit_mb=16))
    bench.open()
    for _ in range(12):
        bench.deliver(1000, data_bytes=1000)
    assert 0 < seal(bench, 1).bytes <= (16 << 20) // 3


def test_slices_are_the_same_every_time_and_cover_every_row_once(bench: Bench) -> None:
    sent = bench.deliver(1000)
    batch = seal(bench, 1).batch or ""
    first = rows_of(bench, 1, batch, 7)
    assert first == rows_of(bench, 1, batch, 7)
    assert joined(first) == sent


def test_a_commit_acknowledges_the_named_batch_and_a_repeated_one_says_so(bench: Bench) -> None:
    bench.acks.at_once = False
    bench.deliver(10)
    batch = seal(bench, 1).batch
    assert bench.commit(1, batch) == {1: CommitState.PENDING}
    assert bench.commit(1, batch) == {1: CommitState.PENDING}
    bench.acks.confirm()
    assert bench.commit(1, batch) == {1: CommitState.ACKED}
    assert len(bench.acks.acknowledged) == 10


def test_a_batch_that_its_offset_does_not_name_returns_to_the_queue(bench: Bench) -> None:
    sent = bench.deliver(10)
    seal(bench, 1)
    assert bench.commit(1, "another batch") == {1: CommitState.REQUEUED}
    assert not bench.acks.acknowledged
    batch = seal(bench, 2).batch or ""
    assert rows_of(bench, 2, batch, 1) == [sent]


def test_an_excluded_batch_is_released_not_acknowledged(bench: Bench) -> None:
    bench.deliver(10)
    batch = seal(bench, 1).batch or ""
    assert bench.commit(1, batch, frozenset({batch})) == {1: CommitState.RELEASED}
    assert len(bench.acks.released) == 10
    assert not bench.acks.acknowledged


def test_an_older_batch_whose_commit_was_missed_is_released(bench: Bench) -> None:
    bench.deliver(10)
    seal(bench, 1)
    bench.deliver(5)
    second = seal(bench, 2).batch
    bench.commit(2, second)
    assert len(bench.acks.released) == 10
    assert len(bench.acks.acknowledged) == 5


def test_a_committed_epoch_cannot_be_sealed_again(bench: Bench) -> None:
    bench.commit(4, None)
    bench.deliver(1)
    with pytest.raises(EpochPast, match="epoch 4 is past"):
        seal(bench, 4)


def test_reading_after_the_commit_is_batch_gone(bench: Bench) -> None:
    bench.deliver(10)
    batch = seal(bench, 1).batch or ""
    consumer = bench.subscription.consumers[CONSUMER]
    (planned,) = bench.subscription.plan(consumer, 1, batch, 1, None, PROTOCOL_VERSION)
    bench.commit(1, batch)
    with pytest.raises(BatchGone, match="acknowledged"):
        bench.reservoir.read(planned.ticket)


def test_a_new_reader_requeues_what_no_offset_can_name(bench: Bench) -> None:
    sent = bench.deliver(4)
    seal(bench, 1, max_rows=2)
    seal(bench, 2, max_rows=1)
    bench.open(2, after=0)
    consumer = bench.subscription.consumers[CONSUMER]
    assert list(consumer.batches) == [1]
    batch = seal(bench, 2).batch or ""
    assert rows_of(bench, 2, batch, 1) == [sent[2:]]


def test_the_older_reader_is_fenced_for_ever(bench: Bench) -> None:
    bench.open(5)
    for _ in range(2):
        with pytest.raises(ReaderFenced, match="a newer one"):
            bench.reservoir.enter(CONSUMER, Reader(1, "reader-1"))
        bench.pass_time(400)
    with pytest.raises(ReaderFenced):
        bench.open(4)


def test_a_consumer_without_contact_is_released_before_its_next_call_is_served(bench: Bench) -> None:
    bench.deliver(10)
    seal(bench, 1)
    bench.deliver(3)
    bench.clock.now += bench.settings.consumer_timeout_s
    with pytest.raises(OpenAgain):
        bench.reservoir.enter(CONSUMER, Reader(1, "reader-1"))
    assert len(bench.acks.released) == 10
    assert bench.subscription.ledger.lapsed == 3, "300 s of silence outlast the lease of what was not sealed"


def test_a_second_consumer_is_refused_until_the_first_is_silent(bench: Bench) -> None:
    with pytest.raises(SubscriptionShared, match=CONSUMER):
        bench.open(consumer="consumer-2")
    with pytest.raises(SubscriptionShared, match=CONSUMER):
        bench.open(consumer="consumer-3", share=True)
    bench.pass_time(80)
    bench.open(consumer="consumer-2")
    assert not bench.subscription.consumers[CONSUMER].contact


def test_memory_is_divided_by_weight_among_those_that_use_it() -> None:
    bench = Bench(settings=ReservoirSettings(memory_limit_mb=64, weights={NAME: 3}))
    other = bench.subscribe("projects/p/subscriptions/returns")
    bench.open()
    assert bench.subscription.share_bytes == 64 << 20
    bench.reservoir.open(other, "consumer-2", Reader(1, "r"), after=0, share=False)
    assert bench.subscription.share_bytes == 48 << 20
    assert other.share_bytes == 16 << 20


def test_consumers_share_when_all_of_them_say_so(bench: Bench) -> None:
    bench.open(2, share=True)
    bench.open(consumer="consumer-2", share=True)
    with pytest.raises(SubscriptionShared):
        bench.open(consumer="consumer-3")
    assert all(consumer.contact for consumer in bench.subscription.consumers.values())


def test_a_fenced_reader_displaces_nobody(bench: Bench) -> None:
    bench.subscription.bye(bench.subscription.consumers[CONSUMER])
    bench.open(5, consumer="consumer-2")
    bench.deliver(10)
    holder = bench.subscription.consumers["consumer-2"]
    bench.subscription.seal(holder, 1, max_rows=None, max_bytes=None)
    bench.subscription.bye(holder)
    bench.subscription.consumers[CONSUMER].reader = Reader(9, "newer")
    with pytest.raises(ReaderFenced):
        bench.open(1)
    assert not bench.acks.released


def test_an_open_that_was_long_under_way_undoes_nothing(bench: Bench) -> None:
    bench.deliver(10)
    bench.commit(1, seal(bench, 1, max_rows=5).batch)
    batch = seal(bench, 2).batch
    bench.open(1, after=0)
    assert bench.subscription.consumers[CONSUMER].batches[2].id == batch


def test_a_plan_of_a_committed_epoch_says_so(bench: Bench) -> None:
    bench.deliver(10)
    batch = seal(bench, 1).batch or ""
    bench.commit(1, batch)
    with pytest.raises(EpochPast):
        rows_of(bench, 1, batch, 1)


def test_a_reader_that_said_bye_is_displaced_at_once(bench: Bench) -> None:
    bench.deliver(10)
    seal(bench, 1)
    bench.subscription.bye(bench.subscription.consumers[CONSUMER])
    assert not bench.acks.released
    bench.open(consumer="consumer-2")
    assert len(bench.acks.released) == 10


def test_there_are_at_most_64_live_consumers(bench: Bench) -> None:
    bench.open(2, share=True)
    for number in range(63):
        bench.open(consumer=f"c{number}", share=True)
    with pytest.raises(TooManyConsumers, match="64"):
        bench.open(consumer="one more", share=True)
    bench.pass_time(400)
    bench.open(consumer="one more", share=True)


def crowd(bench: Bench, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        bench.open(consumer=f"c{number}", share=True)


def test_a_closed_consumer_is_forgotten_when_its_last_acks_are_confirmed(bench: Bench) -> None:
    bench.acks.at_once = False
    bench.deliver(10)
    bench.commit(1, seal(bench, 1).batch)
    bench.subscription.close(bench.subscription.consumers[CONSUMER])
    assert CONSUMER in bench.subscription.consumers
    assert not bench.subscription.unused
    bench.acks.confirm()
    assert not bench.subscription.consumers
    assert bench.subscription.unused


def test_one_that_said_bye_makes_room_before_any_other(bench: Bench) -> None:
    bench.open(2, share=True)
    crowd(bench, 63)
    bench.subscription.bye(bench.subscription.consumers["c7"])
    bench.open(consumer="one more", share=True)
    assert "c7" not in bench.subscription.consumers
    bench.clock.now += 1
    bench.open(3, share=True)
    bench.clock.now += 400
    crowd(bench, 20)  # these are live again, the others only silent
    bench.subscription.bye(bench.subscription.consumers["c3"])
    bench.open(consumer="another", share=True)
    assert set(bench.subscription.consumers) >= {"c30", CONSUMER, "another"}
    assert "c3" not in bench.subscription.consumers


def test_a_fence_and_what_was_committed_outlive_an_eviction(bench: Bench) -> None:
    reader = bench.open(5)
    bench.deliver(10)
    batch = seal(bench, 1).batch
    bench.commit(1, batch)
    bench.subscription.bye(bench.subscription.consumers[CONSUMER])
    bench.pass_time(400)
    crowd(bench, 64)
    assert CONSUMER not in bench.subscription.consumers
    assert bench.reservoir.generation(CONSUMER) == 5
    with pytest.raises(ReaderFenced):
        bench.reservoir.enter(CONSUMER, Reader(4, "zombie"))
    with pytest.raises(OpenAgain):
        bench.reservoir.enter(CONSUMER, reader)
    bench.pass_time(400)
    with pytest.raises(ReaderFenced):
        bench.open(4)
    bench.open(6)
    assert bench.subscription.consumers[CONSUMER].committed_through == 1
    with pytest.raises(EpochPast):
        seal(bench, 1)


def test_no_more_evicted_consumers_are_remembered_than_there_is_room_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evicted, "EVICTED", 10)
    for _ in range(3):
        bench.pass_time(400)
        bench.open(7, share=True)
        crowd(bench, 63)
        bench.pass_time(400)
        crowd(bench, 64, first=100)
    assert len(bench.reservoir._evicted) == 10


def test_illegal_moves_of_a_batch_raise(bench: Bench) -> None:
    bench.deliver(1)
    seal(bench, 1)
    batch = bench.subscription.batches[0]
    batch.move(State.COMMITTED)
    with pytest.raises(IllegalMove, match="cannot become sealed"):
        batch.move(State.SEALED)


@pytest.mark.parametrize("limits", [{"max_rows": 0}, {"max_bytes": -5}])
def test_limits_below_one_are_refused(bench: Bench, limits: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="at least 1"):
        seal(bench, 1, **limits)


def test_a_key_is_in_one_slice_in_order_whatever_the_number_of_slices() -> None:
    bench = Bench(ordered=True)
    bench.open()
    keys = [f"key-{n}" for n in range(17)]
    sent = bench.deliver(300, keys=keys) + bench.deliver(200, keys=keys)
    batch = seal(bench, 1).batch or ""
    for slices in (1, 2, 5, 300):
        found = rows_of(bench, 1, batch, slices)
        assert sorted(joined(found)) == sorted(sent)
        for key in range(len(keys)):
            holders = [[m for m in rows if int(m[1:]) % len(keys) == key] for rows in found]
            (rows,) = [rows for rows in holders if rows]
            assert rows == [m for m in sent if int(m[1:]) % len(keys) == key]


def test_a_released_ordered_batch_takes_the_later_rows_of_its_buckets_with_it() -> None:
    bench = Bench(ordered=True)
    bench.open()
    bench.deliver(10, keys=["red"])
    seal(bench, 1)
    bench.deliver(10, keys=["red", "blue"])
    consumer = bench.subscription.consumers[CONSUMER]
    bench.subscription.release(consumer, 1, consumer.batches[1].id)
    assert len(bench.acks.released) == 15
    assert seal(bench, 2).rows == 5
    assert bench.subscription.unaccounted() == 0


def test_what_arrives_while_a_drain_ends_the_streams_goes_back_at_once() -> None:
    bench = Bench()
    bench.open()
    bench.subscription.drain()
    bench.deliver(5)
    bench.subscription.stopped_pulling()
    assert bench.subscription.ledger.released == 5
    assert bench.subscription.backlog().rows == 0
    assert bench.subscription.unaccounted() == 0


def test_a_closed_consumer_stays_fenced_and_its_name_may_be_used_for_another_subscription(bench: Bench) -> None:
    bench.open(5)
    bench.deliver(10)
    bench.commit(1, seal(bench, 1).batch)
    bench.subscription.close(bench.consumer)
    assert not bench.subscription.consumers
    assert bench.reservoir.generation(CONSUMER) == 5
    with pytest.raises(ReaderFenced):
        bench.reservoir.enter(CONSUMER, Reader(4, "zombie"))
    with pytest.raises(ReaderFenced):
        bench.open(4)
    other = bench.subscribe("projects/p/subscriptions/other")
    with pytest.raises(ReaderFenced):
        bench.reservoir.open(other, CONSUMER, Reader(4, "zombie"), after=0, share=False)
    consumer = bench.reservoir.open(other, CONSUMER, Reader(6, "new"), after=0, share=False)
    assert consumer.committed_through == 0, "epochs of one subscription say nothing of another's"
    with pytest.raises(ReaderFenced):
        bench.reservoir.enter(CONSUMER, Reader(5, "reader-5"))


def test_a_closed_consumer_that_comes_back_goes_on_behind_what_it_committed(bench: Bench) -> None:
    bench.deliver(10)
    bench.commit(1, seal(bench, 1).batch)
    bench.subscription.close(bench.consumer)
    bench.open(2)
    with pytest.raises(EpochPast):
        seal(bench, 1)


def test_a_subscription_that_became_ordered_keeps_the_order_of_what_it_receives_from_then_on() -> None:
    """Rows of a batch are ordered or not, all of them; those held before keep the way they came."""
    bench = Bench()
    bench.open()
    keys = ["red", "blue"]
    bench.deliver(10, keys=keys)
    first = bench.seal(1)
    before = rows_of(bench, 1, first.id, 3)
    bench.deliver(10, keys=keys)
    bench.subscription.pulling = NotPulling(ordered=True)
    sent = bench.deliver(10, keys=keys)
    assert rows_of(bench, 1, first.id, 3) == before
    assert bench.seal(2).rows == 10
    last = bench.seal(3)
    assert [rows for rows in rows_of(bench, 3, last.id, 256) if rows] in (
        [sent[::2], sent[1::2]],
        [sent[1::2], sent[::2]],
    )
    bench.subscription.release(bench.consumer, 1, first.id)
    assert len(bench.acks.released) == 10, "rows that had no order take no others with them"
    bench.deliver(10, keys=["red"])
    bench.subscription.release(bench.consumer, 3, last.id)
    assert len(bench.acks.released) == 30
    bench.subscription.pulling = NotPulling(ordered=False)
    bench.deliver(10, keys=keys)
    assert bench.seal(4).rows == 10
    assert bench.subscription.unaccounted() == 0
