"""Reading a slice from a daemon that may be started again meanwhile: waits for it and goes on where it broke off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa

from penstock.client.calls import RETRY_FIRST_S, RETRY_LAST_S
from penstock.contract.actions import Ticket
from penstock.errors import NodeUnreachable

_LOG = logging.getLogger("penstock.client")


class Source(Protocol):
    """What is read from; as `NodeClient`."""

    def read(self, ticket: Ticket) -> Iterator[pa.RecordBatch]:
        """The rows of a ticket, all of them or an error."""


def read_patiently(
    node: Source,
    ticket: Ticket,
    wait_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[pa.RecordBatch]:
    """The rows of a ticket, each once, however often the node goes away and comes back within `wait_s`.

    A batch never changes, so the rows given already are those that come first again. Raises `NodeUnreachable` when not
    a row came for `wait_s`, and at once what the node itself says, such as `BatchGone` from one that lost its memory.
    """
    given, silent_since, pause_s = 0, clock(), RETRY_FIRST_S
    while True:
        try:
            for rows in _after(given, node.read(ticket)):
                given += rows.num_rows
                yield rows
                silent_since, pause_s = clock(), RETRY_FIRST_S
        except NodeUnreachable as error:
            waited_s = clock() - silent_since
            if waited_s >= wait_s:
                raise NodeUnreachable(
                    f"{error.message} (waited {waited_s:.0f} s, option nodeWait)", node=error.node, **error.details
                ) from error
            if pause_s == RETRY_FIRST_S:
                _LOG.warning("waiting up to %g s to read on: %s", wait_s, error)
            sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)
        else:
            return


def _after(skip: int, parts: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """All but the first `skip` rows. Reads to the end, so that the read is checked as a whole."""
    for rows in parts:
        passed = min(skip, rows.num_rows)
        skip -= passed
        if passed < rows.num_rows:
            yield rows.slice(passed)
