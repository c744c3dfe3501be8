"""What a run is asked for, and what it found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from tests.chaos.schedule import Fault

FILES_TOLERANCE = 8
"""Descriptors that the daemon may have at the end beyond its start: its channels to Pub/Sub, and the journal's next
file. Connections of a query that was killed close within a moment."""

RSS_TOLERANCE_MB = 150.0
"""What the daemon may hold at the end beyond its start: heaps of an allocator that keeps what it had."""


@dataclass(frozen=True)
class Setup:
    """What runs. `ack_deadline_s` is the daemon's."""

    seed: int
    minutes: float
    per_second: int = 500
    exactly_once: bool = True
    data_dir: bool = True
    ack_deadline_s: int = 10


@dataclass(frozen=True)
class Sample:
    """The state `at_s` after the start. `remaining`: of both subscriptions; `sunk`: on the output topic."""

    at_s: float
    published: int
    delivered: int
    remaining: int
    daemon_mb: float
    sunk: int = 0


@dataclass
class Outcome:
    """What `--json` prints. `duplicates` are numbers that more than one batch has, or one batch twice.

    `sunk…` are about the output topic, to which a second query copies every message.
    """

    seed: int
    minutes: float
    data_dir: bool
    exactly_once: bool
    faults: dict[str, int] = field(default_factory=dict)
    held_back: int = 0
    """Faults that came later than planned, since there was no query at work for them to hit."""
    skipped: int = 0
    """Those that found none until the faults were over."""
    published: int = 0
    delivered: int = 0
    lost: int = 0
    duplicates: int = 0
    sunk: int = 0
    sunk_lost: int = 0
    sunk_duplicates: int = 0
    """Messages beyond the first of each number: a task or a batch that Spark ran again publishes again."""
    sunk_duplicates_after_dedupe: int = 0
    """The same once messages are dropped whose tracing attributes were there before."""
    sunk_misnamed: int = 0
    """Tracing attributes that messages of different numbers have: dropping duplicates would lose all but one."""
    dropped_ack_ids: int = 0
    """Acks and extensions that an ordinary subscription answered with OK and forgot: those messages come again."""
    source_redelivered: int = 0
    """By the emulator to the query that copies: without a data_dir these may be copied anew, under another name."""
    remaining: int = 0
    unaccounted: int = 0
    daemon_starts: int = 0
    refused_starts: int = 0
    """Of the daemon, which does not start on a full disk."""
    query_starts: int = 0
    batches: int = 0
    settled_s: float = 0.0
    daemon_mb_start: float = 0.0
    daemon_mb_end: float = 0.0
    daemon_files_start: int = 0
    daemon_files_end: int = 0
    segments_left: int = 0
    longest_standstill_s: float = 0.0
    """Without a new row in the sink while some waited: Spark's own starts, more than anything."""
    left_processes: int = 0
    samples: list[Sample] = field(default_factory=list, repr=False)
    played: list[Fault] = field(default_factory=list, repr=False)

    def figures(self) -> dict[str, object]:
        """Without what only the picture needs."""
        return {key: value for key, value in asdict(self).items() if key not in {"samples", "played"}}

    def broken(self) -> list[str]:
        """The promises that did not hold."""
        never = ("lost", "sunk_lost", "sunk_misnamed", "remaining", "unaccounted", "segments_left", "left_processes")
        broken = [name for name in never if getattr(self, name)]
        # Without a data_dir a killed daemon's rows come again; with it they must not.
        if self.data_dir and self.duplicates > self.dropped_ack_ids:
            broken.append("duplicates")
        if self.sunk_duplicates_after_dedupe > (self.dropped_ack_ids if self.data_dir else self.source_redelivered):
            broken.append("sunk_duplicates_after_dedupe")
        if self.daemon_mb_end > self.daemon_mb_start + RSS_TOLERANCE_MB:
            broken.append("daemon_mb_end")
        if self.daemon_files_end > self.daemon_files_start + FILES_TOLERANCE:
            broken.append("daemon_files_end")
        return broken


def standstill_s(samples: Sequence[Sample]) -> float:
    """The longest time in which nothing new came to the sink although something was there to come."""
    longest, moved = 0.0, 0.0
    for before, sample in itertools.pairwise(samples):
        if sample.delivered > before.delivered or before.delivered >= before.published:
            moved = sample.at_s
        longest = max(longest, sample.at_s - moved)
    return round(longest, 1)
