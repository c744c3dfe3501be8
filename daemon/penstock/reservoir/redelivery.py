"""Deliveries of what this node had before: acknowledged again and dropped, or the new ack ID of a row that is held."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from penstock.reservoir.accounting import Ledger
from penstock.reservoir.budget import Allocation, Share
from penstock.reservoir.chunk import Chunk
from penstock.reservoir.held import Match
from penstock.reservoir.known import RememberedIds
from penstock.reservoir.leases import Leases
from penstock.reservoir.ports import AckOutcome, AckSink


class Redeliveries:
    """Settles them; none makes a row."""

    def __init__(
        self, *, acks: AckSink, share: Share, ledger: Ledger, leases: Leases, remembered: RememberedIds
    ) -> None:
        self._acks = acks
        self._share = share
        self._ledger = ledger
        self._leases = leases
        self._remembered = remembered

    def known(self, rows: pa.RecordBatch, now: float) -> np.ndarray | None:
        """Which rows are redeliveries of what was committed, as far as that is remembered.

        None that is said to be delivered for the first time: a deadline that ran out would count, so somebody asked for
        it back by a seek. Nor one of another publish time: a test server that was restarted numbers its messages from 1
        again, just when acks of the first ones may have been lost.
        """
        known = self._remembered.known(rows.column("message_id"), now, beside=rows.column("publish_time"), same=True)
        attempts = rows.column("delivery_attempt")
        if known is None or attempts.null_count == len(attempts):
            return known
        known &= attempts.fill_null(0).to_numpy(zero_copy_only=False) != 1
        return known if known.any() else None

    def acknowledge(self, ack_ids: pa.Array, remembered: pa.Array | None) -> None:
        """A redelivery of what was committed; it counts in the budget until it is settled.

        What was `remembered` is forgotten when this ack holds: if it comes another time, somebody wants it back.
        """
        claim = self._share.claim(ack_ids.get_total_buffer_size())
        self._acks.acknowledge([ack_ids], functools.partial(self._acknowledged, claim, remembered))

    def _acknowledged(self, _claim: Allocation, remembered: pa.Array | None, outcome: AckOutcome) -> None:
        if remembered is not None and not outcome.lost:
            self._remembered.forget(remembered)

    def take(self, matches: Sequence[Match[Chunk]], ack_ids: pa.Array, now: float, *, receipt: bool) -> np.ndarray:
        """Settle a redelivery of what is held; which rows of it (bool) are new."""
        new = np.ones(len(ack_ids), bool)
        for match in matches:
            new[match.asked] = False
            again = ack_ids.take(pa.array(match.asked))
            if match.chunk.committed:
                self._ledger.known += len(again)
                self.acknowledge(again, None)
            else:
                self._ledger.renewed += len(again)
                match.chunk.renew(match.held, again, self._share)
                self._renew_lease(match, now, receipt=receipt)
        return new

    def _renew_lease(self, match: Match[Chunk], now: float, *, receipt: bool) -> None:
        """The rows that were delivered again have a deadline of their own, but a chunk has one lease.

        It is the earliest of its rows' deadlines: a later one would let the others run out unseen. So it starts anew
        only when every row of the chunk came again. Of a part, the old deadline counts: it is never later than the new
        one, which began at a later time. The next extension is for the new ack IDs and for the others, and makes them
        all equal again. One that is on its way has the old IDs still: a confirmation of it is a promise from before the
        redelivery, so less than the new one; on exactly-once subscriptions the old IDs are refused as over for good,
        which counts neither for nor against the others. Where receipts are wanted the chunk is due at once, and the
        answer to what is on its way is not waited for.
        """
        chunk = match.chunk
        assert chunk.lease is not None
        whole = len(np.unique(match.held)) == len(chunk)
        if not whole and not receipt:
            return
        until = now + self._leases.deadline_s if whole else chunk.lease.until
        lapsed = chunk.lease.lapsed and not whole
        chunk.lease.end()
        self._leases.hold(chunk, until, receipt=receipt, lapsed=lapsed)
