"""Leases are kept while messages are held, and end when they should."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest
from tests.reservoir.making import CONSUMER, DEADLINE_S, NAME, Bench, messages

from penstock.contract.actions import FinishedEpoch
from penstock.errors import InternalError, SubscriptionFailed
from penstock.reservoir import NotPulling
from penstock.reservoir.leases import BEHIND, MOST_FLYING_ROWS
from penstock.settings import ReservoirSettings


@pytest.fixture
def bench() -> Bench:
    bench = Bench(settings=ReservoirSettings(memory_limit_mb=64, max_lease_s=600, consumer_timeout_s=100_000))
    bench.open()
    return bench


def test_a_lease_is_extended_at_half_life_and_not_before(bench: Bench) -> None:
    bench.deliver(10)
    bench.pass_time(DEADLINE_S / 2 - 1)
    assert not bench.acks.extended
    bench.pass_time(2)
    assert len(bench.acks.extended) == 10


def test_on_an_exactly_once_subscription_the_receipt_of_a_chunk_is_told_at_once(bench: Bench) -> None:
    bench.subscription.pulling = NotPulling(exactly_once=True)
    bench.deliver(10)
    bench.reservoir.tick()
    assert len(bench.acks.extended) == 10
    bench.pass_time(DEADLINE_S / 2 - 1)
    assert len(bench.acks.extended) == 10, "once"


def test_a_receipt_that_failed_is_told_again(bench: Bench) -> None:
    bench.subscription.pulling = NotPulling(exactly_once=True)
    bench.acks.extension_works = False
    bench.deliver(10)
    bench.reservoir.tick()
    bench.acks.extension_works = True
    bench.pass_time(1)
    assert len(bench.acks.extended) == 20
    bench.pass_time(DEADLINE_S / 2 - 2)
    assert len(bench.acks.extended) == 20


def test_a_chunk_that_is_cut_before_its_receipt_was_told_is_told_in_both_parts(bench: Bench) -> None:
    bench.subscription.pulling = NotPulling(exactly_once=True)
    bench.deliver(10)
    bench.subscription.seal(bench.subscription.consumers[CONSUMER], 1, max_rows=4, max_bytes=None)
    bench.reservoir.tick()
    assert sorted(bench.acks.extended) == sorted(f"a{n}" for n in range(10))


def test_leases_of_a_subscription_that_the_service_refuses_are_asked_for_each_half_deadline(bench: Bench) -> None:
    bench.deliver(10)
    bench.subscription.seal(bench.subscription.consumers[CONSUMER], 1, max_rows=None, max_bytes=None)
    bench.acks.extension_works = False
    bench.subscription.fail(SubscriptionFailed("gone", subscription=NAME, service_code="NOT_FOUND"))
    bench.pass_time(10 * DEADLINE_S)
    assert 10 * 15 < len(bench.acks.extended) <= 10 * 20
    bench.acks.extension_works = True
    bench.acks.extended.clear()
    bench.open(2)
    bench.reservoir.tick()
    assert len(bench.acks.extended) == 10, "the next open asks at once"
    bench.pass_time(DEADLINE_S / 2 - 1)
    assert len(bench.acks.extended) == 10


def test_leases_are_asked_for_as_usual_when_the_failure_is_ours(bench: Bench) -> None:
    bench.deliver(10)
    bench.acks.extension_works = False
    bench.subscription.fail(InternalError("a defect"))
    bench.pass_time(DEADLINE_S / 2 + 5)
    assert len(bench.acks.extended) >= 50


def test_an_unsealed_chunk_lapses_after_max_lease_s(bench: Bench) -> None:
    bench.deliver(10)
    bench.pass_time(601)
    assert bench.subscription.ledger.lapsed == 10
    assert bench.subscription.unaccounted() == 0


def test_a_sealed_batch_is_extended_beyond_max_lease_s(bench: Bench) -> None:
    bench.deliver(10)
    bench.subscription.seal(bench.subscription.consumers[CONSUMER], 1, max_rows=None, max_bytes=None)
    bench.pass_time(1200)
    assert bench.subscription.ledger.lapsed == 0
    assert len(bench.subscription.batches) == 1


def test_an_hour_of_holding_costs_one_extension_each_half_life_and_no_more(bench: Bench) -> None:
    """A lease loop started per reader and never ended made modack storms elsewhere."""
    bench.deliver(10)
    bench.subscription.seal(bench.subscription.consumers[CONSUMER], 1, max_rows=None, max_bytes=None)
    bench.pass_time(3600)
    rounds = len(bench.acks.extended) // 10
    assert 3600 // (DEADLINE_S // 2) - 10 <= rounds <= 3600 // (DEADLINE_S // 2)


def test_both_halves_of_a_cut_chunk_keep_their_lease(bench: Bench) -> None:
    bench.deliver(10)
    bench.subscription.seal(bench.subscription.consumers[CONSUMER], 1, max_rows=4, max_bytes=None)
    bench.pass_time(DEADLINE_S / 2 + 1)
    assert sorted(bench.acks.extended) == sorted(f"a{n}" for n in range(10))


def test_failed_extensions_are_retried_and_an_unsealed_chunk_lapses_when_its_deadline_is_over(bench: Bench) -> None:
    bench.acks.extension_works = False
    bench.deliver(10)
    bench.pass_time(DEADLINE_S - 1)
    assert len(bench.acks.extended) >= 100
    assert bench.subscription.ledger.lapsed == 0
    bench.pass_time(3)
    assert bench.subscription.ledger.lapsed == 10


def test_a_pause_longer_than_the_lease_drops_what_was_unsealed_and_readers_open_again(bench: Bench) -> None:
    bench.pass_time(1)
    bench.deliver(10)
    bench.clock.now += DEADLINE_S + 20
    bench.reservoir.tick()
    assert bench.subscription.ledger.lapsed == 10
    assert bench.subscription.consumers[CONSUMER].must_open


def test_a_pause_shorter_than_the_lease_drops_nothing(bench: Bench) -> None:
    bench.pass_time(1)
    bench.deliver(10)
    bench.clock.now += 20
    bench.reservoir.tick()
    assert bench.subscription.ledger.lapsed == 0
    assert bench.subscription.consumers[CONSUMER].must_open


def test_one_failed_request_does_not_fail_the_extension_of_other_chunks(bench: Bench) -> None:
    for _ in range(20):
        bench.deliver(10)
    calls: list[int] = []
    real = bench.acks.extend

    def every_third_fails(ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        calls.append(sum(len(array) for array in ack_ids))
        bench.acks.extension_works = len(calls) % 3 != 0
        real(ack_ids, settled)

    bench.acks.extend = every_third_fails  # type: ignore[method-assign]
    bench.pass_time(DEADLINE_S * 4)
    assert bench.subscription.ledger.lapsed == 0
    assert set(calls) == {10}


def test_committed_messages_keep_their_lease_until_the_ack_is_confirmed(bench: Bench) -> None:
    bench.acks.at_once = False
    bench.deliver(10)
    consumer = bench.subscription.consumers[CONSUMER]
    batch = bench.subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    named = FinishedEpoch(epoch=1, nodes={bench.reservoir.node: batch})
    bench.subscription.commit(consumer, [named], frozenset(), contact=True)
    bench.pass_time(DEADLINE_S)
    assert len(bench.acks.extended) >= 10
    bench.acks.confirm()
    extended = len(bench.acks.extended)
    bench.pass_time(DEADLINE_S * 3)
    assert len(bench.acks.extended) == extended


def test_a_redelivery_of_a_row_whose_ack_was_lost_is_acknowledged_and_dropped(bench: Bench) -> None:
    bench.acks.at_once = False
    bench.deliver(10)
    consumer = bench.subscription.consumers[CONSUMER]
    batch = bench.subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    named = FinishedEpoch(epoch=1, nodes={bench.reservoir.node: batch})
    bench.subscription.commit(consumer, [named], frozenset(), contact=True)
    bench.acks.confirm(lost=True)
    rows, ack_ids = messages(5, 10)
    bench.subscription.receive(rows, ack_ids, bench.clock())
    assert bench.subscription.ledger.known == 5
    assert bench.subscription.backlog().rows == 5
    assert bench.subscription.unaccounted() == 0


class Senders:
    """An `AckSink` for extensions that takes its time."""

    def __init__(self) -> None:
        self.under_way: list[tuple[int, Callable[[bool], None]]] = []
        self.rows = 0

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        count = sum(len(array) for array in ack_ids)
        self.rows += count
        self.under_way.append((count, settled))

    def answer(self) -> None:
        """The one that waits for longest is confirmed."""
        count, settled = self.under_way.pop(0)
        settled(True)
        self.rows -= count


def test_of_many_leases_that_are_due_no_more_than_senders_can_take_are_under_way_and_each_end_lets_another_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders = Senders()
    monkeypatch.setattr(bench.acks, "extend", senders.extend)
    for _ in range(30):
        bench.deliver(2500)
    bench.pass_time(DEADLINE_S / 2 + 1)
    assert senders.rows == MOST_FLYING_ROWS
    assert not bench.subscription.paused
    for _ in range(14):
        senders.answer()
    assert senders.rows == 30 * 2500 - 14 * 2500
    bench.pass_time(1)
    assert senders.rows == 30 * 2500 - 14 * 2500, "what was answered is not due again"


def test_while_extensions_are_late_nothing_more_is_pulled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    senders = Senders()
    monkeypatch.setattr(bench.acks, "extend", senders.extend)
    for _ in range(30):
        bench.deliver(2500)
    bench.pass_time(DEADLINE_S * 0.5 + DEADLINE_S * BEHIND + 1)
    assert bench.subscription.pause_reason == "leases"
    while senders.under_way:
        senders.answer()
    assert bench.subscription.pause_reason is None


def test_an_unsealed_chunk_lapses_at_its_deadline_also_while_all_senders_are_busy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders = Senders()
    monkeypatch.setattr(bench.acks, "extend", senders.extend)
    for _ in range(30):
        bench.deliver(2500)
    bench.pass_time(DEADLINE_S + 1)
    assert bench.subscription.ledger.lapsed == 30 * 2500 - MOST_FLYING_ROWS
    assert bench.subscription.unaccounted() == 0


def test_rows_that_waited_unread_for_a_whole_deadline_are_never_sealed(bench: Bench) -> None:
    """A stream that was not read for a while brings such rows: they are on their way to somebody else."""
    rows, ack_ids = messages(0, 10)
    bench.subscription.receive(rows, ack_ids, bench.clock() - DEADLINE_S)
    bench.subscription.seal(bench.consumer, 1, max_rows=None, max_bytes=None)
    assert not bench.consumer.batches
    assert bench.subscription.ledger.lapsed == 10
    assert bench.subscription.unaccounted() == 0
    assert bench.reservoir.tick() == 10, "they are told of"
