"""Chunks take the memory that they count, and what an ack needs does not keep the rest alive."""

from __future__ import annotations

import pyarrow as pa
from google.pubsub_v1.types import PubsubMessage, ReceivedMessage, StreamingPullResponse

from penstock.pubsub import wire
from penstock.pubsub.compact import compact


def test_what_is_moved_is_equal_whatever_is_null_or_empty() -> None:
    arrays = [
        pa.array(["a", "", None, "ü" * 100]),
        pa.array([b"", b"x", None, b"y"]),
        pa.array([1, None, 3, 4], pa.timestamp("us", tz="UTC")),
        pa.array([[("k", "v")], [], [("a", None), ("b", "")], []], pa.map_(pa.string(), pa.string())),
        pa.nulls(4, pa.string()),
        pa.nulls(4, pa.int32()),
    ]
    schema = pa.schema([pa.field(str(number), array.type) for number, array in enumerate(arrays)])
    moved = compact(arrays, schema)
    for before, after in zip(arrays, moved, strict=True):
        after.validate(full=True)
        assert after.equals(before)
        assert after.type == before.type
    empty = [array[:0].take(pa.array([], pa.int64())) for array in arrays]
    assert [len(array) for array in compact(empty, schema)] == [0] * 6


def test_the_blocks_of_a_chunk_are_counted_in_full_and_apart() -> None:
    pool = pa.default_memory_pool()
    messages = [
        ReceivedMessage(ack_id="x" * 188, message=PubsubMessage(data=b"d" * 2000, message_id=str(n)))
        for n in range(500)
    ]
    raw = StreamingPullResponse.serialize(StreamingPullResponse(received_messages=messages))
    before = pool.bytes_allocated()
    decoded = wire.decode([raw])
    held = pool.bytes_allocated() - before
    counted = decoded.rows.get_total_buffer_size() + decoded.ack_ids.get_total_buffer_size()
    assert counted <= held <= counted * 1.01 + 4096
    message_ids, ack_ids = decoded.rows.select(["message_id"]), decoded.ack_ids
    del decoded
    left = pool.bytes_allocated() - before
    assert left < 500 * 250
    assert len(message_ids) == len(ack_ids) == 500
