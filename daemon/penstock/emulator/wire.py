"""Protobuf bytes to Arrow and back, whole requests and responses at a time; no sockets, no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from google.pubsub_v1 import types
from numpy.typing import NDArray
from ptars import HandlerPool, PtarsConfig

from penstock.emulator.refusal import invalid

# The smallest unit that keeps publish times exact as far as the emulator gives them.
_POOL = HandlerPool([types.PublishRequest.pb().DESCRIPTOR.file], config=PtarsConfig(timestamp_unit="us"))
_PUBLISH = _POOL.get_for_message(types.PublishRequest.pb().DESCRIPTOR)
_PUBLISHED = _POOL.get_for_message(types.PublishResponse.pb().DESCRIPTOR)
_STREAM_REQUEST = _POOL.get_for_message(types.StreamingPullRequest.pb().DESCRIPTOR)
_STREAM_RESPONSE = _POOL.get_for_message(types.StreamingPullResponse.pb().DESCRIPTOR)
_PULL_RESPONSE = _POOL.get_for_message(types.PullResponse.pb().DESCRIPTOR)
_ACKNOWLEDGE = _POOL.get_for_message(types.AcknowledgeRequest.pb().DESCRIPTOR)
_MODIFY = _POOL.get_for_message(types.ModifyAckDeadlineRequest.pb().DESCRIPTOR)

PULL_REQUEST = types.PullRequest.pb()

HEARTBEAT = b""
"""A `StreamingPullResponse` without anything in it."""


def _decode(handler: Any, raw: bytes) -> pa.RecordBatch:
    try:
        return handler.list_to_record_batch([raw])
    except ValueError as error:
        raise invalid(f"Request cannot be parsed: {error}.") from error


@dataclass(frozen=True, slots=True)
class Publish:
    """One PublishRequest: the topic's name and its messages as a struct array of `PubsubMessage` fields."""

    topic: str
    messages: pa.StructArray


def read_publish(raw: bytes) -> Publish:
    """Raises `Refused` (INVALID_ARGUMENT) for bytes that are no PublishRequest."""
    batch = _decode(_PUBLISH, raw)
    return Publish(batch.column("topic")[0].as_py(), batch.column("messages").flatten())


def write_published(message_ids: pa.Array) -> bytes:
    """PublishResponse bytes from a string array."""
    raw: bytes = _encode(_PUBLISHED, [_one_list(message_ids)], ["message_ids"]).to_pybytes()
    return raw


@dataclass(frozen=True, slots=True)
class Acks:
    """Ack IDs of a request (string array), and of a modack the new deadline (seconds) of each."""

    subscription: str
    ack_ids: pa.Array
    deadlines_s: NDArray[np.int64] | None = None


def read_acknowledge(raw: bytes) -> Acks:
    """Raises `Refused` (INVALID_ARGUMENT)."""
    batch = _decode(_ACKNOWLEDGE, raw)
    return Acks(batch.column("subscription")[0].as_py(), batch.column("ack_ids").flatten())


def read_modify(raw: bytes) -> Acks:
    """Raises `Refused` (INVALID_ARGUMENT)."""
    batch = _decode(_MODIFY, raw)
    ack_ids = batch.column("ack_ids").flatten()
    deadline_s = batch.column("ack_deadline_seconds")[0].as_py()
    return Acks(batch.column("subscription")[0].as_py(), ack_ids, np.full(len(ack_ids), deadline_s, np.int64))


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One StreamingPullRequest."""

    subscription: str
    ack_ids: pa.Array
    modify_ack_ids: pa.Array
    modify_deadlines_s: NDArray[np.int64]
    stream_ack_deadline_s: int
    client_id: str
    max_outstanding_rows: int
    max_outstanding_bytes: int
    protocol_version: int

    @property
    def is_keepalive(self) -> bool:
        """Whether it says nothing but that the client is there."""
        return not (len(self.ack_ids) or len(self.modify_ack_ids) or self.stream_ack_deadline_s)


def read_stream_request(raw: bytes) -> StreamRequest:
    """Raises `Refused` (INVALID_ARGUMENT)."""
    batch = _decode(_STREAM_REQUEST, raw)

    def scalar(name: str) -> Any:
        return batch.column(name)[0].as_py()

    deadlines = batch.column("modify_deadline_seconds").flatten()
    return StreamRequest(
        subscription=scalar("subscription"),
        ack_ids=batch.column("ack_ids").flatten(),
        modify_ack_ids=batch.column("modify_deadline_ack_ids").flatten(),
        modify_deadlines_s=deadlines.to_numpy(zero_copy_only=False).astype(np.int64),
        stream_ack_deadline_s=scalar("stream_ack_deadline_seconds"),
        client_id=scalar("client_id"),
        max_outstanding_rows=scalar("max_outstanding_messages"),
        max_outstanding_bytes=scalar("max_outstanding_bytes"),
        protocol_version=scalar("protocol_version"),
    )


def write_stream_response(
    ack_ids: pa.Array, messages: pa.StructArray, attempts: NDArray[np.int32], tail: bytes
) -> bytes:
    """StreamingPullResponse bytes; `tail` is another encoded response, merged in as protobuf merges: by appending."""
    return b"".join((_encode(_STREAM_RESPONSE, [_received(ack_ids, messages, attempts)], ["received_messages"]), tail))


def write_pull_response(ack_ids: pa.Array, messages: pa.StructArray, attempts: NDArray[np.int32]) -> bytes:
    """PullResponse bytes."""
    raw: bytes = _encode(_PULL_RESPONSE, [_received(ack_ids, messages, attempts)], ["received_messages"]).to_pybytes()
    return raw


def subscription_properties(*, exactly_once: bool, ordering: bool) -> bytes:
    """The part of each response that tells clients how the subscription works."""
    properties = types.StreamingPullResponse.SubscriptionProperties(
        exactly_once_delivery_enabled=exactly_once, message_ordering_enabled=ordering
    )
    raw: bytes = types.StreamingPullResponse.pb()(
        subscription_properties=types.StreamingPullResponse.SubscriptionProperties.pb(properties)
    ).SerializeToString()
    return raw


def ack_confirmation(confirmed: Sequence[str], invalid_ids: Sequence[str]) -> bytes:
    """A response that confirms acks of an exactly-once subscription."""
    kind = types.StreamingPullResponse.pb()
    raw: bytes = kind(
        acknowledge_confirmation=kind.AcknowledgeConfirmation(ack_ids=confirmed, invalid_ack_ids=invalid_ids)
    ).SerializeToString()
    return raw


def modify_confirmation(confirmed: Sequence[str], invalid_ids: Sequence[str]) -> bytes:
    """A response that confirms modacks of an exactly-once subscription."""
    kind = types.StreamingPullResponse.pb()
    raw: bytes = kind(
        modify_ack_deadline_confirmation=kind.ModifyAckDeadlineConfirmation(
            ack_ids=confirmed, invalid_ack_ids=invalid_ids
        )
    ).SerializeToString()
    return raw


def _received(ack_ids: pa.Array, messages: pa.StructArray, attempts: NDArray[np.int32]) -> pa.ListArray:
    names = ["ack_id", "message", "delivery_attempt"]
    return _one_list(pa.StructArray.from_arrays([ack_ids, messages, pa.array(attempts)], names=names))


def _one_list(items: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)


def _encode(handler: Any, columns: list[pa.Array], names: list[str]) -> pa.Buffer:
    batch = pa.RecordBatch.from_arrays(columns, names=names)
    return handler.record_batch_to_array(batch)[0].as_buffer()
