"""Whether a read brought the rows of its ticket, all of them: decided without a connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Protocol

import pyarrow as pa

from penstock.contract.actions import Ticket
from penstock.errors import ReadIncomplete


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


def _rows_told(metadata: bytes) -> int | None:
    try:
        said = json.loads(metadata)
    except ValueError:
        return None
    rows = said.get("rows") if isinstance(said, dict) else None
    return rows if isinstance(rows, int) else None
