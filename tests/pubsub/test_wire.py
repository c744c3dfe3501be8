"""The native encoders and decoders against protobuf's own: whatever goes in comes out, and bad bytes are an error."""

from __future__ import annotations

import datetime as dt

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    ModifyAckDeadlineRequest,
    PublishRequest,
    PublishResponse,
    PubsubMessage,
    ReceivedMessage,
    StreamingPullRequest,
    StreamingPullResponse,
)
from hypothesis import given, settings

from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(EPOCH.replace(tzinfo=None), EPOCH.replace(year=2200, tzinfo=None), timezones=st.just(dt.UTC))

received = st.builds(
    ReceivedMessage,
    ack_id=text,
    delivery_attempt=st.integers(0, 2**31 - 1),
    message=st.builds(
        PubsubMessage,
        data=st.binary(max_size=200),
        attributes=st.dictionaries(text, text, max_size=5),
        message_id=text,
        ordering_key=text,
        publish_time=times,
    ),
)
confirmation = st.builds(StreamingPullResponse.AcknowledgeConfirmation, ack_ids=st.lists(text, max_size=3))
responses = st.lists(
    st.builds(
        StreamingPullResponse,
        received_messages=st.lists(received, max_size=8),
        acknowledge_confirmation=st.none() | confirmation,
        subscription_properties=st.none()
        | st.builds(StreamingPullResponse.SubscriptionProperties, message_ordering_enabled=st.booleans()),
    ),
    max_size=4,
)


def rows_of(decoded: wire.Decoded) -> list[dict[str, object]]:
    assert decoded.rows.schema == ROWS_SCHEMA
    decoded.rows.validate(full=True)
    decoded.ack_ids.validate(full=True)
    rows: list[dict[str, object]] = decoded.rows.to_pylist()
    for row, ack_id in zip(rows, decoded.ack_ids.to_pylist(), strict=True):
        row["ack_id"] = ack_id
        row["attributes"] = dict(row["attributes"])  # type: ignore[call-overload]
    return rows


def expected_of(said: list[StreamingPullResponse]) -> list[dict[str, object]]:
    return [
        {
            "message_id": one.message.message_id,
            "data": one.message.data,
            "attributes": dict(one.message.attributes),
            "publish_time": one.message.publish_time,
            "ordering_key": one.message.ordering_key or None,
            "delivery_attempt": one.delivery_attempt or None,
            "ack_id": one.ack_id,
        }
        for response in said
        for one in response.received_messages
    ]


@settings(max_examples=150, deadline=None)
@given(responses)
def test_the_decoder_equals_protobufs_own_parser(said: list[StreamingPullResponse]) -> None:
    raw = [StreamingPullResponse.serialize(response) for response in said]
    assert rows_of(wire.decode(raw)) == expected_of([StreamingPullResponse.deserialize(one) for one in raw])


@settings(max_examples=60, deadline=None)
@given(responses, st.binary(min_size=1, max_size=40))
def test_unknown_fields_are_passed_over(said: list[StreamingPullResponse], value: bytes) -> None:
    field_999 = bytes([0xBA, 0x3E, len(value)]) + value
    raw = [StreamingPullResponse.serialize(response) + field_999 for response in said]
    assert rows_of(wire.decode(raw)) == expected_of(said)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_garbage_is_an_error_or_what_protobuf_also_reads(garbage: bytes) -> None:
    try:
        decoded = wire.decode([garbage])
    except wire.Undecodable:
        return
    decoded.rows.validate(full=True)


def test_a_length_beyond_all_memory_is_undecodable_and_no_panic() -> None:
    with pytest.raises(wire.Undecodable):
        wire.decode([b"\x0a" + b"\xf6" + b"\xff" * 8 + b"\x01"])


@settings(max_examples=100, deadline=None)
@given(st.lists(received, min_size=1, max_size=4), st.data())
def test_a_truncated_response_is_never_half_read(messages: list[ReceivedMessage], data: st.DataObject) -> None:
    raw = StreamingPullResponse.serialize(StreamingPullResponse(received_messages=messages))
    cut = raw[: data.draw(st.integers(1, len(raw) - 1))]
    try:
        found = rows_of(wire.decode([cut]))
    except wire.Undecodable:
        return
    assert found == expected_of([StreamingPullResponse.deserialize(cut)])


def test_one_bad_response_does_not_take_the_good_ones_with_it() -> None:
    good = StreamingPullResponse.serialize(
        StreamingPullResponse(received_messages=[ReceivedMessage(ack_id="a", message=PubsubMessage(data=b"x"))])
    )
    with pytest.raises(wire.Undecodable):
        wire.decode([good, b"\x0a\xff", good])
    first, bad, last = wire.decode_each([good, b"\x0a\xff", good])
    assert isinstance(bad, wire.Undecodable)
    for part in (first, last):
        assert isinstance(part, wire.Decoded)
        assert part.ack_ids.to_pylist() == ["a"]


def test_a_response_without_messages_decodes_to_no_rows() -> None:
    assert wire.decode([b""]).rows.num_rows == 0
    assert wire.decode([]).rows.num_rows == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(text, max_size=20), st.integers(0, 600), st.integers(0, 5))
def test_ack_requests_parse_back(ids: list[str], seconds: int, start: int) -> None:
    column = pa.array(ids, pa.string()).slice(start)
    acked = AcknowledgeRequest.deserialize(wire.encode_acknowledge("projects/p/subscriptions/s", column))
    assert (acked.subscription, list(acked.ack_ids)) == ("projects/p/subscriptions/s", ids[start:])
    modified = ModifyAckDeadlineRequest.deserialize(wire.encode_modify_ack_deadline("s", column, seconds))
    assert (list(modified.ack_ids), modified.ack_deadline_seconds) == (ids[start:], seconds)


@settings(max_examples=100, deadline=None)
@given(st.lists(received, max_size=8), st.integers(0, 4))
def test_publish_requests_parse_back(messages: list[ReceivedMessage], start: int) -> None:
    raw = StreamingPullResponse.serialize(StreamingPullResponse(received_messages=messages))
    rows = wire.decode([raw]).rows.slice(start)
    request = PublishRequest.deserialize(wire.encode_publish("projects/p/topics/t", rows))
    assert request.topic == "projects/p/topics/t"
    assert [(m.data, dict(m.attributes), m.ordering_key) for m in request.messages] == [
        (one.message.data, dict(one.message.attributes), one.message.ordering_key) for one in messages[start:]
    ]


def test_published_ids_come_back_as_a_column() -> None:
    raw = PublishResponse.serialize(PublishResponse(message_ids=["1", "2"]))
    assert wire.decode_published(raw).to_pylist() == ["1", "2"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 7000), st.integers(1, 900), st.integers(0, 3))
def test_requests_are_cut_below_both_limits_and_lose_nothing(count: int, length: int, start: int) -> None:
    ids = [f"{number:0{length}d}" for number in range(count)]
    column = pa.array(ids, pa.string()).slice(start)
    parts = list(wire.cut(column))
    assert [one for part in parts for one in part.to_pylist()] == ids[start:]
    for part in parts:
        assert len(part) <= 2500
        assert len(wire.encode_acknowledge("projects/p/subscriptions/s", part)) <= 512 << 10


def test_one_id_above_the_limit_goes_alone() -> None:
    column = pa.array(["x" * (600 << 10), "y"])
    assert [len(part) for part in wire.cut(column)] == [1, 1]


def test_the_first_request_asks_for_leases_flow_control_and_heartbeats() -> None:
    raw = wire.first_pull_request("s", ack_deadline_s=60, client_id="me", max_outstanding_bytes=1000)
    request = StreamingPullRequest.deserialize(raw)
    assert request.stream_ack_deadline_seconds == 60
    assert request.max_outstanding_bytes == 1000
    assert request.max_outstanding_messages == 0
    assert request.protocol_version == 1
