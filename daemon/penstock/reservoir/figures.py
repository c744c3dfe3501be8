"""What a subscription tells of itself: plain functions of its parts."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence

from penstock.contract.actions import Accounting, Backlog, PlannedSlice, SealReply, Ticket
from penstock.reservoir.batch import Batch, State
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.holdings import Holdings


def seal_reply(batch: Batch | None, backlog: Backlog) -> SealReply:
    """The answer to `seal`, with or without a batch."""
    if batch is None:
        return SealReply(backlog=backlog)
    return SealReply(
        backlog=backlog,
        batch=batch.id,
        rows=batch.rows,
        bytes=batch.bytes,
        oldest_publish_time=rfc3339(batch.oldest_publish_us),
        newest_publish_time=rfc3339(batch.newest_publish_us),
    )


def planned(batch: Batch, slices: int, columns: Sequence[str] | None, version: int) -> list[PlannedSlice]:
    """The slices of a batch that have rows."""
    chosen = None if columns is None else tuple(columns)
    return [
        PlannedSlice(
            ticket=Ticket(v=version, batch=batch.id, slice=index, slices=slices, rows=size.rows, columns=chosen),
            rows=size.rows,
            bytes=size.bytes,
        )
        for index, size in enumerate(batch.slice_sizes(slices))
        if size.rows
    ]


def accounting(holdings: Holdings, batches: Iterable[Batch]) -> Accounting:
    """Where every message is now."""
    return holdings.ledger.accounting(
        buffered=holdings.queue.rows,
        in_batches=sum(batch.rows for batch in batches),
        dead_letters_pending=holdings.dead_letters.rows,
        duplicates_pending=holdings.duplicates.rows,
    )


def statistics(
    holdings: Holdings, batches: Sequence[Batch], consumers: Iterable[Consumer], backlog: Backlog
) -> dict[str, object]:
    """Figures for `status` and `/metrics`."""
    accounts = accounting(holdings, batches)
    return {
        **holdings.ledger.figures(),
        "accounting": dataclasses.asdict(accounts),
        "buffered": backlog.rows,
        "buffered_bytes": backlog.bytes,
        "in_batches": accounts.places["in_batches"],
        "dead_letters_pending": accounts.places["dead_letters_pending"],
        "duplicates_pending": accounts.places["duplicates_pending"],
        "batches": len([batch for batch in batches if batch.state is State.SEALED]),
        "batches_pending": len([batch for batch in batches if batch.state is State.COMMITTED]),
        "oldest_publish_time": backlog.oldest_publish_time,
        "oldest_age_s": backlog.oldest_age_s,
        "trouble": backlog.trouble,
        "consumers": {
            consumer.id: {
                "reader": list(consumer.reader),
                "contact": consumer.contact,
                "committed_through": consumer.committed_through,
                "epochs": sorted(consumer.batches),
                "excluded": dict(consumer.excluded),
                "plans": len(consumer.plans),
            }
            for consumer in consumers
        },
    }


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # of the years 1 and 9999


def rfc3339(time_us: int) -> str:
    """Microseconds since 1970 as `2026-01-31T23:59:59.123456Z`."""
    # What the service sends is not checked against the years that a protobuf timestamp may have, nor against these.
    moment = _EPOCH + dt.timedelta(microseconds=max(_FIRST_US, min(time_us, _LAST_US)))
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
