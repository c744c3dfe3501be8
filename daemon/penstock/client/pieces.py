"""Record batches cut for the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

PIECE_BYTES = 2 << 20
"""Of a record batch on its way to a daemon: large enough that its cost hardly shows, small enough that the first rows
are published while the next ones come."""

REQUEST_ROWS = 1000
"""Pub/Sub's limit: pieces of multiples of it leave no remainders, each of which would be a request of its own."""


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A record batch in slices of about `PIECE_BYTES`; none for one without rows."""
    if not batch.num_rows:
        return
    rows = max(batch.num_rows * PIECE_BYTES // max(batch.nbytes, 1), 1)
    if rows > REQUEST_ROWS:
        rows -= rows % REQUEST_ROWS
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
