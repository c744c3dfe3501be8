"""What the end of a pull stream means, when a quiet one is dead, and how many there should be: decisions only."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

HEALTHY_S = 10.0
"""A stream that lasted this long was healthy: its end says nothing about the next one, which is opened at once.

One that brought messages and ended sooner is reopened at once as well, but only once in this time: a server that sends
a response and hangs up, again and again, is not called in a tight loop."""

KEEP_ALIVE_S = 30.0
SILENT_S = KEEP_ALIVE_S + 15.0
"""A server that answers keep-alives (protocol version 1) and is silent for this long is gone; Google's Java client
waits as long."""
SILENT_WITHOUT_ANSWERS_S = 600.0
"""For servers that were never seen to answer keep-alives: an idle subscription is silent there too."""

STOOD_STILL_S = 1.0
"""A daemon that does not run for longer was stopped, or its machine was suspended: what its streams bring next may have
waited for as long. Less is bridged by extensions, which begin at half of a deadline of 10 s or more."""

STREAM_BYTES_PER_S = 10_000_000
"""What the service sends on one pull stream (https://cloud.google.com/pubsub/quotas)."""
BUSY, IDLE = 0.7, 0.1
"""Fractions of it above which a stream counts as busy, and below which it counts as idle."""

_FATAL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
}


class Verdict(enum.Enum):
    """What one attempt at a pull stream says about the next."""

    NOW = "now"
    BACK_OFF = "back off"
    BACK_OFF_LONG = "back off long"
    RESUME = "when messages are welcome again"
    FATAL = "never"


@dataclass(frozen=True)
class Ending:
    """How a pull stream ended: `lasted_s` after it was opened, having `heard` anything or not."""

    code: grpc.StatusCode
    details: str
    lasted_s: float
    heard: bool
    since_hasty_s: float
    """Time since a short-lived stream of this line was reopened at once; infinite if none was."""

    @property
    def healthy(self) -> bool:
        """Whether the stream lasted: whatever ended it is no sign of trouble."""
        return self.lasted_s >= HEALTHY_S


def judge(ending: Ending) -> Verdict:
    """What to do after this ending."""
    if is_fatal(ending.code, ending.details):
        return Verdict.FATAL
    if ending.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Verdict.BACK_OFF_LONG
    if ending.healthy or (ending.heard and ending.since_hasty_s >= HEALTHY_S):
        return Verdict.NOW
    return Verdict.BACK_OFF


def is_fatal(code: grpc.StatusCode, details: str) -> bool:
    """Whether no later attempt can succeed before somebody mends something."""
    return code in _FATAL or (code is grpc.StatusCode.FAILED_PRECONDITION and "detach" in details.lower())


class Sign(enum.Enum):
    """What a pull stream needs now."""

    NOTHING = "nothing"
    KEEP_ALIVE = "keep alive"
    GIVE_UP = "give up"


class Pulse:
    """The life signs of one open pull stream, both ways. Times are seconds of the clock."""

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.said_at = now
        self.heard = False
        self.answers = False
        """Whether the server was seen to answer a keep-alive, so that its silence means something."""
        self._asked = False

    def hear(self, now: float, *, empty: bool) -> None:
        """A response came; `empty` if it had no messages, which is an answer if a keep-alive was sent."""
        self.heard_at = now
        self.heard = True
        if empty and self._asked:
            self.answers = True

    def say(self, now: float) -> None:
        """A keep-alive was sent."""
        self.said_at = now
        self._asked = True

    def resume(self, now: float) -> None:
        """The stream is read again: what was not read meanwhile is no silence of the server."""
        self.heard_at = now

    def sign(self, now: float, *, paused: bool) -> Sign:
        """What is due. A paused stream is kept alive but not judged: nobody listens."""
        bound_s = SILENT_S if self.answers else SILENT_WITHOUT_ANSWERS_S
        if not paused and now - self.heard_at >= bound_s:
            return Sign.GIVE_UP
        return Sign.KEEP_ALIVE if now - self.said_at >= KEEP_ALIVE_S else Sign.NOTHING


class Vigil:
    """Notices that the process did not run, if it is told several times a second that it does.

    `pauses` counts, and `since` is when it ran last before the newest one. Times are seconds of the clock.
    """

    def __init__(self, now: float) -> None:
        self.pauses = 0
        self.since = now
        self._ran_at = now

    def begin(self, now: float) -> None:
        """Nobody told it for a while, and that says nothing."""
        self._ran_at = now

    def runs(self, now: float) -> None:
        """It does now."""
        if now - self._ran_at > STOOD_STILL_S:
            self.pauses += 1
            self.since = self._ran_at
        self._ran_at = now


def autoscale(bytes_per_s: Sequence[float], *, least: int, most: int, saturated: bool = False) -> int:
    """+1, 0 or -1 pull stream, from the rate of each over the last interval.

    `saturated` streams are slow because what they brought is not acknowledged yet, not because nothing waits for them.
    """
    if saturated:
        return 1 if len(bytes_per_s) < most else 0
    if len(bytes_per_s) < most and all(rate >= BUSY * STREAM_BYTES_PER_S for rate in bytes_per_s):
        return 1
    if len(bytes_per_s) > least and any(rate <= IDLE * STREAM_BYTES_PER_S for rate in bytes_per_s):
        return -1
    return 0


def rush(interval_bytes: Sequence[int], *, most: int, interval_s: float) -> bool:
    """Whether to add streams before the interval is over.

    Each has brought in a part of it what the service sends on a full one in all of it. There such limits do not hold,
    as with an emulator, or a burst came that is worth another stream anyway.
    """
    return len(interval_bytes) < most and min(interval_bytes) >= STREAM_BYTES_PER_S * interval_s
