"""One run: the processes, the schedule played on them, and what is true at the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.types import Subscription
from tests.chaos.disk import small_disk
from tests.chaos.processes import DaemonUnderFire, QueryUnderFire
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import Publisher
from tests.chaos.schedule import Fault, schedule
from tests.processes import NAME, TOPIC, Site, connects, free_port, until

from penstock.emulator import FaultClient

CALM_END = 0.85
"""The part of the run that has faults; the rest shows that progress resumes."""

SETTLE_S = 180.0
"""How long what is left may take once faults and publishing have stopped: a lost commit is told within an epoch, what a
cut stream held comes back at its deadline, and a restarted Spark takes its time on a busy machine."""

SAMPLE_S = 0.5
FIRST_BATCH_S = 300.0
"""How long Spark may take to start on a machine that has much else to do. Faults begin when it has: before, nothing
could go wrong, and a run that ends well would say nothing."""

DISK_MB = 128
FILES_TOLERANCE = 8
"""Descriptors that the daemon may have at the end beyond its start: its channels to Pub/Sub, and the journal's next
file. Connections of a query that was killed close within `CLOSE_S`."""

CLOSE_S = 30.0
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
    """The state at a moment, `at_s` after the start."""

    at_s: float
    published: int
    delivered: int
    remaining: int
    daemon_mb: float


@dataclass
class Outcome:
    """What `--json` prints. `duplicates` are numbers that more than one batch has, or one batch twice."""

    seed: int
    minutes: float
    data_dir: bool
    exactly_once: bool
    faults: dict[str, int] = field(default_factory=dict)
    published: int = 0
    delivered: int = 0
    lost: int = 0
    duplicates: int = 0
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
        broken = [
            name
            for name in ("lost", "remaining", "unaccounted", "segments_left", "left_processes")
            if getattr(self, name)
        ]
        # Without a data_dir a killed daemon's rows come again; with it they must not.
        if self.data_dir and self.duplicates:
            broken.append("duplicates")
        if self.daemon_mb_end > self.daemon_mb_start + RSS_TOLERANCE_MB:
            broken.append("daemon_mb_end")
        if self.daemon_files_end > self.daemon_files_start + FILES_TOLERANCE:
            broken.append("daemon_files_end")
        return broken


class Chaos:
    """A run. `say` gets a line for each thing that happens."""

    def __init__(self, setup: Setup, folder: Path, say: Callable[[str], None]) -> None:
        self.setup = setup
        self.folder = folder
        self.outcome = Outcome(setup.seed, setup.minutes, setup.data_dir, setup.exactly_once)
        self._say = say
        self._rng = random.Random(setup.seed + 1)

    def run(self) -> Outcome:
        """Everything, from the first process to the last; raises only if the harness itself fails."""
        port, http_port = free_port(), free_port()
        self._faults = FaultClient(f"127.0.0.1:{http_port}")
        with contextlib.ExitStack() as stack:
            self._pubsub = stack.enter_context(Proxy(port))
            site = stack.enter_context(Site(self.folder, f"127.0.0.1:{self._pubsub.port}"))
            self._disk = stack.enter_context(small_disk(self.folder / "disk", DISK_MB))
            if self._disk is None:
                self._say("no disk is filled: mounting a small one needs a privilege")
            site.penstock("emulator.log", "emulator", "--port", str(port), "--http-port", str(http_port), "--faults")
            until(lambda: connects(port) and connects(http_port), 30)
            # Publishing and checking go past the proxy.
            os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{port}"
            PublisherClient().create_topic(name=TOPIC)
            SubscriberClient().create_subscription(
                request=Subscription(
                    name=NAME,
                    topic=TOPIC,
                    ack_deadline_seconds=self.setup.ack_deadline_s,
                    enable_exactly_once_delivery=self.setup.exactly_once,
                )
            )
            self._daemon = DaemonUnderFire(site, self._flags())
            self.outcome.daemon_files_start = self._daemon.open_files
            self.outcome.daemon_mb_start = round(self._daemon.anonymous_mb, 1)
            self._flight = stack.enter_context(Proxy(self._daemon.port))
            self._query = QueryUnderFire(self.folder, f"127.0.0.1:{self._flight.port}", self._rng)
            stack.callback(self._query.kill)
            self._publisher = stack.enter_context(Publisher(TOPIC, self.setup.per_second))
            until(self._query.numbers, FIRST_BATCH_S)
            self._play()
            self._settle()
            self._account()
        self.outcome.left_processes = len(psutil.Process().children(recursive=True))
        return self.outcome

    def _flags(self) -> tuple[str, ...]:
        flags = ["--set", f"pubsub.ack_deadline_s={self.setup.ack_deadline_s}", "--drain-timeout-s", "2"]
        if self.setup.data_dir:
            flags += ["--data-dir", str(self.folder / "disk" / "data")]
        return tuple(flags)

    # --- the run ------------------------------------------------------------------------------------------------

    def _play(self) -> None:
        seconds = self.setup.minutes * 60
        self._start = time.monotonic()
        impossible = frozenset({"fill disk"} if self._disk is None or not self.setup.data_dir else ())
        waiting = schedule(self.setup.seed, seconds * CALM_END, without=impossible)
        counted: Counter[str] = Counter()
        undo: list[tuple[float, Callable[[], None]]] = []
        while (now := self._now()) < seconds:
            for due, end in [entry for entry in undo if entry[0] <= now]:
                end()
                undo.remove((due, end))
            self._keep_running()
            while waiting and waiting[0].at_s <= now:
                fault = waiting.pop(0)
                counted[fault.kind] += 1
                self.outcome.played.append(fault)
                self._say(f"{now:7.1f} s  {fault.kind} ({fault.seconds:.1f} s, {fault.times}x)")
                self._strike(fault)
                if ending := self._ending(fault.kind):
                    undo.append((now + fault.seconds, ending))
            self._sample()
            time.sleep(SAMPLE_S)
        for _, end in undo:
            end()
        self.outcome.faults = dict(sorted(counted.items()))

    def _strike(self, fault: Fault) -> None:
        """Do it."""
        faults, times = self._faults, fault.times
        strikes: dict[str, Callable[[], object]] = {
            "kill daemon": self._daemon.kill,
            "kill driver": self._query.kill,
            "kill worker": self._query.kill_worker,
            "pause daemon": self._daemon.pause,
            "pause driver": self._query.pause,
            "cut pubsub": self._pubsub.cut,
            "stall pubsub": self._pubsub.stall,
            "cut flight": self._flight.cut,
            "stall flight": self._flight.stall,
            "cut streams": faults.cut_streams,
            "fail Acknowledge": lambda: faults.fail("Acknowledge", "UNAVAILABLE", times),
            "fail ModifyAckDeadline": lambda: faults.fail("ModifyAckDeadline", "UNAVAILABLE", times),
            "fail StreamingPull": lambda: faults.fail("StreamingPull", "UNAVAILABLE", times),
            "delay Acknowledge": lambda: faults.delay("Acknowledge", fault.seconds, times),
            "drop acks": lambda: faults.drop_acks(NAME, times),
            "redeliver": lambda: faults.redeliver(NAME, 100 * times),
            "garble": lambda: faults.garble(NAME),
            **({} if self._disk is None else {"fill disk": self._disk.fill}),
        }
        strikes[fault.kind]()

    def _ending(self, kind: str) -> Callable[[], None] | None:
        """What ends a fault that lasts."""
        return {
            "pause daemon": self._daemon.go_on,
            "pause driver": self._query.go_on,
            "stall pubsub": self._pubsub.flow,
            "stall flight": self._flight.flow,
            **({} if self._disk is None else {"fill disk": self._disk.empty}),
        }.get(kind)

    def _settle(self) -> None:
        """No more faults and no more messages: everything must come to its end."""
        self._publisher.stop()
        self._faults.clear()
        start = time.monotonic()
        while time.monotonic() - start < SETTLE_S:
            self._keep_running()
            self._sample()
            last = self.outcome.samples[-1]
            if last.remaining == 0 and last.delivered >= self._publisher.confirmed:
                break
            time.sleep(SAMPLE_S)
        self.outcome.settled_s = round(time.monotonic() - start, 1)

    def _account(self) -> None:
        outcome, batches = self.outcome, self._query.numbers()
        numbers = Counter(number for batch in batches for number in batch)
        outcome.published = self._publisher.confirmed
        outcome.delivered = len(numbers)
        outcome.lost = len(set(range(outcome.published)) - set(numbers))
        outcome.duplicates = sum(count - 1 for count in numbers.values())
        outcome.remaining = self._faults.statistics(NAME)["remaining"]
        outcome.unaccounted = int(self._daemon.daemon.figures().get("unaccounted", 0))
        outcome.batches = len(batches)
        outcome.refused_starts = self._daemon.refused_starts
        outcome.daemon_starts, outcome.query_starts = self._daemon.starts, self._query.starts
        mb = [sample.daemon_mb for sample in outcome.samples if sample.daemon_mb]
        outcome.daemon_mb_end = round(mb[-1], 1)
        outcome.longest_standstill_s = standstill_s(outcome.samples)
        self._query.kill()
        most = outcome.daemon_files_start + FILES_TOLERANCE
        with contextlib.suppress(TimeoutError):  # what is still there then is told
            until(lambda: self._daemon.open_files <= most and not self._segments(), CLOSE_S)
        outcome.daemon_files_end = self._daemon.open_files
        outcome.segments_left = self._segments()
        if (code := self._daemon.end()) != 0:
            raise RuntimeError(f"the daemon's drain ended with exit code {code}")

    # --- parts --------------------------------------------------------------------------------------------------

    def _segments(self) -> int:
        """Files with rows in the data_dir: none, once nothing is held."""
        return len(list((self.folder / "disk").rglob("*.seg")))

    def _now(self) -> float:
        return time.monotonic() - self._start

    def _keep_running(self) -> None:
        self._daemon.ensure(may_refuse=self._disk is not None and self._disk.full)
        self._query.ensure()

    def _sample(self) -> None:
        delivered = sum(len(set(batch)) for batch in self._query.numbers())
        self.outcome.samples.append(
            Sample(
                at_s=round(self._now(), 2),
                published=self._publisher.confirmed,
                delivered=delivered,
                remaining=self._faults.statistics(NAME)["remaining"],
                daemon_mb=self._daemon.anonymous_mb,
            )
        )


def standstill_s(samples: Sequence[Sample]) -> float:
    """The longest time in which nothing new came to the sink although something was there to come."""
    longest, moved = 0.0, 0.0
    for before, sample in itertools.pairwise(samples):
        if sample.delivered > before.delivered or before.delivered >= before.published:
            moved = sample.at_s
        longest = max(longest, sample.at_s - moved)
    return round(longest, 1)
