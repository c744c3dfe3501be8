"""`kill -9` of a whole driver at the three places where its checkpoint and the daemon disagree the most.

The daemon itself kills it, before or after it acts on a call, so that the place is exact.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.client.daemon import Daemon

WAIT_S = 90.0


class Driver:
    """A process with a query, and the checkpoint and output that outlive it."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._arguments = [endpoint, str(folder / "checkpoint"), str(folder / "output")]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run, or run again."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.spark.killed_driver", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYSPARK_PYTHON": sys.executable},
            )

    def kill(self) -> None:
        """SIGKILL to it and everything it started: its JVM and their Python workers."""
        if self._process is None:
            return
        try:
            family = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(10)
        self._process = None

    @property
    def running(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def output(self) -> dict[int, list[str]]:
        """Batch → IDs, as the sink saw them. Fails if a batch came twice."""
        path = self._folder / "output"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        batches = {line["batch"]: line["ids"] for line in lines}
        assert len(batches) == len(lines), "a finished batch was given to the sink again"
        return batches

    def logged(self, kind: str) -> set[int]:
        """Entries of `offsets` or `commits`."""
        return {int(path.name) for path in (self._folder / "checkpoint" / kind).glob("[0-9]*")}

    def log(self) -> str:
        """What it said."""
        return (self._folder / "log").read_text()[-3000:]


class DeadlyDaemon(Daemon):
    """Kills the driver at a call: `before` it acts, or `after` it acted and before the reply leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.driver: Driver
        self.before: str | None = None
        self.after: str | None = None

    def start(self) -> None:
        """Serve, armed."""
        super().start()
        actions = self.flight._actions
        act = actions.call

        async def call(name: str, raw: bytes) -> bytes:
            if name == self.before:
                self.before = None
                self.driver.kill()
                return b"{}"
            reply = await act(name, raw)
            if name == self.after and (name != "seal" or json.loads(reply)["rows"]):
                self.after = None
                self.driver.kill()
            return reply

        actions.call = call  # type: ignore[method-assign]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DeadlyDaemon]:
    with DeadlyDaemon() as daemon:
        daemon.driver = Driver(daemon.endpoint, tmp_path)
        yield daemon
        daemon.driver.kill()


def until(condition: Callable[[], Any], driver: Driver) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, f"waited too long; the driver said: {driver.log()}"
        time.sleep(0.05)


@pytest.mark.timeout(480)
def test_a_driver_killed_at_any_place_goes_on_with_the_same_batches_and_loses_nothing(daemon: DeadlyDaemon) -> None:
    driver = daemon.driver
    driver.start()
    until(lambda: driver.logged("commits") == {0}, driver)
    first = daemon.publish(10)
    until(lambda: daemon.acknowledged() == first, driver)

    # Sealed, but no offset log knows of it: the same epoch is asked for again and is the same batch.
    daemon.after = "seal"
    second = daemon.publish(10)
    until(lambda: not driver.running, driver)
    assert 2 not in driver.logged("offsets")
    third = daemon.publish(10)
    driver.start()
    until(lambda: len(daemon.acknowledged()) == 30, driver)
    assert driver.output() == {1: first, 2: second, 3: third}

    # In the offset log, and not processed: the batch that the log names is planned again.
    daemon.after = "plan"
    fourth = daemon.publish(10)
    until(lambda: not driver.running, driver)
    assert 4 in driver.logged("offsets") - driver.logged("commits")
    fifth = daemon.publish(10)
    driver.start()
    until(lambda: len(daemon.acknowledged()) == 50, driver)
    assert driver.output() == {1: first, 2: second, 3: third, 4: fourth, 5: fifth}

    # In the commit log, and the daemon was not told: acknowledged, and not processed again.
    daemon.before = "commit"
    sixth = daemon.publish(10)
    until(lambda: not driver.running, driver)
    assert 6 in driver.logged("commits")
    assert len(daemon.acknowledged()) == 50
    driver.start()
    until(lambda: len(daemon.acknowledged()) == 60, driver)
    assert driver.output() == {1: first, 2: second, 3: third, 4: fourth, 5: fifth, 6: sixth}
    assert not daemon.service.released
