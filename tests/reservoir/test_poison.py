"""What was delivered too often is held until its dead letter and then its ack are confirmed, and never read."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from tests.reservoir.making import DEADLINE_S, NAME, Bench, again, attempted, message_ids, messages

from penstock.reservoir import attempts
from penstock.reservoir.attempts import Attempts

LIMIT = 3


@dataclass
class NotedLetters:
    """A `DeadLetterSink` that confirms when the test says so."""

    rows: list[pa.RecordBatch] = field(default_factory=list)
    pending: list[Callable[[], None]] = field(default_factory=list)

    def publish(self, rows: pa.RecordBatch, settled: Callable[[], None]) -> None:
        self.rows.append(rows)
        self.pending.append(settled)

    def confirm(self) -> None:
        pending, self.pending = self.pending, []
        for settled in pending:
            settled()

    @property
    def ids(self) -> list[str]:
        return [message for rows in self.rows for message in rows.column("message_id").to_pylist()]


@dataclass
class PoisonBench(Bench):
    """With a limit of three deliveries, and a service that counts them where it was told to begin."""

    letters: NotedLetters = field(default_factory=NotedLetters)
    attempts: dict[int, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dead_letters, self.max_delivery_attempts = self.letters, LIMIT
        super().__post_init__()

    def deliver_attempts(self, attempts: list[int | None], first: int = 0) -> None:
        """One chunk whose rows the service says it delivered so often."""
        self.receive(*attempted(messages(first, len(attempts)), attempts))
        self.attempts.update(zip(range(first, first + len(attempts)), attempts, strict=True))

    def deliver_again(self, numbers: Sequence[int], attempt: int = 2, *, keys: Sequence[str | None] = (None,)) -> None:
        """The service counts on: what it once said was delivered too often stays so."""
        said = [None if (last := self.attempts.get(number)) is None else last + 1 for number in numbers]
        self.attempts.update(zip(numbers, said, strict=True))
        self.receive(*attempted(again(numbers, attempt, keys=keys), said))

    def sealed_ids(self, epoch: int) -> list[str]:
        """The message IDs of a new batch, if there is one."""
        self.subscription.seal(self.consumer, epoch, max_rows=None, max_bytes=None)
        batch = self.consumer.batches.get(epoch)
        return [] if batch is None else message_ids(batch)

    def give_back(self, epoch: int) -> None:
        self.subscription.release(self.consumer, epoch, self.consumer.batches[epoch].id)


@pytest.fixture
def bench() -> PoisonBench:
    bench = PoisonBench()
    bench.open()
    return bench


def places(bench: Bench) -> dict[str, int]:
    accounting = bench.subscription.accounting()
    assert accounting.unaccounted == 0
    return {place: rows for place, rows in accounting.places.items() if rows}


def test_what_the_service_delivered_too_often_is_published_then_acknowledged_and_never_read(bench: PoisonBench) -> None:
    bench.deliver_attempts([1, LIMIT, LIMIT + 1, LIMIT + 5])
    assert bench.sealed_ids(1) == ["m0", "m1"]
    assert bench.letters.ids == ["m2", "m3"]
    assert bench.letters.rows[0].column("delivery_attempt").to_pylist() == [LIMIT + 1, LIMIT + 5]
    assert bench.acks.acknowledged == []
    assert places(bench) == {"in_batches": 2, "dead_letters_pending": 2}
    bench.acks.at_once = False
    bench.letters.confirm()
    assert bench.acks.acknowledged == []
    assert places(bench) == {"in_batches": 2, "dead_letters_pending": 2}
    bench.acks.confirm()
    assert bench.acks.acknowledged == ["a2", "a3"]
    assert places(bench) == {"in_batches": 2, "dead_lettered": 2}


def test_leases_of_unpublished_dead_letters_are_extended_for_as_long_as_it_takes(bench: PoisonBench) -> None:
    bench.deliver_attempts([LIMIT + 1])
    bench.pass_time(3 * 3600, step_s=5)
    assert len(bench.acks.extended) >= 3 * 3600 // DEADLINE_S
    assert places(bench) == {"dead_letters_pending": 1}
    bench.letters.confirm()
    assert places(bench) == {"dead_lettered": 1}
    assert bench.subscription.used_bytes == 0
    extended = len(bench.acks.extended)
    bench.pass_time(3600, step_s=5)
    assert len(bench.acks.extended) == extended


def test_without_a_count_of_the_service_batches_that_came_back_are_counted(bench: PoisonBench) -> None:
    for epoch in range(1, LIMIT + 1):
        bench.deliver_attempts([None, None])
        assert bench.sealed_ids(epoch) == ["m0", "m1"]
        bench.give_back(epoch)
    bench.deliver_attempts([None, None, None])
    assert bench.letters.ids == ["m0", "m1"]
    assert bench.letters.rows[0].column("delivery_attempt").to_pylist() == [LIMIT + 1, LIMIT + 1]
    assert bench.sealed_ids(LIMIT + 1) == ["m2"]
    bench.letters.confirm()
    assert places(bench) == {"in_batches": 1, "dead_lettered": 2, "released": 2 * LIMIT}


def test_what_no_reader_had_is_not_counted_against_a_message(bench: PoisonBench) -> None:
    for generation in range(2, 3 * LIMIT):
        bench.deliver_attempts([None])
        bench.subscription.close(bench.consumer)
        bench.open(generation)
    bench.deliver_attempts([None])
    assert bench.letters.rows == []


def test_the_counts_equal_those_of_a_dictionary_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "KEEP_ROWS", 50)
    rng, counting, expected = random.Random(1), Attempts(), collections.Counter[str]()
    for now in range(20):
        back = [f"{rng.choice(('', 'x'))}{rng.randrange(15)}" for _ in range(rng.randrange(10))]
        counting.came_back([pa.array(back[:3], pa.string()), pa.array(back[3:], pa.string())], float(now))
        expected.update(back)
    everything = pa.array([*expected, "never"], pa.string())
    assert counting.counts(everything, 20.0).tolist() == [*expected.values(), 0]
    for now in range(20, 30):
        counting.came_back([pa.array([f"{now}-{n}" for n in range(20)])], float(now))
        assert len(counting) <= 50
    assert counting.counts(pa.array(["29-0", "29-19", "20-0"]), 30.0).tolist() == [1, 1, 0]


def test_the_counts_expire(bench: PoisonBench) -> None:
    for epoch in range(1, LIMIT + 1):
        bench.deliver_attempts([None])
        bench.sealed_ids(epoch)
        bench.give_back(epoch)
    bench.clock.now += 25 * 3600
    bench.open(2, after=LIMIT)
    bench.deliver_attempts([None])
    assert bench.letters.rows == []


def test_an_ack_that_is_lost_is_remembered_so_that_no_second_letter_is_written(bench: PoisonBench) -> None:
    bench.acks.at_once = False
    bench.deliver_attempts([LIMIT + 1])
    bench.letters.confirm()
    bench.acks.confirm(lost=True)
    assert places(bench) == {"acks_lost": 1}
    bench.deliver_attempts([LIMIT + 2])
    assert bench.letters.ids == ["m0"]
    assert places(bench) == {"acks_lost": 1, "known": 1}


def test_a_stopped_daemon_gives_back_what_is_not_confirmed(bench: PoisonBench) -> None:
    bench.deliver_attempts([LIMIT + 1, 1])
    bench.subscription.drain()
    bench.subscription.release_all()
    assert sorted(bench.acks.released) == ["a0", "a1"]
    bench.letters.confirm()
    assert bench.acks.acknowledged == []
    assert places(bench) == {"released": 2}


def test_without_the_setting_nothing_is_picked() -> None:
    bench = Bench()
    bench.open()
    bench.subscription.receive(*attempted(messages(0, 2), [1, 1000]), bench.clock())
    assert bench.subscription.accounting().places["buffered"] == 2
    assert bench.subscription.name == NAME
