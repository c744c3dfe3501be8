"""The whole product in one command, as a stranger starts it: its figures add up, and it leaves nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from google.pubsub_v1.types import Topic

from penstock.demo.interrupts import Interrupts
from penstock.demo.processes import DemoFailed
from penstock.demo.publisher import publish, request_sizes
from penstock.demo.tally import Group, Tally
from penstock.emulator import Emulator
from penstock.pubsub import PubSubChannel
from penstock.settings import PubSubSettings

KEYS = {
    "published",
    "received",
    "processed",
    "acknowledged",
    "redelivered",
    "remaining",
    "seconds",
    "messages_per_s",
    "mb_per_s",
}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def publishing(process: subprocess.Popen[str]) -> bool:
    for one in children(process):
        with contextlib.suppress(psutil.Error):
            if "penstock.demo.publisher" in one.cmdline():
                return True
    return False


@pytest.mark.timeout(300)
def test_every_message_published_is_processed_and_acknowledged(tmp_path: Path) -> None:
    demo = start(tmp_path, "--messages", "20000", "--json")
    out, err = demo.communicate(timeout=280)
    assert demo.returncode == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert set(figures) >= KEYS
    assert figures["published"] == figures["processed"] == figures["acknowledged"] == 20_000
    assert figures["received"] >= 20_000
    assert figures["remaining"] == 0
    assert figures["messages_per_s"] > 0


@pytest.mark.timeout(200)
def test_ctrl_c_ends_every_child(tmp_path: Path) -> None:
    demo = start(tmp_path, "--messages", "10000000")
    deadline = time.monotonic() + 120
    while not publishing(demo):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = children(demo)
    os.kill(demo.pid, signal.SIGINT)
    _, err = demo.communicate(timeout=100)
    assert demo.returncode == 130, err
    gone = time.monotonic() + 20
    while alive(family) and time.monotonic() < gone:
        time.sleep(0.1)
    assert alive(family) == []
    assert not list(tmp_path.glob("penstock-demo-*"))


async def test_large_messages_are_published_in_requests_that_the_service_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Emulator() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.address)
        async with PubSubChannel(PubSubSettings()) as channel:
            await channel.unary("Publisher", "CreateTopic")(Topic.serialize(Topic(name="projects/p/topics/large")))
        for messages, data_bytes in ((600, 20_000), (1, 9_000_000)):
            figures = await publish("projects/p/topics/large", messages, data_bytes, None)
            assert figures["published"] == messages


@pytest.mark.parametrize(
    ("rate", "sizes"),
    [(None, [1000, 1000, 500]), (1e6, [1000, 1000, 500]), (1e4, [1000, 1000, 500]), (0.01, [1] * 2500)],
)
def test_a_rate_is_kept_in_small_steps(rate: float | None, sizes: list[int]) -> None:
    assert list(request_sizes(2500, 100, rate)) == sizes


def swallowing() -> None:
    with Interrupts() as interrupts:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        raise DemoFailed("the Spark query ended: a job was cancelled")


def test_a_ctrl_c_that_a_library_swallows_is_not_forgotten() -> None:
    with pytest.raises(KeyboardInterrupt):
        swallowing()


def test_a_batch_that_runs_again_counts_once() -> None:
    tally = Tally()
    for _ in range(2):
        tally.record(3, [Group("Oulu", 100, 7, 70), Group("Lima", 101, 3, 30)], 1.5)
    tally.record(4, [], 2.0)
    assert tally.messages == 10
    assert tally.batches == 1
    assert tally.by_city()[1] == {"Oulu": 70, "Lima": 30}
    assert tally.latency_s(0.5) == pytest.approx(0.5)
    assert tally.latency_s(0.99) == pytest.approx(0.5)
