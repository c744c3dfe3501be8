"""One request of ack IDs on its way, until each ID has its end: what to do next, and what an answer means. Sans-I/O.

Whoever carries an errand does what `next` says, `heard` tells it what came of a call, and `put_back` that it ended in
some other way. A call under way is the errand's only one.
"""

from __future__ import annotations

import abc
import functools
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from penstock.clock import Clock
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.pending import Line, Request
from penstock.pubsub.refusal import Flood, Mask, Refusal, refused_unsent
from penstock.pubsub.turns import Turn, Turns
from penstock.telemetry import events

RELEASE_ATTEMPTS = 3
"""A release that fails this often is left to the deadline, which gives the messages back as well."""


@dataclass(frozen=True, slots=True)
class Call:
    """Send these IDs now: in an Acknowledge, or with `deadline_s` in a ModifyAckDeadline."""

    ack_ids: pa.Array
    deadline_s: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many seconds; with `turns` also when they move, whichever comes first."""

    seconds: float
    turns: Turns | None = None


Move = Call | Wait


@dataclass
class AckStatistics:
    """Counts of IDs, and of requests, since the start; `pending` ones and their bytes are those of now."""

    acknowledged: int = 0
    extended: int = 0
    released: int = 0
    lost: int = 0
    requests: int = 0
    retries: int = 0
    pending: int = 0
    pending_bytes: int = 0

    def figures(self) -> dict[str, int]:
        """For `status` and metrics."""
        return asdict(self)


class Accounts:
    """What all errands of a subscription share: how they back off, what they count, and what they say of failures."""

    def __init__(self, subscription: str, *, clock: Clock, rng: random.Random, base_backoff_s: float) -> None:
        self.statistics = AckStatistics()
        self.lost = Flood(clock, functools.partial(_say, events.AcksLost, subscription))
        self.retried = Flood(clock, functools.partial(_say, events.AckRetried, subscription))
        self.failed = Flood(clock, functools.partial(_say, events.ModackFailed, subscription))
        self.backoff: Callable[[], Backoff] = functools.partial(Backoff, rng, base_s=base_backoff_s)

    def flush(self) -> None:
        """Say what was not said yet."""
        for flood in (self.lost, self.retried, self.failed):
            flood.flush()


class Errand(abc.ABC):
    """A request that was taken from its line. It ends with `settle` once `next` is None, or with `put_back`."""

    def __init__(self, request: Request, line: Line, turns: Turns, accounts: Accounts) -> None:
        self.ids = len(request.ack_ids)
        self.bytes = request.ack_ids.nbytes
        self._request = request
        self._line = line
        self._turns = turns
        self._accounts = accounts
        self._turn: Turn | None = None
        self._left = request.ack_ids
        """What the next call is about."""
        self._over = False
        self._lost: Mask | None = None
        """By position in the request; None: none is."""

    @abc.abstractmethod
    def next(self) -> Move | None:
        """What to do now; None: nothing more."""

    @abc.abstractmethod
    def heard(self, refused: Refusal | None) -> None:
        """The service answered the call, and refused this."""

    def settle(self) -> None:
        """Tell those whose IDs these are. Raises as `Request.settle`."""
        self._request.settle(self._lost)

    def put_back(self) -> None:
        """All of its IDs wait again: it ended for reasons of its own, such as a cancelled call."""
        self._line.put_back(self._request)
        if self._turn is not None:
            self._turn.gave_up()

    def _call(self, turn: Turn, deadline_s: int | None) -> Call:
        self._turn = turn
        self._accounts.statistics.requests += 1
        return Call(self._left, deadline_s)

    def _answered(self, refused: Refusal | None) -> None:
        """Who else wants to make such calls learns from this one."""
        turn, self._turn = self._turn, None
        assert turn is not None, "an answer to no call"
        if refused is not None and refused.again.all():
            turn.failed(refused.code, refused.message)
        else:
            turn.worked()


class Acknowledgement(Errand):
    """Tried until every ID is confirmed, or refused for good."""

    def __init__(self, request: Request, line: Line, turns: Turns, accounts: Accounts) -> None:
        super().__init__(request, line, turns, accounts)
        self._backoff: Backoff | None = None
        self._pause_s = 0.0
        self._positions: np.ndarray[tuple[int], np.dtype[np.intp]] | None = None
        """Where in the request the IDs that are left stand; None: they are all of it."""

    def next(self) -> Move | None:
        """See `Errand`."""
        if self._over:
            return None
        pause_s, self._pause_s = self._pause_s, 0.0
        turn = self._turns.take(pause_s)
        return self._call(turn, None) if isinstance(turn, Turn) else Wait(turn, self._turns)

    def heard(self, refused: Refusal | None) -> None:
        """See `Errand`."""
        self._answered(refused)
        if refused is None:
            self._over = True
            return
        lost = int(np.count_nonzero(refused.lost))
        if lost:
            self._mark(refused.lost)
            self._accounts.lost.add(lost, refused.code, refused.message)
        if refused.again.any():
            self._keep(refused)
        else:
            self._over = True

    def _mark(self, lost: Mask) -> None:
        if self._lost is None:
            self._lost = np.zeros(self.ids, bool)
        if self._positions is None:
            self._lost |= lost
        else:
            self._lost[self._positions[lost]] = True

    def _keep(self, refused: Refusal) -> None:
        """Those that were neither taken nor lost are sent again, after a pause."""
        if not refused.again.all():
            positions = np.arange(self.ids) if self._positions is None else self._positions
            self._positions = positions[refused.again]
            self._left = self._left.filter(pa.array(refused.again))
        self._accounts.statistics.retries += 1
        self._accounts.retried.add(len(self._left), refused.code, refused.message)
        if self._backoff is None:
            self._backoff = self._accounts.backoff()
        self._pause_s = self._backoff.next_s()

    def settle(self) -> None:
        """See `Errand`."""
        lost = 0 if self._lost is None else int(np.count_nonzero(self._lost))
        self._accounts.statistics.acknowledged += self.ids - lost
        self._accounts.statistics.lost += lost
        super().settle()


class Modification(Errand):
    """A ModifyAckDeadline. While such calls fail anyway it is not sent, and counts as refused."""

    def heard(self, refused: Refusal | None) -> None:
        """See `Errand`."""
        self._answered(refused)
        self._accounts.statistics.retries += refused is not None
        self._note(refused)
        self._ended(refused)

    def _try(self, deadline_s: int) -> Move:
        turn = self._turns.turn_now()
        if turn is not None:
            return self._call(turn, deadline_s)
        refused = refused_unsent(*self._turns.reason(), len(self._left))
        self._note(refused)
        self._ended(refused)
        return Wait(0.0)  # thousands of chunks may ask: there are others to serve

    def _note(self, refused: Refusal | None) -> None:
        if refused is not None:
            self._accounts.failed.add(_count(refused), refused.code, refused.message)

    @abc.abstractmethod
    def _ended(self, refused: Refusal | None) -> None:
        """An attempt is over."""


class Extension(Modification):
    """Once: whoever asked knows when the next one is due. What failed is told as lost."""

    def __init__(self, request: Request, line: Line, turns: Turns, accounts: Accounts, deadline_s: int) -> None:
        super().__init__(request, line, turns, accounts)
        self._deadline_s = deadline_s

    def next(self) -> Move | None:
        """See `Errand`."""
        return None if self._over else self._try(self._deadline_s)

    def _ended(self, refused: Refusal | None) -> None:
        self._over = True
        failed = 0
        if refused is not None:
            # An ID that an exactly-once subscription names as over for good is settled by its ack. It must not take the
            # others of its chunk with it, whose leases were renewed.
            self._lost = refused.again if refused.by_id else refused.again | refused.lost
            failed = int(np.count_nonzero(self._lost))
        self._accounts.statistics.extended += self.ids - failed


class Release(Modification):
    """A few times; how it ended is nobody's concern."""

    def __init__(self, request: Request, line: Line, turns: Turns, accounts: Accounts) -> None:
        super().__init__(request, line, turns, accounts)
        self._backoff = accounts.backoff()
        self._attempts = 0
        self._pause_s = 0.0

    def next(self) -> Move | None:
        """See `Errand`."""
        if self._pause_s:
            pause_s, self._pause_s = self._pause_s, 0.0
            return Wait(pause_s)
        return None if self._over else self._try(0)

    def _ended(self, refused: Refusal | None) -> None:
        self._attempts += 1
        self._accounts.statistics.released += len(self._left) - (0 if refused is None else _count(refused))
        if refused is None or not refused.again.any():
            self._over = True
            return
        self._left = self._left.filter(pa.array(refused.again))
        self._pause_s = self._backoff.next_s()
        self._over = self._attempts >= RELEASE_ATTEMPTS


def _count(refused: Refusal) -> int:
    """IDs that were not taken."""
    return int(np.count_nonzero(refused.again | refused.lost))


def _say(
    event: type[events.AcksLost | events.AckRetried | events.ModackFailed],
    subscription: str,
    acks: int,
    code: str,
    error: str,
) -> None:
    event(subscription=subscription, acks=acks, code=code, error=error).emit()
