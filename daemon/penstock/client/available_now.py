"""When a query that takes what there is now has taken it: a rule without a clock or a call of its own."""

from __future__ import annotations

import datetime as dt
import enum

from penstock.contract.actions import Backlog


class Verdict(enum.Enum):
    """What to do next."""

    TAKE = "take"
    WAIT = "wait"
    END = "end"


class AvailableNow:
    """Ends when, for `idle_s`, all pull streams were open and no unsealed row was older than the query.

    Pub/Sub tells nobody how much it still has, so silence has to do. Rows published after the start may be taken but do
    not count, so that a publisher that never stops cannot keep the query running. Silence counts only while somebody
    looks and messages could have come: not while a batch runs, nor while pulling is paused.
    """

    def __init__(self, started: dt.datetime, idle_s: float) -> None:
        self._started = started
        self._idle_s = idle_s
        self._quiet_s = 0.0
        self._looked_at: float | None = None

    def judge(self, backlog: Backlog, now: float) -> Verdict:
        """Decide from what waits on the node at `now`."""
        since_last_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if backlog.rows and _before(backlog.oldest_publish_time, self._started):
            self._quiet_s = 0.0
            return self._taken()
        if backlog.paused and backlog.rows:
            # Newer rows are in the way of older ones that the service may still have.
            return self._taken()
        if backlog.streams_open_s is None or backlog.paused:
            self._quiet_s = 0.0
            return Verdict.WAIT
        self._quiet_s += since_last_s
        return Verdict.END if min(self._quiet_s, backlog.streams_open_s) >= self._idle_s else Verdict.WAIT

    def _taken(self) -> Verdict:
        self._looked_at = None
        return Verdict.TAKE


def _before(time: str | None, start: dt.datetime) -> bool:
    """An unknown publish time counts as old: better one batch more than one left behind."""
    return time is None or dt.datetime.fromisoformat(time) <= start
