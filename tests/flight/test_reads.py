"""Running reads: what they hold counts, and one that stands still lets go."""

from __future__ import annotations

import gc
import weakref

import pytest
from tests.reservoir.making import CONSUMER, Bench, HandClock

from penstock.contract import PROTOCOL_VERSION
from penstock.errors import ReadIdle
from penstock.flight.reads import Reads


def sealed(chunks: int = 4) -> Bench:
    bench = Bench()
    bench.open()
    for _ in range(chunks):
        bench.deliver(1000, data_bytes=1000)
    return bench


def test_a_read_that_stands_still_lets_its_rows_go_and_ends_with_an_error() -> None:
    bench, clock = sealed(), HandClock()
    subscription = bench.subscription
    consumer = subscription.consumers[CONSUMER]
    batch = subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    (planned,) = subscription.plan(consumer, 1, batch, 1, None, PROTOCOL_VERSION)
    reads = Reads(clock, idle_s=60)
    stream = reads.start(bench.reservoir.read(planned.ticket), None).stream()
    next(stream)
    clock.now += 59
    assert reads.sweep() == 0
    clock.now += 2
    assert reads.sweep() == 1
    subscription.release(consumer, 1, batch)
    gc.collect()
    assert bench.reservoir.budget.used_bytes <= 2_500_000, "only what is on the wire is still held"
    with pytest.raises(ReadIdle):
        list(stream)
    gc.collect()
    assert bench.reservoir.budget.used_bytes == 0
    assert len(reads) == 0


def test_a_released_batch_counts_until_its_last_reader_is_gone() -> None:
    bench = sealed()
    subscription = bench.subscription
    consumer = subscription.consumers[CONSUMER]
    batch = subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    (planned,) = subscription.plan(consumer, 1, batch, 1, None, PROTOCOL_VERSION)
    stream = Reads(HandClock(), idle_s=60).start(bench.reservoir.read(planned.ticket), None).stream()
    first = next(stream)
    subscription.release(consumer, 1, batch)
    assert bench.reservoir.budget.used_bytes > 4_000_000
    rest = list(stream)
    assert sum(len(part) for part in [first, *rest] if not isinstance(part, tuple)) == 4000
    del first, rest, stream
    gc.collect()
    assert bench.reservoir.budget.used_bytes == 0


def test_a_read_that_is_dropped_half_way_holds_nothing() -> None:
    bench = sealed()
    subscription = bench.subscription
    consumer = subscription.consumers[CONSUMER]
    batch = subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    chunks = [weakref.ref(chunk) for chunk in consumer.batches[1].chunks]
    (planned,) = subscription.plan(consumer, 1, batch, 1, ["data"], PROTOCOL_VERSION)
    reads = Reads(HandClock(), idle_s=60)
    stream = reads.start(bench.reservoir.read(planned.ticket), ["data"]).stream()
    part = next(stream)
    assert not isinstance(part, tuple)
    assert part.schema.names == ["data"]
    del part
    stream.close()  # what the interpreter does when C++ drops the stream
    subscription.release(consumer, 1, batch)
    gc.collect()
    assert reads.sweep() == 0
    assert len(reads) == 0
    assert [chunk() for chunk in chunks] == [None] * len(chunks)
    assert bench.reservoir.budget.used_bytes == 0


def test_the_last_batch_of_a_stream_tells_the_rows() -> None:
    bench = sealed(1)
    consumer = bench.subscription.consumers[CONSUMER]
    batch = bench.subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    (planned,) = bench.subscription.plan(consumer, 1, batch, 1, None, PROTOCOL_VERSION)
    *_, last = Reads(HandClock(), idle_s=60).start(bench.reservoir.read(planned.ticket), None).stream()
    assert isinstance(last, tuple)
    assert (last[0].num_rows, last[1].to_pybytes()) == (0, b'{"rows": 1000}')


@pytest.mark.parametrize("ordered", [False, True])
def test_small_chunks_are_served_as_few_large_record_batches_in_order(*, ordered: bool) -> None:
    bench = Bench(ordered=ordered)
    bench.open()
    sent = [message for _ in range(600) for message in bench.deliver(2, keys=["k"], data_bytes=1000)]
    consumer = bench.subscription.consumers[CONSUMER]
    batch = bench.subscription.seal(consumer, 1, max_rows=None, max_bytes=None).batch or ""
    (planned,) = bench.subscription.plan(consumer, 1, batch, 1, None, PROTOCOL_VERSION)
    *parts, _end = Reads(HandClock(), idle_s=60).start(bench.reservoir.read(planned.ticket), None).stream()
    batches = [part for part in parts if not isinstance(part, tuple)]
    assert [message for part in batches for message in part.column("message_id").to_pylist()] == sent
    assert 2 <= len(batches) <= 8
    assert all(part.nbytes <= 1 << 20 for part in batches)
