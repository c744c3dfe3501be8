"""Record batches cut for the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from penstock.contract.publishing import MAX_PUT_BYTES

PIECE_BYTES = 2 << 20
"""Of a record batch on its way to a daemon: large enough that its cost hardly shows, small enough that the first rows
are published while the next ones come."""

PIECE_ROWS = 100_000
"""Rows that take hardly a byte, such as nulls and flags, may take many as JSON."""

MOST_BYTES = MAX_PUT_BYTES // 2
"""A daemon takes no larger pieces than `MAX_PUT_BYTES`; it counts what comes a little differently."""

REQUEST_ROWS = 1000
"""Pub/Sub's limit: pieces of multiples of it leave no remainders, each of which would be a request of its own."""


def pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A record batch in slices of about `PIECE_BYTES`; none for one without rows."""
    if not batch.num_rows:
        return
    rows = min(max(batch.num_rows * PIECE_BYTES // max(batch.nbytes, 1), 1), PIECE_ROWS)
    if rows > REQUEST_ROWS:
        rows -= rows % REQUEST_ROWS
    for start in range(0, batch.num_rows, rows):
        yield from _halved(batch.slice(start, rows))


def _halved(piece: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Rows are not alike: a piece with large ones is cut until it is no larger than `MOST_BYTES`, or has one row."""
    if piece.nbytes <= MOST_BYTES or piece.num_rows == 1:
        yield piece
        return
    half = piece.num_rows // 2
    yield from _halved(piece.slice(0, half))
    yield from _halved(piece.slice(half))
