"""What was committed and comes again all the same is acknowledged and dropped, once, and not when it was asked back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from tests.reservoir.making import DEADLINE_S, START_US, Bench, again, attempted

from penstock.contract import ROWS_SCHEMA
from penstock.reservoir import NotPulling, known
from penstock.reservoir.known import RememberedIds
from penstock.settings import ReservoirSettings

REMEMBER_S = 600.0


@pytest.fixture
def bench() -> Bench:
    bench = Bench(settings=ReservoirSettings(memory_limit_mb=64, consumer_timeout_s=100_000))
    bench.open()
    return bench


def commit_lapsed(bench: Bench, epoch: int = 1, rows: int = 10) -> None:
    """A batch whose leases ran out before it was committed, so that its messages may be on their way again."""
    bench.deliver(rows)
    batch = bench.seal(epoch)
    bench.acks.extension_works = False
    bench.pass_time(DEADLINE_S + 2)
    bench.acks.extension_works = True
    bench.commit(epoch, batch.id)


def test_a_redelivery_after_a_lapsed_lease_is_dropped_once_and_then_taken(bench: Bench) -> None:
    commit_lapsed(bench)
    bench.deliver_again([3, 7])
    assert bench.subscription.backlog().rows == 0
    assert bench.acks.acknowledged[-2:] == ["a3.2", "a7.2"]
    bench.deliver_again([3], attempt=3)
    assert bench.subscription.backlog().rows == 1, "that ack held: whoever sends it now was asked for it"
    assert bench.subscription.unaccounted() == 0


def test_a_redelivery_whose_ack_is_lost_again_stays_remembered(bench: Bench) -> None:
    commit_lapsed(bench)
    bench.acks.at_once = False
    for attempt in (2, 3):
        bench.deliver_again([3], attempt)
        bench.acks.confirm(lost=True)
    bench.deliver_again([3], 4)
    bench.acks.confirm()
    assert bench.subscription.ledger.known == 3
    bench.deliver_again([3], 5)
    assert bench.subscription.backlog().rows == 1


def test_on_an_exactly_once_subscription_a_confirmed_ack_is_not_doubted(bench: Bench) -> None:
    """What comes again after it, a seek has brought back."""
    bench.subscription.pulling = NotPulling(exactly_once=True)
    commit_lapsed(bench)
    bench.deliver_again([3])
    assert bench.subscription.backlog().rows == 1


def test_a_lost_ack_is_remembered_on_an_exactly_once_subscription(bench: Bench) -> None:
    bench.subscription.pulling = NotPulling(exactly_once=True)
    bench.acks.at_once = False
    bench.deliver(10)
    bench.commit(1, bench.seal(1).id)
    bench.acks.confirm(lost=True)
    bench.deliver_again([3])
    assert bench.subscription.ledger.known == 1


def test_an_ack_that_was_lost_after_a_long_outage_is_remembered_from_then_on(bench: Bench) -> None:
    bench.acks.at_once = False
    bench.deliver(10)
    bench.commit(1, bench.seal(1).id)
    bench.pass_time(2 * REMEMBER_S)
    bench.acks.confirm(lost=True)
    bench.deliver_again([3])
    assert bench.subscription.ledger.known == 1


def test_what_the_service_says_it_delivers_for_the_first_time_is_no_redelivery(bench: Bench) -> None:
    """A deadline that ran out counts as a delivery, so this is a seek's doing."""
    commit_lapsed(bench)
    bench.subscription.receive(*attempted(again([3, 7, 8]), [1, 2, None]), bench.clock())
    assert bench.subscription.backlog().rows == 1
    assert bench.subscription.ledger.known == 2


def test_another_message_of_the_same_id_is_no_redelivery(bench: Bench) -> None:
    """A test server that was restarted numbers its messages from 1 again."""
    commit_lapsed(bench)
    rows, ack_ids = again([3, 7])
    at = rows.schema.get_field_index("publish_time")
    times = pa.array([START_US + 3, START_US + 600_000_000], ROWS_SCHEMA.field(at).type)
    bench.subscription.receive(rows.set_column(at, ROWS_SCHEMA.field(at), times), ack_ids, bench.clock())
    assert bench.subscription.ledger.known == 1
    assert bench.subscription.backlog().rows == 1


def test_nothing_is_remembered_where_that_is_switched_off() -> None:
    bench = Bench(settings=ReservoirSettings(memory_limit_mb=64, consumer_timeout_s=100_000, remember_s=0))
    bench.open()
    commit_lapsed(bench)
    bench.deliver_again([3])
    assert bench.subscription.backlog().rows == 1


def test_acks_of_redeliveries_and_releases_count_in_the_budget_until_they_are_settled(bench: Bench) -> None:
    commit_lapsed(bench, rows=1000)
    assert bench.subscription.used_bytes == 0
    bench.acks.at_once = False
    bench.deliver_again(range(1000))
    assert bench.subscription.used_bytes >= 6000, "an ack ID of six bytes for each"
    bench.acks.confirm()
    assert bench.subscription.used_bytes == 0
    bench.acks.releases_wait = True
    bench.deliver(1000)
    bench.seal(2)
    bench.subscription.release(bench.consumer, 2, bench.consumer.batches[2].id)
    assert bench.subscription.batches == []
    assert bench.subscription.used_bytes >= 5000
    bench.subscription.give_back_unread([pa.array([f"unread-{n}" for n in range(1000)])])
    assert bench.subscription.used_bytes >= 15_000
    assert not bench.subscription.unused
    bench.acks.settle_releases()
    assert bench.subscription.used_bytes == 0


@dataclass
class Dictionary:
    """The same promises, ID by ID."""

    until: dict[str, float] = field(default_factory=dict)

    def known(self, ids: list[str], now: float) -> list[bool]:
        return [self.until.get(one, 0.0) > now for one in ids]


@pytest.mark.parametrize("seed", range(5))
def test_the_remembered_ids_equal_those_of_a_dictionary(seed: int) -> None:
    rng, remembered, expected = random.Random(seed), RememberedIds(REMEMBER_S), Dictionary()
    ids = [f"{rng.choice(('', 'a longer one '))}{n}" for n in range(300)]
    now = 1.0
    for _ in range(150):
        now += rng.choice((0.0, 1.0, 90.0))
        some = rng.sample(ids, rng.randrange(40))
        array = pa.array(["", *some], pa.string()).slice(1)
        if rng.random() < 0.6:
            remembered.remember(array, now)
            expected.until.update(dict.fromkeys(some, now + REMEMBER_S))
        elif rng.random() < 0.5:
            remembered.forget(array)
            for one in some:
                expected.until.pop(one, None)
        asked = pa.array(ids, pa.string())
        found = remembered.known(asked, now)
        assert (np.zeros(len(ids), bool) if found is None else found).tolist() == expected.known(ids, now)
    assert remembered.known(asked, now + REMEMBER_S) is None


def test_no_more_ids_are_remembered_than_there_is_room_for_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "REMEMBER_ROWS", 1000)
    monkeypatch.setattr(known, "KEEP_ROWS", 875)
    remembered = RememberedIds(REMEMBER_S)
    for now in range(100):
        remembered.remember(pa.array([f"{now}-{n}" for n in range(37)]), float(now))
        assert len(remembered) <= 1000
    newest = remembered.known(pa.array([f"{now}-{n}" for now in range(80, 100) for n in range(37)]), 100.0)
    assert newest is not None
    assert newest.all()
    remembered.remember(pa.array([f"many-{n}" for n in range(5000)]), 101.0)
    assert len(remembered) <= 1000


def test_ids_that_are_no_ids_are_never_known() -> None:
    remembered = RememberedIds(REMEMBER_S)
    remembered.remember(pa.array(["", None, "1"], pa.string()), 0.0)
    found = remembered.known(pa.array(["", None, "1"], pa.string()), 1.0)
    assert found is not None
    assert found.tolist() == [False, False, True]
