"""kill -9 of the whole driver at the three places where it matters: nothing is lost, batches keep their content."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from tests.client.daemon import Daemon
from tests.spark import query_process
from tests.spark.running import Sink, log, reading, running, until

pytestmark = pytest.mark.timeout(300)  # each starts a second Spark

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def start(daemon: Daemon, checkpoint: str, out: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def starting() -> subprocess.Popen[bytes]:
        arguments = [sys.executable, query_process.__file__, daemon.endpoint, checkpoint, str(out)]
        with (tmp_path / "driver.log").open("wb") as output:
            started.append(subprocess.Popen(arguments, start_new_session=True, stdout=output, stderr=subprocess.STDOUT))
        return started[-1]

    yield starting
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """The driver, its JVM and its Python workers, all at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def first_batch_done(process: subprocess.Popen[bytes], checkpoint: str) -> bool:
    assert process.poll() is None, "the driver ended by itself; see driver.log"
    return 0 in log(checkpoint, "commits")


def sealed_rows(action: str, reply: bytes) -> bool:
    return action == "seal" and "batch" in json.loads(reply)


def resumed(spark: SparkSession, daemon: Daemon, checkpoint: str, sent: list[str]) -> dict[int, list[str]]:
    """Go on in this process until everything is acknowledged; the batches that were run again or anew."""
    sink = Sink()
    with running(reading(spark, daemon), checkpoint, sink) as query:
        until(lambda: sorted(daemon.acknowledged()) == sorted(sent), query)
    assert len(daemon.acknowledged()) == len(sent)
    assert not daemon.service.released
    return sink.batches


def test_killed_between_seal_and_offset_log(
    spark: SparkSession, daemon: Daemon, checkpoint: str, out: Path, start: Start
) -> None:
    process = start()
    until(lambda: first_batch_done(process, checkpoint))
    daemon.before_reply = lambda action, reply: kill(process) if sealed_rows(action, reply) else None
    sent = daemon.publish(30)
    until(lambda: process.poll() is not None)
    assert max(log(checkpoint, "offsets")) == 0
    assert not daemon.acknowledged()
    sent += daemon.publish(30)
    batches = resumed(spark, daemon, checkpoint, sent)
    assert batches[1] == sent[:30]


def test_killed_after_the_offset_log(
    spark: SparkSession, daemon: Daemon, checkpoint: str, out: Path, start: Start
) -> None:
    process = start()
    until(lambda: first_batch_done(process, checkpoint))
    daemon.before_call = lambda action: kill(process) if action == "plan" else None
    sent = daemon.publish(30)
    until(lambda: process.poll() is not None)
    assert 1 in log(checkpoint, "offsets")
    assert 1 not in log(checkpoint, "commits")
    daemon.before_call = lambda action: None
    sent += daemon.publish(30)
    batches = resumed(spark, daemon, checkpoint, sent)
    assert batches[1] == sent[:30]


def test_killed_after_the_commit_log(
    spark: SparkSession, daemon: Daemon, checkpoint: str, out: Path, start: Start
) -> None:
    process = start()
    until(lambda: first_batch_done(process, checkpoint))
    daemon.before_call = lambda action: _kill_and_refuse(process) if action == "commit" else None
    sent = daemon.publish(30)
    until(lambda: process.poll() is not None)
    assert 1 in log(checkpoint, "commits")
    assert not daemon.acknowledged()
    daemon.before_call = lambda action: None
    assert json.loads((out / "1.json").read_text()) == sent
    more = daemon.publish(30)
    batches = resumed(spark, daemon, checkpoint, sent + more)
    assert [message for ids in batches.values() for message in ids] == more


def _kill_and_refuse(process: subprocess.Popen[bytes]) -> None:
    kill(process)
    raise ConnectionError("the caller is dead, so its commit never came")
