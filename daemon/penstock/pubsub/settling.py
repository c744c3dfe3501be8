"""All acks, extensions and releases of one subscription, and whose turn it is to be sent: decisions only.

::

    AckSink ──add──▶ Line of each kind ──take──▶ Errand of one of the senders ──settle──▶ the caller
                          ▲                             │
                          └───────── put_back ──────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa

from penstock.pubsub.backoff import Backoff
from penstock.pubsub.errand import Accounts, Acknowledgement, AckStatistics, Errand, Extension, Move, Release
from penstock.pubsub.pending import Job, Line, Request
from penstock.pubsub.refusal import Refusal
from penstock.pubsub.turns import Turns
from penstock.reservoir.ports import AckOutcome

SENDERS = 6
"""Requests at once of any kind: enough to hide 100 ms of latency at 150,000 acks a second."""
LEASE_SENDERS = 2
"""More of them, for extensions and releases only: acks that back off must not let leases run out."""

ACK_SENDERS = 2
"""Of `SENDERS`, for acks before extensions: an ack ends a lease for good. With none, millions of leases that want to be
extended all the time leave no turn for acks, and what is not acknowledged wants to be extended as well."""

CALL_TIMEOUT_S = 10.0
"""A call that is not answered by then has failed."""


class Settling:
    """Every ID from when it is added until it has its end, with the `senders` that carry them there."""

    def __init__(self, accounts: Accounts, *, deadline_s: int, ack_turns: Turns, lease_turns: Turns) -> None:
        self._accounts = accounts
        self._deadline_s = deadline_s
        self._ack_turns = ack_turns
        self._lease_turns = lease_turns
        self._extends, self._acks, self._releases = Line(), Line(), Line()
        self._flying_ids = 0
        self._flying_bytes = 0
        # Extensions first, mostly: a lease that runs out undoes the most.
        self.senders = (
            *(Sender(self, (self._extends, self._releases)) for _ in range(LEASE_SENDERS)),
            *(Sender(self, (self._acks, self._extends, self._releases)) for _ in range(ACK_SENDERS)),
            *(Sender(self, (self._extends, self._acks, self._releases)) for _ in range(SENDERS - ACK_SENDERS)),
        )

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """See `AckSink`."""
        _put(self._acks, ack_ids, settled)

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """See `AckSink`."""
        _put(self._extends, ack_ids, lambda outcome: settled(outcome.lost == 0))

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """See `AckSink`."""
        _put(self._releases, ack_ids, lambda _outcome: settled())

    @property
    def pending_ids(self) -> int:
        """IDs not confirmed yet, of every kind."""
        return self.waiting_ids + self._flying_ids

    @property
    def waiting_ids(self) -> int:
        """Those of them that no request has taken."""
        return self._extends.ids + self._acks.ids + self._releases.ids

    @property
    def pending_bytes(self) -> int:
        """Memory that they refer to; their chunks share it as long as they live."""
        return self._extends.bytes + self._acks.bytes + self._releases.bytes + self._flying_bytes

    def statistics(self) -> AckStatistics:
        """Counts so far."""
        return replace(self._accounts.statistics, pending=self.pending_ids, pending_bytes=self.pending_bytes)

    def rest(self) -> None:
        """Nothing is pending: say what was not said yet of failures."""
        self._accounts.flush()

    # --- said by senders ----------------------------------------------------------------------------------------

    def take(self, lines: Sequence[Line]) -> Errand | None:
        """The next request of the first of these lines where anything waits."""
        line = next((line for line in lines if line.ids), None)
        if line is None:
            return None
        errand = self._errand(line.take(), line)
        self._flying_ids += errand.ids
        self._flying_bytes += errand.bytes
        return errand

    def _errand(self, request: Request, line: Line) -> Errand:
        if line is self._acks:
            return Acknowledgement(request, line, self._ack_turns, self._accounts)
        if line is self._extends:
            return Extension(request, line, self._lease_turns, self._accounts, self._deadline_s)
        return Release(request, line, self._lease_turns, self._accounts)

    def landed(self, errand: Errand) -> None:
        """It is not on its way any more."""
        self._flying_ids -= errand.ids
        self._flying_bytes -= errand.bytes

    def backoff(self) -> Backoff:
        """For a sender that met a defect."""
        return self._accounts.backoff()


class Sender:
    """Carries one request at a time. Who drives it does each `Move`, tells of each `Call` what came of it, and goes on.

    Between moves it is cheap to keep: an idle one holds no IDs.
    """

    def __init__(self, settling: Settling, lines: Sequence[Line]) -> None:
        self._settling = settling
        self._lines = lines
        self._errand: Errand | None = None
        self._backoff = settling.backoff()

    def next(self) -> Move | None:
        """What to do now; None: nothing waits. Raises what a caller raised that was told of its IDs."""
        while (errand := self._errand or self._settling.take(self._lines)) is not None:
            self._errand = errand
            move = errand.next()
            if move is not None:
                return move
            self._land()
            errand.settle()
            self._backoff.reset()
        return None

    def heard(self, refused: Refusal | None) -> None:
        """The service answered the call: what it refused, or None."""
        assert self._errand is not None, "an answer to no call"
        self._errand.heard(refused)

    def put_back(self) -> None:
        """A move failed, or was cancelled, for no reason of the service: what it was about waits again, if anything."""
        errand = self._land()
        if errand is not None:
            errand.put_back()

    def pause_s(self) -> float:
        """For how long not to ask for the next move after one that failed so, or after `next` raised."""
        return self._backoff.next_s()

    def _land(self) -> Errand | None:
        errand, self._errand = self._errand, None
        if errand is not None:
            self._settling.landed(errand)
        return errand


def _put(line: Line, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
    count = sum(len(array) for array in ack_ids)
    if count == 0:
        settled(AckOutcome(0, 0))
        return
    line.put(Job(count, settled), ack_ids)
