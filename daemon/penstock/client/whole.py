"""Whether a read brought the rows of its ticket, and a write published all of its own: decided without a connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Protocol

import pyarrow as pa

from penstock.contract.actions import Ticket
from penstock.contract.publishing import PutReply
from penstock.errors import ReadIncomplete, WriteIncomplete


class Part(Protocol):
    """What a `do_get` brings at a time; as Flight's `FlightStreamChunk`."""

    @property
    def data(self) -> pa.RecordBatch | None:
        """Rows."""

    @property
    def app_metadata(self) -> pa.Buffer | None:
        """With the last part: how many rows the daemon sent."""


def whole_slice(ticket: Ticket, parts: Iterable[Part], endpoint: str) -> Iterator[pa.RecordBatch]:
    """The rows of a ticket, all of them or an error: never an empty read in place of rows.

    Raises `ReadIncomplete` at the end if their number is not the ticket's, and what `parts` raises.
    """
    rows, told = 0, None
    for part in parts:
        if part.app_metadata is not None:
            told = _rows_told(part.app_metadata.to_pybytes())
        if part.data is not None and part.data.num_rows:
            rows += part.data.num_rows
            yield part.data
    if rows != ticket.rows or told != ticket.rows:
        raise ReadIncomplete(
            f"slice {ticket.slice} of {ticket.slices} of batch {ticket.batch} has {ticket.rows} rows, but {rows} "
            f"came from {endpoint} (which says it sent {told}): read it again"
        )


def whole_write(rows: int, said: PutReply | None, endpoint: str) -> PutReply:
    """The daemon's last word on a write of so many rows. Raises `WriteIncomplete` if it is none, or not of all."""
    if said is None:
        raise WriteIncomplete(
            f"{endpoint} ended a write of {rows} rows without saying that they are published: write them again"
        )
    if said.rows != rows or said.messages + said.skipped + said.dead_lettered != rows:
        raise WriteIncomplete(f"{endpoint} speaks of {said.rows} rows where {rows} were written: {said}")
    return said


def _rows_told(metadata: bytes) -> int | None:
    try:
        said = json.loads(metadata)
    except ValueError:
        return None
    rows = said.get("rows") if isinstance(said, dict) else None
    return rows if isinstance(rows, int) else None
