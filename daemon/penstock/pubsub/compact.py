"""Decoded columns moved into memory of exactly their size.

The decoder's buffers are as large as they happened to grow: up to twice what they hold, and none of that excess is
counted by anybody. Held as chunks for a while they took half as much memory again as the budget knew of. Copied into
one block they take what they count, and the decoder's own buffers go at once and are reused by the next decode. All
columns must move: small ones left behind pin the holes between the large ones, and the heap grew to twice what was
counted.

The block is the body of an Arrow IPC message (https://arrow.apache.org/docs/format/Columnar.html), because Arrow writes
and maps one in two native calls, 7 us together; gathering the buffers here took ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.ipc


def compact(arrays: Sequence[pa.Array], schema: pa.Schema) -> list[pa.Array]:
    """The same arrays in one block of memory, which lives as long as any of them.

    `schema` says what they become: the same layout, with names and nullability of its own.
    """
    block = pa.RecordBatch.from_arrays(arrays, names=schema.names).serialize()
    moved: list[pa.Array] = pyarrow.ipc.read_record_batch(block, schema).columns
    return moved
