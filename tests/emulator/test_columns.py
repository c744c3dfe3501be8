"""Columns against the plain way: protobuf's own parser, and keys one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.pubsub_v1 import types
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.emulator import wire
from penstock.emulator.ack_ids import ACK_ID_BYTES, AckIds, Deliveries
from penstock.emulator.refusal import Refused
from penstock.emulator.segment import gather, hash_keys, message_sizes_bytes, segment

PublishRequest = types.PublishRequest.pb()
texts = st.text(max_size=12)
messages = st.lists(
    st.fixed_dictionaries(
        {"data": st.binary(max_size=40), "attributes": st.dictionaries(texts, texts, max_size=3), "ordering_key": texts}
    ),
    min_size=1,
    max_size=12,
)


def _segment(fields: list[dict[str, Any]], first: int) -> Any:
    read = wire.read_publish(PublishRequest(topic="t", messages=fields).SerializeToString())
    return segment(read.messages, first, 1_700_000_000_000_001)


@settings(max_examples=100, deadline=None)
@given(one=messages, other=messages, data=st.data())
def test_what_is_delivered_is_what_was_published(one: Any, other: Any, data: st.DataObject) -> None:
    pieces, wanted = [], []
    for fields, first in ((one, 100), (other, 200)):
        rows = sorted(data.draw(st.sets(st.integers(0, len(fields) - 1), min_size=1)))
        pieces.append((_segment(fields, first).messages, np.array(rows)))
        wanted += [(str(first + row), fields[row]) for row in rows]
    ack_ids = pa.array([f"ack{number}" for number in range(len(wanted))])
    attempts = np.arange(len(wanted), dtype=np.int32)
    raw = wire.write_stream_response(
        ack_ids, gather(pieces), attempts, wire.subscription_properties(exactly_once=True, ordering=False)
    )
    response = types.StreamingPullResponse.pb().FromString(raw)
    assert response.subscription_properties.exactly_once_delivery_enabled
    assert len(response.received_messages) == len(wanted)
    for number, (received, (message_id, fields)) in enumerate(zip(response.received_messages, wanted, strict=True)):
        assert (received.ack_id, received.delivery_attempt) == (f"ack{number}", number)
        assert received.message.message_id == message_id
        assert received.message.data == fields["data"]
        assert dict(received.message.attributes) == fields["attributes"]
        assert received.message.ordering_key == fields["ordering_key"]
        assert received.message.publish_time.ToMicroseconds() == 1_700_000_000_000_001


@settings(max_examples=100, deadline=None)
@given(fields=messages)
def test_sizes_are_those_of_data_attributes_and_key(fields: Any) -> None:
    read = wire.read_publish(PublishRequest(topic="t", messages=fields).SerializeToString())

    def size(each: dict[str, Any]) -> int:
        pairs = sum(len(key.encode()) + len(value.encode()) for key, value in each["attributes"].items())
        return len(each["data"]) + len(each["ordering_key"].encode()) + pairs

    assert message_sizes_bytes(read.messages).tolist() == [size(each) for each in fields]


@settings(max_examples=200, deadline=None)
@given(keys=st.lists(texts, min_size=1, max_size=30), skip=st.integers(0, 5))
def test_keys_have_a_hash_of_their_own_wherever_they_stand(keys: list[str], skip: int) -> None:
    hashes = hash_keys(pa.array(keys)).tolist()
    assert hash_keys(pa.array(["padding"] * skip + keys).slice(skip)).tolist() == hashes
    for key, value in zip(keys, hashes, strict=True):
        assert (value == 0) == (key == "")
    assert len(set(hashes)) == len(set(keys))


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**31 - 1)), min_size=1, max_size=20),
    skip=st.integers(0, 3),
)
def test_ack_ids_are_read_as_they_were_made(numbers: list[tuple[int, int]], skip: int) -> None:
    ack_ids = AckIds("one")
    columns = np.array(numbers, np.int64)
    column = ack_ids.column(Deliveries(columns[:, 0], columns[:, 1]))
    column.validate(full=True)
    read = ack_ids.read(column.slice(skip))
    assert list(zip(read.entries.tolist(), read.attempts.tolist(), strict=True)) == numbers[skip:]
    assert {len(each) for each in column.to_pylist()} == {ACK_ID_BYTES}


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, ACK_ID_BYTES - 1), other=st.sampled_from("0123456789abcdefXYZ-_"))
def test_a_changed_ack_id_is_refused(position: int, other: str) -> None:
    ack_ids = AckIds("one")
    (good,) = ack_ids.column(Deliveries(np.array([7]), np.array([1]))).to_pylist()
    changed = good[:position] + other + good[position + 1 :]
    if changed != good:
        with pytest.raises(Refused):
            ack_ids.read(pa.array([good, changed]))


def test_an_ack_id_of_another_subscription_is_refused() -> None:
    column = AckIds("one").column(Deliveries(np.array([7]), np.array([1])))
    with pytest.raises(Refused):
        AckIds("two").read(column)
