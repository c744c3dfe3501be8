"""One soak: messages held sealed and unsealed beside a load that comes in and is committed, then a pause.

Two subscriptions of one daemon. `orders`: one consumer holds half of the messages sealed, and another one takes and
commits the load. `waiting`: the other half is buffered and nobody seals it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from benchmarks.topic import TIMEOUT_S, Publisher
from google.pubsub_v1 import PublisherClient, SubscriberClient
from tests.processes import Daemon, Site, connects, free_port, until
from tests.soak.holder import Holder, Seen
from tests.soak.load import Load

from penstock.emulator import FaultClient

ORDERS, WAITING = "orders", "waiting"
SMALL_BYTES = 8
"""Of a held message: its number and nothing else, so that many fit."""

LIMIT_BYTES_PER_HELD = 2048
"""What the daemon may have for each: a seal takes a sixth of it here, and ack IDs are 188 characters."""

SAMPLE_S = 1.0
HEARTBEAT_S = 10.0
FILL_S = 180.0
END_S = 180.0
"""For what is held to come in, and for all of it to be acknowledged at the end, on a busy machine."""

AFTER_PAUSE = 0.3
"""The part of the run that follows the pause."""


@dataclass(frozen=True)
class Setup:
    """What runs. `deadline_s` is what the daemon asks for each message; `pause_s` 0: no pause."""

    minutes: float = 5.0
    held: int = 2_000_000
    deadline_s: int = 10
    load_bytes: int = 4096
    pause_s: float = 20.0


@dataclass
class Outcome:
    """What `--json` prints. Counts of messages, unless the name says otherwise."""

    minutes: float
    held: int
    deadline_s: int
    held_sealed: int = 0
    held_unsealed: int = 0
    in_mb_per_s: float = 0.0
    committed_per_s: float = 0.0
    modacks_per_s: float = 0.0
    redelivered: int = 0
    """Before the pause; no fault was injected, so any is a lease that was not kept."""
    pauses: int = 0
    """That the daemon noticed after it was stopped."""
    lapsed: int = 0
    """Unsealed messages dropped since the pause."""
    delivered_twice: int = 0
    lost: int = 0
    remaining: int = 0
    unaccounted: int = 0
    rss_anon_mb: float = 0.0
    """The most."""
    daemon_cores: float = 0.0
    emulator_cores: float = 0.0
    left_processes: int = 0
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def broken(self) -> list[str]:
        """The promises that did not hold."""
        nothing = ("redelivered", "delivered_twice", "lost", "remaining", "unaccounted", "left_processes", "failures")
        return [name for name in nothing if getattr(self, name)]


class Soak:
    """A run. `say` gets a line now and then."""

    def __init__(self, setup: Setup, folder: Path, say: Callable[[str], None]) -> None:
        self.setup = setup
        self.folder = folder
        self.outcome = Outcome(setup.minutes, setup.held, setup.deadline_s)
        self._say = say
        self._orders, self._waited = Seen(), Seen()

    def run(self) -> Outcome:
        """Everything, from the first process to the last; raises if something does not come to its end in time."""
        port, http_port = free_port(), free_port()
        self._faults = FaultClient(f"127.0.0.1:{http_port}")
        with contextlib.ExitStack() as stack:
            site = stack.enter_context(Site(self.folder, f"127.0.0.1:{port}"))
            self._emulator = site.penstock(
                "emulator.log", "emulator", "--port", str(port), "--http-port", str(http_port), "--faults"
            )
            until(lambda: connects(port) and connects(http_port), 30)
            orders, waiting = stack.enter_context(_publishers(port))
            self._daemon = site.serve(
                *("--memory-limit-mb", str(max(256, self.setup.held * LIMIT_BYTES_PER_HELD >> 20))),
                *("--set", f"pubsub.ack_deadline_s={self.setup.deadline_s}", "--drain-timeout-s", "0"),
            )
            self._holders = {name: Holder(self._daemon.endpoint, _subscription(name)) for name in (ORDERS, WAITING)}
            reader = Holder(self._daemon.endpoint, _subscription(ORDERS))
            for holder in (reader, *self._holders.values()):
                stack.callback(holder.close)
            self._fill(orders, waiting)
            reader.open()
            load = Load(orders, reader, self._orders, first=self.setup.held // 2, data_bytes=self.setup.load_bytes)
            with load:
                self._soak(load)
                load.stop_publishing()
                self._end(load)
            self.outcome.failures = [repr(failure) for failure in load.failures]
            self._account(load)
            processes = site.processes
        self.outcome.left_processes = sum(process.poll() is None for process in processes)
        return self.outcome

    # --- the run ------------------------------------------------------------------------------------------------

    def _fill(self, orders: Publisher, waiting: Publisher) -> None:
        half = self.setup.held // 2
        for name, publisher in ((ORDERS, orders), (WAITING, waiting)):
            self._holders[name].open()
            publisher.numbered(0, half, SMALL_BYTES)
            until(lambda name=name: self._figures(name)["buffered"] >= half, FILL_S)  # type: ignore[misc]
        self.outcome.held_sealed = self._holders[ORDERS].seal()
        self.outcome.held_unsealed = int(self._figures(WAITING)["buffered"])
        self._say(f"held: {self.outcome.held_sealed:,} sealed, {self.outcome.held_unsealed:,} unsealed")

    def _soak(self, load: Load) -> None:
        seconds = self.setup.minutes * 60
        pause_at = seconds * (1 - AFTER_PAUSE) if self.setup.pause_s else seconds
        self._watch(load, pause_at)
        if self.setup.pause_s:
            self._pause()
            self._watch(load, seconds - pause_at, settled=False)

    def _watch(self, load: Load, seconds: float, *, settled: bool = True) -> None:
        """Keep contact and look; `settled`: the figures are those that the soak is about."""
        start, beat = time.monotonic(), 0.0
        before, cpu = self._counts(load), self._cpu_s()
        while (now := time.monotonic()) < start + seconds and not load.failures:
            if now - beat > HEARTBEAT_S:
                beat = now
                for holder in self._holders.values():
                    holder.alive()
                self._say(f"{now - start:6.0f} s  {self._counts(load)}")
            self.outcome.rss_anon_mb = max(self.outcome.rss_anon_mb, round(_anonymous_mb(self._daemon), 1))
            time.sleep(SAMPLE_S)
        if not settled:
            return
        took, after = time.monotonic() - start, self._counts(load)
        rates = {name: (after[name] - before[name]) / took for name in after}
        outcome = self.outcome
        outcome.in_mb_per_s = round(rates["taken"] * self.setup.load_bytes / 1e6, 1)
        outcome.committed_per_s, outcome.modacks_per_s = round(rates["taken"]), round(rates["extended"])
        outcome.redelivered = int(after["redelivered"])
        used = [(late - early) / took for early, late in zip(cpu, self._cpu_s(), strict=True)]
        outcome.daemon_cores, outcome.emulator_cores = (round(cores, 2) for cores in used)

    def _pause(self) -> None:
        """Stop the daemon, let it go on, and wait until it has noticed."""
        before = _metric(self._daemon, "penstock_pauses_total")
        self._daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(self.setup.pause_s)
        self._daemon.process.send_signal(signal.SIGCONT)
        until(lambda: _metric(self._daemon, "penstock_pauses_total") > before, 30)
        self.outcome.pauses = int(_metric(self._daemon, "penstock_pauses_total") - before)
        self.outcome.lapsed = sum(self._figures(name)["lapsed"] for name in (ORDERS, WAITING))
        self._say(f"paused for {self.setup.pause_s:g} s: {self.outcome.lapsed:,} lapsed unsealed")

    def _end(self, load: Load) -> None:
        """Hand out all that is held, and let every message come to its end."""
        self._holders[ORDERS].finish(self._orders)
        end = time.monotonic() + END_S
        waiting = self._holders[WAITING]
        while time.monotonic() < end and not load.failures and any(self._remaining().values()):
            if waiting.batch or waiting.seal():
                waiting.finish(self._waited)
            else:
                waiting.wait_rows(0.5)

    def _account(self, load: Load) -> None:
        outcome = self.outcome
        outcome.delivered_twice = self._orders.twice + self._waited.twice
        outcome.lost = self._orders.lost(load.published) + self._waited.lost(self.setup.held // 2)
        outcome.remaining = sum(self._remaining().values())
        outcome.lapsed = sum(self._figures(name)["lapsed"] for name in (ORDERS, WAITING))
        outcome.unaccounted = sum(self._figures(name)["accounting"]["unaccounted"] for name in (ORDERS, WAITING))

    # --- looking ------------------------------------------------------------------------------------------------

    def _counts(self, load: Load) -> dict[str, float]:
        statistics = [self._faults.statistics(_subscription(name)) for name in (ORDERS, WAITING)]
        sums = {name: sum(one[name] for one in statistics) for name in ("extended", "redelivered", "outstanding")}
        return {"taken": load.taken, "batches": load.batches, **sums}

    def _remaining(self) -> dict[str, int]:
        return {name: self._faults.statistics(_subscription(name))["remaining"] for name in (ORDERS, WAITING)}

    def _figures(self, name: str) -> dict[str, Any]:
        return self._daemon.figures(_subscription(name))

    def _cpu_s(self) -> tuple[float, float]:
        return _cpu_s(self._daemon.process.pid), _cpu_s(self._emulator.pid)


def _subscription(name: str) -> str:
    return f"projects/p/subscriptions/{name}"


@contextlib.contextmanager
def _publishers(port: int) -> Iterator[tuple[Publisher, Publisher]]:
    """A topic and a subscription of each name, and who publishes there."""
    os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{port}"
    names = [f"projects/p/topics/{name}" for name in (ORDERS, WAITING)]
    for name, topic in zip((ORDERS, WAITING), names, strict=True):
        PublisherClient().create_topic(name=topic, timeout=TIMEOUT_S)
        SubscriberClient().create_subscription(name=_subscription(name), topic=topic, ack_deadline_seconds=10)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]) as channel:
        orders, waiting = (Publisher(channel, topic) for topic in names)
        yield orders, waiting


def _anonymous_mb(daemon: Daemon) -> float:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024


def _cpu_s(process: int) -> float:
    """User and system seconds so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _metric(daemon: Daemon, name: str) -> float:
    found = [line for line in daemon.http("/metrics")[1].splitlines() if line.startswith(name + " ")]
    return sum(float(line.split()[1]) for line in found)
