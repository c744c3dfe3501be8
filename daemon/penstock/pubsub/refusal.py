"""What a refused Acknowledge or ModifyAckDeadline means for each of its IDs, and how often that is said. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.clock import Clock

_HOPELESS = {"NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION"}
"""The service will never take these IDs: the subscription is gone, or they are malformed."""

TRANSIENT, PERMANENT = "TRANSIENT_", "PERMANENT_"
"""How the service begins to say of an ID why it was not taken."""

SAY_EVERY_S = 10.0
"""An outage fails hundreds of requests: the first is told at once, the others together this often."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Refusal:
    """A failed request, by position of its IDs: those `lost` for good, those to try `again`. The others were taken."""

    code: str
    message: str
    lost: Mask
    again: Mask
    by_id: bool = False
    """Whether the service named IDs, so that it took the others."""


def judged(code: str, message: str, failures: Mapping[str, str], ack_ids: pa.Array) -> Refusal:
    """What an error of this code means for the IDs of its request.

    Exactly-once subscriptions tell per ID (`failures`: ack ID → `TRANSIENT_…` or `PERMANENT_…`;
    https://cloud.google.com/pubsub/docs/exactly-once-delivery), and an ID that they do not mention was taken. Otherwise
    the code speaks for all.
    """
    if failures:
        lost = _named(ack_ids, [ack_id for ack_id, why in failures.items() if why.startswith(PERMANENT)])
        again = _named(ack_ids, [ack_id for ack_id, why in failures.items() if why.startswith(TRANSIENT)])
        return Refusal(code, message, lost, again & ~lost, by_id=True)
    hopeless = np.full(len(ack_ids), code in _HOPELESS)
    return Refusal(code, message, hopeless, ~hopeless)


def refused_unsent(code: str, message: str, count: int) -> Refusal:
    """What a request of so many IDs would have met, as others have: it was not sent, and all may be tried again."""
    return Refusal(code, message, lost=np.zeros(count, bool), again=np.ones(count, bool))


def _named(ack_ids: pa.Array, names: list[str]) -> Mask:
    if not names:
        return np.zeros(len(ack_ids), bool)
    mask: Mask = pc.is_in(ack_ids, value_set=pa.array(names, pa.string())).to_numpy(zero_copy_only=False)
    return mask


class Flood:
    """Something that may happen hundreds of times a second, said at once and then at most each `SAY_EVERY_S`.

    `say` gets how many IDs since it was last called, and the newest code and message.
    """

    def __init__(self, clock: Clock, say: Callable[[int, str, str], None]) -> None:
        self._clock = clock
        self._say = say
        self._said_at = float("-inf")
        self._unsaid = 0
        self._newest = ("", "")

    def add(self, acks: int, code: str, message: str) -> None:
        """It happened to so many IDs."""
        self._unsaid += acks
        self._newest = (code, message)
        if self._clock() - self._said_at >= SAY_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Say what was not said yet, if anything."""
        if self._unsaid:
            unsaid, self._unsaid = self._unsaid, 0
            self._said_at = self._clock()
            self._say(unsaid, *self._newest)
