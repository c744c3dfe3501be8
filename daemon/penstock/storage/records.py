"""Decisions to and from the journal's JSON: `{"k": kind, field: value …}`.

A piece of a batch is `[segment, offset, length, checksum, bucketed, first row, rows]`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from penstock.contract import Reader
from penstock.reservoir.decisions import Decision, Piece
from penstock.reservoir.kept import Kept, Place
from penstock.storage.framing import Record

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Decision)}


def encode(decision: Decision) -> Record:
    """For the writer thread: the places of its rows are known by then."""
    record: Record = {"k": type(decision).__name__}
    for field in dataclasses.fields(decision):
        value = getattr(decision, field.name)
        record[field.name] = [_piece(piece) for piece in value] if field.name == "pieces" else value
    return record


class Decoder:
    """Reads records. Pieces of one chunk get one `Kept`, whose copy is not looked for yet."""

    def __init__(self, *, counts: bool) -> None:
        self._counts = counts
        self._kept: dict[Place, Kept] = {}

    def decode(self, record: Record) -> Decision:
        """The decision of a record. Raises `KeyError`, `TypeError` or `ValueError` for what no release has written."""
        values = dict(record)
        kind = _KINDS[values.pop("k")]
        if "reader" in values:
            values["reader"] = Reader(*values["reader"])
        if "excluded" in values:
            # Before batches could be excluded it was an empty list.
            values["excluded"] = {batch: int(epoch) for batch, epoch in dict(values["excluded"]).items()}
        if "pieces" in values:
            values["pieces"] = tuple(self._piece(*piece) for piece in values["pieces"])
        decision: Decision = kind(**values)
        return decision

    def _piece(self, *numbers: Any) -> Piece:
        *where, first_row, rows = numbers
        place = Place(*where)
        if place not in self._kept:
            self._kept[place] = Kept(counts=self._counts, place=place)
        return Piece(self._kept[place], first_row, rows)


def _piece(piece: Piece) -> list[Any]:
    assert piece.kept.place is not None, "rows are written before the batch that they belong to"
    return [*piece.kept.place, piece.first_row, piece.rows]
