"""One run: the processes, the schedule played on them, and what is true at the end."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.types import Subscription
from tests.chaos.disk import small_disk
from tests.chaos.names import COPIED, OUTPUT, OUTPUT_TOPIC, READ, TOPIC
from tests.chaos.outcome import FILES_TOLERANCE, Outcome, Sample, Setup, standstill_s
from tests.chaos.output import compared, drained
from tests.chaos.processes import DaemonUnderFire, QueryUnderFire
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import Publisher
from tests.chaos.schedule import Fault, schedule
from tests.chaos.strikes import Strikes
from tests.processes import Site, connects, free_port, until

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

HELD_BACK_S = 2 * SAMPLE_S
"""A fault that comes this much after its time was held back."""

DISK_MB = 128
CLOSE_S = 30.0
"""For the connections of a query that was killed."""


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
            self._make_topics()
            self._daemon = DaemonUnderFire(site, self._flags())
            self.outcome.daemon_files_start = self._daemon.open_files
            self.outcome.daemon_mb_start = round(self._daemon.anonymous_mb, 1)
            self._flight = stack.enter_context(Proxy(self._daemon.port))
            self._query = QueryUnderFire(self.folder, f"127.0.0.1:{self._flight.port}", self._rng)
            stack.callback(self._query.kill)
            self._publisher = stack.enter_context(Publisher(TOPIC, self.setup.per_second))
            self._strikes = Strikes(self._faults, self._daemon, self._query, self._pubsub, self._flight, self._disk)
            began = time.monotonic()
            until(lambda: self._query.at_work, FIRST_BATCH_S)
            self._say(f"at work after {time.monotonic() - began:.0f} s")
            self._play()
            self._settle()
            self._account()
        self.outcome.left_processes = len(psutil.Process().children(recursive=True))
        return self.outcome

    def _make_topics(self) -> None:
        publisher, subscriber = PublisherClient(), SubscriberClient()
        for topic in (TOPIC, OUTPUT_TOPIC):
            publisher.create_topic(name=topic)
        for name in READ:
            subscriber.create_subscription(
                request=Subscription(
                    name=name,
                    topic=TOPIC,
                    ack_deadline_seconds=self.setup.ack_deadline_s,
                    enable_exactly_once_delivery=self.setup.exactly_once,
                )
            )
        subscriber.create_subscription(request=Subscription(name=OUTPUT, topic=OUTPUT_TOPIC, ack_deadline_seconds=60))

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
        held: list[Fault] = []
        undo: list[tuple[float, Callable[[], None]]] = []
        while (now := self._now()) < seconds:
            for due, end in [entry for entry in undo if entry[0] <= now]:
                end()
                undo.remove((due, end))
            self._keep_running()
            while waiting and waiting[0].at_s <= now:
                held.append(waiting.pop(0))
            if now < seconds * CALM_END and (fault := self._first_to_hit(held)):
                held.remove(fault)
                self._strike(fault, now)
                if ending := self._strikes.ending(fault.kind):
                    undo.append((now + fault.seconds, ending))
            self._sample()
            time.sleep(SAMPLE_S)
        for _, end in undo:
            end()
        self.outcome.skipped = len(held)
        self.outcome.faults = dict(sorted(Counter(fault.kind for fault in self.outcome.played).items()))

    def _first_to_hit(self, held: Sequence[Fault]) -> Fault | None:
        return next((fault for fault in held if self._strikes.can_hit(fault.kind)), None)

    def _strike(self, fault: Fault, now: float) -> None:
        """Do it, and tell."""
        self.outcome.held_back += now - fault.at_s > HELD_BACK_S
        self.outcome.played.append(replace(fault, at_s=round(now, 3)))
        self._say(f"{now:7.1f} s  {fault.kind} ({fault.seconds:.1f} s, {fault.times}x)")
        self._strikes.strike(fault)

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
        outcome.remaining = self._remaining()
        outcome.unaccounted = sum(self._unaccounted(name) for name in READ)
        if not self.setup.exactly_once:
            outcome.dropped_ack_ids = sum(self._faults.statistics(name)["dropped_ack_ids"] for name in READ)
        outcome.source_redelivered = self._faults.statistics(COPIED)["redelivered"]
        outcome.batches = len(batches)
        outcome.refused_starts = self._daemon.refused_starts
        outcome.daemon_starts, outcome.query_starts = self._daemon.starts, self._query.starts
        mb = [sample.daemon_mb for sample in outcome.samples if sample.daemon_mb]
        outcome.daemon_mb_end = round(mb[-1], 1)
        outcome.longest_standstill_s = standstill_s(outcome.samples)
        self._query.kill()
        sunk = compared(drained(OUTPUT), outcome.published)
        outcome.sunk, outcome.sunk_lost, outcome.sunk_misnamed = sunk.messages, sunk.lost, sunk.misnamed
        outcome.sunk_duplicates = sunk.duplicates
        outcome.sunk_duplicates_after_dedupe = sunk.duplicates_after_dedupe
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

    def _unaccounted(self, name: str) -> int:
        return int(self._daemon.daemon.figures(name)["accounting"]["unaccounted"])

    def _remaining(self) -> int:
        return sum(int(self._faults.statistics(name)["remaining"]) for name in READ)

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
                remaining=self._remaining(),
                daemon_mb=self._daemon.anonymous_mb,
                sunk=self._faults.statistics(OUTPUT)["published"],
            )
        )
