"""Pub/Sub's protobuf bytes to and from Arrow: one native call each, no Python object per message. Sans-I/O.

The only module that uses ptars. A property test holds it against protobuf's own parser.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError
from google.pubsub_v1.types import (
    AcknowledgeRequest,
    ModifyAckDeadlineRequest,
    PublishRequest,
    PublishResponse,
    StreamingPullRequest,
    StreamingPullResponse,
)
from ptars import HandlerPool, PtarsConfig

from penstock.contract import ROWS_SCHEMA
from penstock.pubsub.compact import compact
from penstock.pubsub.pull_schema import response_descriptor

MAX_IDS = 2500
MAX_REQUEST_BYTES = 512 << 10
"""Acknowledge and ModifyAckDeadline requests are refused above 512 KiB
(https://cloud.google.com/pubsub/quotas#resource_limits); one too large would fail for ever."""

MAX_PUBLISH_ROWS = 1000
MAX_PUBLISH_BYTES = 10_000_000
"""Publish requests are refused above these (https://cloud.google.com/pubsub/quotas#resource_limits)."""

_PUBLISH_CUT_BYTES = 9_500_000
_ROW_FRAMING_BYTES, _ATTRIBUTE_FRAMING_BYTES = 24, 12
"""At most this much of a request is framing of one message, and of one attribute of it: tags and lengths."""

_OVERHEAD_BYTES = 1024
"""Room for the subscription's name and the framing of a request."""

_ID_FRAMING_BYTES = 3
"""Tag and length of one ack ID of up to 16,383 bytes."""

_PULL = StreamingPullResponse.pb()
_PULL_REQUEST = StreamingPullRequest.pb()
_ACK = AcknowledgeRequest.pb()
_MODACK = ModifyAckDeadlineRequest.pb()
_PUBLISH = PublishRequest.pb()
_PUBLISHED = PublishResponse.pb()
_PULL_COLUMNS = response_descriptor()
_CONFIG = PtarsConfig(timestamp_unit="us")
_pull_handler = HandlerPool([_PULL_COLUMNS.file], config=_CONFIG).get_for_message(_PULL_COLUMNS)
_pool = HandlerPool([_PULL.DESCRIPTOR.file], config=_CONFIG)
_ack_handler = _pool.get_for_message(_ACK.DESCRIPTOR)
_modack_handler = _pool.get_for_message(_MODACK.DESCRIPTOR)
_publish_handler = _pool.get_for_message(_PUBLISH.DESCRIPTOR)
_published_handler = _pool.get_for_message(_PUBLISHED.DESCRIPTOR)
_PUBLISH_SCHEMA: pa.Schema = _publish_handler.list_to_record_batch([]).schema
# Made here and not at the first message: pyarrow imports pandas, where that is installed, at the first Python value it
# converts, which takes a second of the loop, and on a busy machine so long that leases count as lapsed.
_NO_KEY = pa.scalar(None, pa.string())
_NO_ATTEMPT = pa.scalar(None, pa.int32())
_ZERO = pa.scalar(0, pa.int32())
_IDS = pa.schema([ROWS_SCHEMA.field("message_id"), pa.field("ack_id", pa.string())])
_CONTENT = pa.schema([ROWS_SCHEMA.field(name) for name in ("data", "attributes", "publish_time")])
_CONTENT_AND_KEYS = pa.schema([*_CONTENT, ROWS_SCHEMA.field("ordering_key"), ROWS_SCHEMA.field("delivery_attempt")])

HEARTBEAT = b""
"""An empty StreamingPullRequest: the client's keep-alive."""


class Undecodable(ValueError):
    """Bytes that are not the response expected."""


@dataclass(frozen=True)
class Decoded:
    """Messages of some responses: `rows` in `contract.ROWS_SCHEMA`, `ack_ids` (string array) row by row.

    Two blocks of memory of exactly their size: the message and ack IDs, and the rest.
    """

    rows: pa.RecordBatch
    ack_ids: pa.Array


@dataclass(frozen=True)
class Properties:
    """What the service says of a subscription on its pull streams, even to those who may not describe it."""

    ordering: bool
    exactly_once: bool


def decode(responses: Sequence[bytes]) -> Decoded:
    """All messages of some StreamingPullResponses, in order. Raises `Undecodable`.

    Feed it about 1 MiB at a time: it holds the interpreter's lock meanwhile.
    """
    batch = _read(_pull_handler, responses)
    # `values`, not `flatten`: the lists are as ptars made them, without nulls or an offset, and 20 us count here.
    ack_ids, message, attempts = batch.column(0).values.flatten()
    if message.null_count:
        raise Undecodable(f"{message.null_count} of {len(message)} received messages have no message")
    data, attributes, message_ids, publish_times, keys = message.flatten()
    # What an ack needs outlives the rest, so it is a block of its own.
    message_ids, ack_ids = compact([message_ids, ack_ids], _IDS)
    if _all_absent(keys, attempts):  # as mostly: then they are shared
        absent = _nulls(len(keys), pa.string()), _nulls(len(keys), pa.int32())
        rest = [*compact([data, attributes, publish_times], _CONTENT), *absent]
    else:
        keys = pc.if_else(pc.equal(pc.binary_length(keys), 0), _NO_KEY, keys)
        attempts = pc.if_else(pc.equal(attempts, _ZERO), _NO_ATTEMPT, attempts)
        rest = compact([data, attributes, publish_times, keys, attempts], _CONTENT_AND_KEYS)
    return Decoded(pa.RecordBatch.from_arrays([message_ids, *rest], schema=ROWS_SCHEMA), ack_ids)


def decode_each(responses: Sequence[bytes]) -> list[Decoded | Undecodable]:
    """Every response on its own, when `decode` failed on all together: its messages, or why it has none."""
    return [_decode_one(response) for response in responses]


def _decode_one(response: bytes) -> Decoded | Undecodable:
    try:
        return decode([response])
    except Undecodable as error:
        return error


def properties(response: bytes) -> Properties | None:
    """The subscription's properties, if the response carries them. Parses all of it: for a stream's first one only.

    Raises `Undecodable`.
    """
    try:
        parsed = _PULL.FromString(response)
    except DecodeError as error:
        raise Undecodable(str(error)) from error
    if not parsed.HasField("subscription_properties"):
        return None
    said = parsed.subscription_properties
    return Properties(ordering=said.message_ordering_enabled, exactly_once=said.exactly_once_delivery_enabled)


def first_pull_request(subscription: str, ack_deadline_s: int, client_id: str, max_outstanding_bytes: int) -> bytes:
    """The request that opens a pull stream.

    `client_id` lets its successors take over; protocol version 1 asks the server to answer keep-alives.
    """
    request = _PULL_REQUEST(
        subscription=subscription,
        stream_ack_deadline_seconds=ack_deadline_s,
        client_id=client_id,
        max_outstanding_bytes=max_outstanding_bytes,
        protocol_version=1,
    )
    encoded: bytes = request.SerializeToString()
    return encoded


def encode_acknowledge(subscription: str, ack_ids: pa.Array) -> bytes:
    """An AcknowledgeRequest of all these IDs."""
    batch = pa.RecordBatch.from_arrays(
        [pa.array([subscription]), _one_list(ack_ids)], names=["subscription", "ack_ids"]
    )
    return _only(_ack_handler.record_batch_to_array(batch))


def encode_modify_ack_deadline(subscription: str, ack_ids: pa.Array, seconds: int) -> bytes:
    """A ModifyAckDeadlineRequest of all these IDs; 0 seconds gives them back at once."""
    columns = [pa.array([subscription]), pa.array([seconds], pa.int32()), _one_list(ack_ids)]
    batch = pa.RecordBatch.from_arrays(columns, names=["subscription", "ack_deadline_seconds", "ack_ids"])
    return _only(_modack_handler.record_batch_to_array(batch))


def encode_publish(topic: str, rows: pa.RecordBatch) -> bytes:
    """A PublishRequest of the columns `data`, `attributes` and `ordering_key` of rows.

    They have the types of `contract.ROWS_SCHEMA`; other columns are the service's to give.
    """
    attributes = rows.column("attributes")
    message_type = _PUBLISH_SCHEMA.field("messages").type.value_type
    given = {
        "data": rows.column("data"),
        "attributes": pa.MapArray.from_arrays(attributes.offsets, attributes.keys, attributes.items),
        "ordering_key": rows.column("ordering_key"),
    }
    fields = [message_type.field(i) for i in range(message_type.num_fields) if message_type.field(i).name in given]
    messages = pa.StructArray.from_arrays(
        [given[field.name] for field in fields], names=[field.name for field in fields]
    )
    batch = pa.RecordBatch.from_arrays([pa.array([topic]), _one_list(messages)], names=["topic", "messages"])
    return _only(_publish_handler.record_batch_to_array(batch))


def publish_sizes(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes that each row takes in a PublishRequest, at most."""
    sizes = lengths(rows.column("data")) + lengths(rows.column("ordering_key")) + _ROW_FRAMING_BYTES
    attributes = rows.column("attributes")
    if len(attributes.keys):
        entries = lengths(attributes.keys) + lengths(attributes.items) + _ATTRIBUTE_FRAMING_BYTES
        sizes += np.diff(np.concatenate(([0], np.cumsum(entries)))[attributes.offsets.to_numpy()])
    return sizes


def cut_sizes(sizes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows of such sizes, from and to, for one PublishRequest after another: one that is too large has its own."""
    total = np.concatenate(([0], np.cumsum(sizes)))
    start = 0
    while start < len(sizes):
        fit = int(np.searchsorted(total, total[start] + _PUBLISH_CUT_BYTES, side="right")) - 1
        stop = min(max(fit, start + 1), start + MAX_PUBLISH_ROWS, len(sizes))
        yield start, stop
        start = stop


def cut_publish(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows in slices that fit one PublishRequest each, or have one row, which may be larger."""
    for start, stop in cut_sizes(publish_sizes(rows)):
        yield rows.slice(start, stop - start)


def decode_published(response: bytes) -> pa.Array:
    """The message IDs (string array) of a PublishResponse. Raises `Undecodable`."""
    return _read(_published_handler, [response]).column(0).flatten()


def cut(ack_ids: pa.Array) -> Iterator[pa.Array]:
    """The IDs in slices that fit one request each: at most `MAX_IDS`, and `MAX_REQUEST_BYTES` with the rest."""
    offsets = (
        np.frombuffer(ack_ids.buffers()[1], np.int32, len(ack_ids) + 1, ack_ids.offset * 4) if len(ack_ids) else None
    )
    start = 0
    while offsets is not None and start < len(ack_ids):
        stop = min(start + MAX_IDS, len(ack_ids))
        sizes = (offsets[start + 1 : stop + 1] - offsets[start]) + _ID_FRAMING_BYTES * np.arange(1, stop - start + 1)
        fit = int(np.searchsorted(sizes, MAX_REQUEST_BYTES - _OVERHEAD_BYTES, side="right"))
        stop = start + max(fit, 1)
        yield ack_ids.slice(start, stop - start)
        start = stop


def _read(handler: Any, responses: Sequence[bytes]) -> pa.RecordBatch:
    try:
        return handler.list_to_record_batch(responses)
    except ValueError as error:
        raise Undecodable(str(error)) from error
    except BaseException as error:
        # A length that leads beyond its message makes ptars panic. PyO3 raises that as an exception which is no
        # `Exception` and has no name to import: uncaught, it would end the daemon for a few bytes of a response.
        if type(error).__name__ != "PanicException":
            raise
        raise Undecodable(str(error)) from error


def lengths(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes of each value of a string or binary array; 0 for nulls."""
    found: npt.NDArray[np.int64] = pc.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _one_list(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def _only(encoded: pa.Array) -> bytes:
    raw: bytes = encoded[0].as_buffer().to_pybytes()
    return raw


def _all_absent(keys: pa.Array, attempts: pa.Array) -> bool:
    """Whether no message has an ordering key (the service sends empty ones) or an attempt (it counts from 1).

    Read from the buffers: a compute kernel costs ten times as much, and every chunk pays.
    """
    octets = keys.buffers()[2]
    if octets is not None and octets.size:
        return False
    return not np.frombuffer(attempts.buffers()[1], np.int32, len(attempts), attempts.offset * 4).any()


@functools.lru_cache(maxsize=64)
def _nulls(length: int, kind: pa.DataType) -> pa.Array:
    """Only nulls. Chunks of one length share them; lengths repeat, since the service fills its responses alike."""
    return pa.nulls(length, kind)
