"""Whatever a pull stream brings is decoded as protobuf's own parser does, or counted as undecodable."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from google.protobuf import message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.pubsub_v1.types import StreamingPullResponse
from hypothesis import example, given
from tests.fuzz.examples import examples, spoiled
from tests.pubsub.test_wire import received
from tests.reservoir.making import HandClock

from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire
from penstock.pubsub.gathering import Gathering
from penstock.pubsub.pull_schema import response_descriptor
from penstock.reservoir.figures import rfc3339


def _parser() -> Any:
    """Protobuf's, with the product's descriptor: what is in other fields, bad or not, is nobody's business.

    Attributes are repeated entries, as they are on the wire: of a map the parser leaves out entries with other fields.
    """
    file = FileDescriptorProto()
    response_descriptor().file.CopyToProto(file)
    file.message_type[0].nested_type[0].options.ClearField("map_entry")
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(response_descriptor().full_name))


_RESPONSE = _parser()
_FULL = StreamingPullResponse.pb()

said = st.lists(received, max_size=4).map(
    lambda messages: StreamingPullResponse.serialize(StreamingPullResponse(received_messages=messages))
)


def field(number: int, value: bytes | int) -> bytes:
    """One field on the wire: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Seven bits a byte, the last one without the high bit."""
    value &= (1 << 64) - 1
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


limits = st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32 + 5, 2**63 - 1, -(2**63), 253402300799, 10**15])
odd_text = st.text(max_size=5).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=5)
timestamps = st.lists(st.builds(field, st.sampled_from([1, 2]), limits | st.integers(-10, 2_000_000_000)), max_size=3)
entries = st.lists(st.builds(field, st.sampled_from([1, 2, 3]), odd_text), max_size=3)
messages = st.lists(
    st.builds(field, st.sampled_from([1, 3, 5, 9]), odd_text)
    | st.builds(field, st.just(2), entries.map(b"".join))
    | st.builds(field, st.just(4), timestamps.map(b"".join)),
    max_size=6,
)
received_fields = st.lists(
    st.builds(field, st.just(1), odd_text)
    | st.builds(field, st.just(2), messages.map(b"".join))
    | st.builds(field, st.just(3), limits),
    max_size=4,
)
composed = st.lists(st.builds(field, st.sampled_from([1, 1, 1, 5]), received_fields.map(b"".join)), max_size=3).map(
    b"".join
)
"""Responses as no server of Google's would write them: fields repeated, missing, out of range, strings not UTF-8."""

responses = st.one_of(
    said,
    composed,
    said.flatmap(spoiled),
    composed.flatmap(spoiled),
    st.tuples(said, composed).map(b"".join),
    st.binary(max_size=60),
    st.sampled_from([b"\x0b", b"\x0b\x0c", b"\x0a" + b"\xff" * 9 + b"\x01", b"\x0b" * 60 + b"\x0c" * 60]),
)


def rows_of(decoded: wire.Decoded) -> list[tuple[Any, ...]]:
    """All columns, attributes as a dictionary and the time in us since 1970."""
    assert decoded.rows.schema == ROWS_SCHEMA
    decoded.rows.validate(full=True)
    decoded.ack_ids.validate(full=True)
    assert decoded.ack_ids.null_count == 0
    columns = {name: decoded.rows.column(name) for name in decoded.rows.schema.names}
    columns["publish_time"] = columns["publish_time"].cast(pa.int64())
    values = [column.to_pylist() for column in columns.values()]
    rows = zip(decoded.ack_ids.to_pylist(), *values, strict=True)
    return [(ack, key, data, dict(attributes), *rest) for ack, key, data, attributes, *rest in rows]


def parsed(raw: bytes) -> list[tuple[Any, ...]]:
    """The same by protobuf. Raises `DecodeError`."""
    rows = []
    for one in _RESPONSE.FromString(raw).received_messages:
        message, time = one.message, one.message.publish_time
        attributes = {entry.key: entry.value for entry in message.attributes}
        exact_us = time.seconds * 1_000_000 + time.nanos // 1000
        # Times beyond what a column of microseconds can hold are the last, or first, that it can.
        at_us = max(-(2**63), min(exact_us, 2**63 - 1)) if message.HasField("publish_time") else None
        rest = (message.ordering_key or None, one.delivery_attempt or None)
        rows.append((one.ack_id, message.message_id, message.data, attributes, at_us, *rest))
    return rows


def decodable(raw: bytes) -> list[tuple[Any, ...]] | None:
    """The rows that the product makes of one response; None when it refuses it."""
    (outcome,) = wire.decode_each([raw])
    return None if isinstance(outcome, wire.Undecodable) else rows_of(outcome)


@examples(80)
@given(responses)
@example(b"\x0a\x00")
@example(field(1, field(1, b"a") + field(2, field(1, b"x")) + field(2, field(3, b"m"))))
def test_a_response_is_read_as_protobuf_reads_it_or_refused(raw: bytes) -> None:
    rows = decodable(raw)
    if rows is not None:
        assert rows == parsed(raw)


@examples(30)
@given(said)
def test_what_google_would_send_is_never_refused(raw: bytes) -> None:
    assert decodable(raw) == parsed(raw)


@examples(30)
@given(responses)
def test_the_properties_of_a_subscription_are_read_or_refused(raw: bytes) -> None:
    try:
        found = wire.properties(raw)
    except wire.Undecodable:
        return
    assert (found is not None) == _FULL.FromString(raw).HasField("subscription_properties")


@examples(30)
@given(st.lists(responses, max_size=6))
def test_a_bad_response_among_others_is_counted_and_they_are_delivered_in_order(group: list[bytes]) -> None:
    delivered: list[tuple[Any, ...]] = []
    refused: list[wire.Undecodable] = []
    gathering = Gathering(HandClock(), lambda decoded, _: delivered.extend(rows_of(decoded)))
    for raw in group:
        gathering.add(raw, refused.append)
    gathering.decode()
    alone = [decodable(raw) for raw in group]
    assert delivered == [row for rows in alone if rows is not None for row in rows]
    assert len(refused) == sum(rows is None for rows in alone)


@pytest.mark.parametrize("depth", [101, 1000])
def test_groups_in_groups_without_an_end_are_refused(depth: int) -> None:
    assert decodable(b"\x0b" * depth) is None


@pytest.mark.parametrize("time_us", [-(2**63), 2**63 - 1])
def test_a_time_that_no_calendar_has_can_be_shown(time_us: int) -> None:
    assert rfc3339(time_us)[:4] in {"0001", "9999"}


@pytest.mark.parametrize("bad", [b"\x0a\xff", b"\x0b", field(1, field(1, b"\xff"))])
def test_the_parser_beside_it_refuses_what_is_wrong(bad: bytes) -> None:
    with pytest.raises(DecodeError):
        parsed(bad)
