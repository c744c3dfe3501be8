"""A segment: the messages of one publish as Arrow, with what a subscription needs to know of each; and its limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.emulator.refusal import invalid

# https://cloud.google.com/pubsub/quotas#resource_limits
MAX_PUBLISH_BYTES = 10 * 1000 * 1000
MAX_PUBLISH_ROWS = 1000
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_KEY_BYTES = 256
MAX_ATTRIBUTE_VALUE_BYTES = 1024
MAX_ORDERING_KEY_BYTES = 1024

_EMPTY_MESSAGE = (
    "One or more messages in the publish request is empty. Each message must contain either non-empty data, or at "
    "least one attribute."
)
# Any odd number with well mixed bits will do: powers of it weigh the bytes of a key.
_KEY_WEIGHT = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Immutable. `messages`: struct array of PubsubMessage fields; `sizes_bytes` and `keys` have one value a row.

    `keys` are 64-bit hashes of the ordering keys, 0 for messages without; None when none of the segment has one.
    """

    messages: pa.StructArray
    sizes_bytes: NDArray[np.int64]
    keys: NDArray[np.uint64] | None
    publish_us: int

    @property
    def message_ids(self) -> pa.Array:
        """String array."""
        return self.messages.field("message_id")

    @property
    def attributes(self) -> pa.MapArray:
        """What filters look at."""
        return self.messages.field("attributes")


def segment(messages: pa.StructArray, first_message_id: int, publish_us: int) -> Segment:
    """Give checked messages their IDs and their publish time (microseconds since 1970)."""
    rows = len(messages)
    fields = {
        "data": messages.field("data"),
        "attributes": messages.field("attributes"),
        "message_id": pa.array(np.arange(first_message_id, first_message_id + rows)).cast(pa.string()),
        "publish_time": pa.array(np.full(rows, publish_us), pa.timestamp("us", tz="UTC")),
        "ordering_key": messages.field("ordering_key"),
    }
    keys = messages.field("ordering_key")
    return Segment(
        messages=pa.StructArray.from_arrays(list(fields.values()), names=list(fields)),
        sizes_bytes=message_sizes_bytes(messages),
        keys=hash_keys(keys) if _text_bytes(keys) else None,
        publish_us=publish_us,
    )


def message_sizes_bytes(messages: pa.StructArray) -> NDArray[np.int64]:
    """Data, attributes and ordering key of each message, as the service counts them for its limits."""
    attributes = messages.field("attributes")
    entry_bytes = np.zeros(len(attributes.keys) + 1, np.int64)
    np.cumsum(_lengths(attributes.keys) + _lengths(attributes.items), out=entry_bytes[1:])
    offsets = _offsets(attributes)
    return (
        _lengths(messages.field("data"))
        + _lengths(messages.field("ordering_key"))
        + entry_bytes[offsets[1:]]
        - entry_bytes[offsets[:-1]]
    )


def check_limits(messages: pa.StructArray, request_bytes: int) -> None:
    """Raises `Refused` (INVALID_ARGUMENT) for what the service would not take."""
    rows = len(messages)
    if rows == 0:
        raise invalid("The request must contain at least one message.")
    if rows > MAX_PUBLISH_ROWS:
        raise invalid(
            f"The value for message_count is too large. You passed {rows} in the request, but the maximum value is "
            f"{MAX_PUBLISH_ROWS}."
        )
    if request_bytes > MAX_PUBLISH_BYTES:
        raise invalid(
            f"Request payload size exceeds the limit: {MAX_PUBLISH_BYTES} bytes (you passed {request_bytes} bytes)."
        )
    attributes = messages.field("attributes")
    counts = np.diff(_offsets(attributes))
    if ((_lengths(messages.field("data")) == 0) & (counts == 0)).any():
        raise invalid(_EMPTY_MESSAGE)
    if counts.max() > MAX_ATTRIBUTES:
        raise invalid(f"A message has {counts.max()} attributes; the maximum is {MAX_ATTRIBUTES}.")
    _check_length("attribute key", attributes.keys, MAX_ATTRIBUTE_KEY_BYTES, at_least=1)
    _check_length("attribute value", attributes.items, MAX_ATTRIBUTE_VALUE_BYTES)
    _check_length("ordering key", messages.field("ordering_key"), MAX_ORDERING_KEY_BYTES)


def hash_keys(keys: pa.Array) -> NDArray[np.uint64]:
    """64-bit hashes of a string array, 0 for empty strings only.

    Two keys with one hash are merely kept in order with each other, so nothing depends on its quality.
    """
    offsets = _offsets(keys)
    lengths = np.diff(offsets)
    hashes = np.zeros(len(keys), np.uint64)
    filled = lengths > 0
    if not filled.any():
        return hashes
    text = np.frombuffer(keys.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].astype(np.uint64)
    position = np.arange(len(text)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    weights = np.cumprod(np.full(int(lengths.max()), _KEY_WEIGHT, np.uint64))
    sums = np.add.reduceat((text + np.uint64(1)) * weights[position], (offsets[:-1] - offsets[0])[filled])
    sums ^= sums >> np.uint64(29)
    hashes[filled] = np.maximum(sums, np.uint64(1))
    return hashes


def _check_length(what: str, texts: pa.Array, most: int, at_least: int = 0) -> None:
    lengths = _lengths(texts)
    if not len(lengths):
        return
    if lengths.max() > most:
        raise invalid(f"A message has an {what} of {lengths.max()} bytes; the maximum is {most} bytes.")
    if lengths.min() < at_least:
        raise invalid(f"A message has an empty {what}.")


def _text_bytes(texts: pa.Array) -> int:
    offsets = _offsets(texts)
    return int(offsets[-1] - offsets[0])


def _lengths(texts: pa.Array) -> NDArray[np.int64]:
    return np.diff(_offsets(texts))


def _offsets(array: pa.Array) -> NDArray[np.int64]:
    """Offsets of a string, binary or map array, its own offset honoured."""
    if len(array) == 0:
        return np.zeros(1, np.int64)
    raw = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    return raw.astype(np.int64)


def gather(pieces: list[tuple[pa.StructArray, NDArray[np.int64]]]) -> pa.StructArray:
    """Some rows (ascending within each piece) of some arrays as one array; without a copy where it can be."""
    arrays = []
    for messages, rows in pieces:
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            arrays.append(messages.slice(first, len(rows)))
        else:
            arrays.append(pc.take(messages, pa.array(rows)))
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
