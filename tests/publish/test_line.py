"""Of each ordering key one request is under way, in order, and a key that failed is never overtaken."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.pubsub_v1.types import PublishRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.publish import parcels
from penstock.publish.line import LAG_CUTS, Line
from penstock.publish.parcels import LINGER_BYTES, LINGER_S, Gathering, Parcel
from penstock.pubsub import wire

TOPIC = "projects/p/topics/topic"


def rows(count: int, keys: list[str | None] | None = None, data_bytes: int = 10) -> pa.RecordBatch:
    attributes = pa.MapArray.from_arrays([0] * (count + 1), pa.array([], pa.string()), pa.array([], pa.string()))
    numbers = [f"{number:0{data_bytes}d}".encode() for number in range(count)]
    columns = [pa.array(numbers, pa.binary()), attributes, pa.array(keys or [None] * count, pa.string())]
    return pa.RecordBatch.from_arrays(columns, names=["data", "attributes", "ordering_key"])


def parcel(number: int, key: str = "") -> Parcel:
    return Parcel(number, number, TOPIC, key, rows(1), 50)


@given(
    keys=st.lists(st.sampled_from(["", "a", "b"]), max_size=30),
    choices=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=80),
)
def test_any_interleaving_keeps_each_keys_order(keys: list[str], choices: list[tuple[int, bool]]) -> None:
    line, stopped, dropped = Line(), set[str](), 0
    under_way: list[Parcel] = []
    sent: list[Parcel] = []
    for number, key in enumerate(keys):
        assert line.push(parcel(number, key))
    for choice, fails in choices:
        if (one := line.next()) is not None:
            assert not one.key or one.key not in {other.key for other in under_way}
            assert one.key not in stopped
            under_way.append(one)
            sent.append(one)
        if under_way and choice % 2:
            one = under_way.pop(choice % len(under_way))
            if fails:
                dropped += len(line.stop(one))
                if one.key:
                    stopped.add(one.key)
                    assert not line.push(parcel(99, one.key))
            else:
                line.done(one)
    assert line.under_way == len(under_way)
    assert line.waiting == len(keys) - len(sent) - dropped
    for key in ("a", "b"):
        numbers = [one.number for one in sent if one.key == key]
        assert numbers == sorted(numbers)


def test_what_waits_behind_a_key_that_stands_still_holds_no_memory_of_others() -> None:
    """One row of the key in each megabyte."""
    gathering, line = Gathering(), Line()
    batch = rows(1000, ["slow"] + [None] * 999, data_bytes=1000)
    before = pa.total_allocated_bytes()
    for _ in range(200):
        gathering.add(TOPIC, batch, 0.0)
        for one in gathering.cut():
            line.push(one)
            if not one.key:
                sent = line.next()
                assert sent is not None
                sent = line.next() if sent.key else sent
                assert sent is one
                sent.take_encoded()
                line.done(sent)
    assert line.waiting == 199
    assert pa.total_allocated_bytes() - before < (LAG_CUTS + 3) * batch.nbytes
    del one, sent


def test_few_rows_wait_a_moment_for_more_and_many_do_not() -> None:
    gathering = Gathering()
    assert gathering.wait_s(0.0) == float("inf")
    gathering.add(TOPIC, rows(10), 1.0)
    assert gathering.wait_s(1.0) == pytest.approx(LINGER_S)
    assert gathering.wait_s(1.0 + LINGER_S) <= 1e-9
    gathering.add(TOPIC, rows(1000, data_bytes=LINGER_BYTES // 1000), 1.0)
    assert gathering.wait_s(1.0) == 0.0


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=6),
    keys=st.lists(st.sampled_from([None, "", "a", "b", "c"]), min_size=1, max_size=5),
    data_bytes=st.sampled_from([10, 15_000]),
)
def test_parcels_have_every_row_once_in_order_and_keep_the_limits(
    sizes: list[int], keys: list[str | None], data_bytes: int
) -> None:
    gathering, pushed = Gathering(), []
    for size in sizes:
        batch = rows(size, [keys[number % len(keys)] for number in range(size)], data_bytes)
        gathering.add(TOPIC, batch, 0.0)
        pushed += list(zip(batch.column(2).fill_null("").to_pylist(), batch.column(0).to_pylist(), strict=True))
    cut = list(gathering.cut())
    assert [one.number for one in cut] == list(range(len(cut)))
    assert not gathering
    got = []
    for one in cut:
        assert one.messages <= wire.MAX_PUBLISH_ROWS
        encoded = one.take_encoded()
        messages = PublishRequest.deserialize(encoded).messages
        assert len(messages) == one.messages
        assert len(encoded) <= one.size_bytes + 100
        assert one.size_bytes <= wire.MAX_PUBLISH_BYTES
        got += [(one.key, message.data) for message in messages]
    for key in ("", "a", "b", "c"):
        assert [value for own, value in got if own == key] == [value for own, value in pushed if own == key]
    assert len(got) == len(pushed)


def test_rows_are_measured_once_however_many_keys_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a part looks at the attributes of the whole: key by key, many keys held up the loop for seconds."""
    measured: list[int] = []

    def measuring(part: pa.RecordBatch) -> object:
        measured.append(len(part))
        return wire.publish_sizes(part)

    monkeypatch.setattr(parcels, "publish_sizes", measuring)
    gathering = Gathering()
    gathering.add(TOPIC, rows(500, [f"k{number}" for number in range(500)]), 0.0)
    assert len(list(gathering.cut())) == 500
    assert measured == [500]
