"""A read outlives the daemon that it began on, and no row comes twice or is left out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.client.patient import read_patiently
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import Ticket
from penstock.errors import BatchGone, NodeUnreachable

ROWS = 10
TICKET = Ticket(v=PROTOCOL_VERSION, batch="b", slice=0, slices=1, rows=ROWS)


class Leaving:
    """Gives rows in parts of `part_rows`, and is gone after so many of them, once for each of `stops`."""

    def __init__(self, part_rows: int, stops: list[int], error: Exception | None = None) -> None:
        self.now = 0.0
        self._part_rows = part_rows
        self._stops = list(stops)
        self._error = error or NodeUnreachable("gone", endpoint="here")

    def read(self, ticket: Ticket) -> Iterator[pa.RecordBatch]:
        stop = self._stops.pop(0) if self._stops else None
        rows = pa.RecordBatch.from_pydict({"n": range(ticket.rows)})
        for start in range(0, ticket.rows, self._part_rows):
            if stop is not None and start >= stop:
                raise self._error
            yield rows.slice(start, self._part_rows)
        if stop is not None:
            raise self._error

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def rows(self, wait_s: float = 60.0) -> list[int]:
        parts = read_patiently(self, TICKET, wait_s, clock=lambda: self.now, sleep=self.sleep)
        return [row for part in parts for row in part["n"].to_pylist()]


@settings(deadline=None)  # whole machines are slow at times
@given(st.integers(1, ROWS), st.lists(st.integers(0, ROWS), max_size=5))
def test_every_row_comes_once_and_in_order_wherever_the_daemon_left(part_rows: int, stops: list[int]) -> None:
    assert Leaving(part_rows, stops).rows() == list(range(ROWS))


def test_a_daemon_that_stays_away_fails_the_read_after_node_wait_and_says_so() -> None:
    node = Leaving(3, [0] * 1000)
    with pytest.raises(NodeUnreachable, match="option nodeWait"):
        node.rows(wait_s=20)
    assert 20 <= node.now < 22


def test_rows_in_between_begin_the_wait_anew() -> None:
    assert Leaving(1, [1] + [0] * 10 + [2] + [0] * 10 + [3]).rows(wait_s=9) == list(range(ROWS))


def test_a_batch_that_is_gone_fails_the_read_at_once() -> None:
    node = Leaving(3, [3], BatchGone("lost with its daemon"))
    with pytest.raises(BatchGone):
        node.rows()
    assert node.now == 0
