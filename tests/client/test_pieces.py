"""Rows are cut for the wire into pieces that a daemon takes, whatever their sizes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from penstock.client import pieces
from penstock.client.pieces import PIECE_BYTES


def test_a_few_large_rows_among_small_ones_make_no_piece_that_a_daemon_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark's record batches have up to 10,000 rows, of which some may have 10 MB."""
    monkeypatch.setattr(pieces, "MOST_BYTES", 2 * PIECE_BYTES)
    data = [b"x" * 100] * 5000 + [b"y" * (PIECE_BYTES // 2)] * 20 + [b"x" * 100] * 5000
    batch = pa.RecordBatch.from_pydict({"data": data})
    cut = list(pieces.pieces(batch))
    assert max(piece.nbytes for piece in cut) <= 2 * PIECE_BYTES
    assert pa.Table.from_batches(cut).to_pydict() == {"data": data}


def test_a_row_that_is_too_large_is_a_piece_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_BYTES", 100)
    batch = pa.RecordBatch.from_pydict({"data": [b"x" * 1000, b"", b"y"]})
    assert [piece.num_rows for piece in pieces.pieces(batch)] == [1, 2]


def test_no_rows_are_no_piece() -> None:
    assert list(pieces.pieces(pa.RecordBatch.from_pydict({"data": pa.array([], pa.binary())}))) == []
