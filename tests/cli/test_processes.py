"""The commands as processes, against each other: emulator, daemon, tail, status, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient

TOPIC = "projects/p/topics/orders"
NAME = "projects/p/subscriptions/orders"
WAIT_S = 60.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {WAIT_S:g} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A `penstock` command and what it wrote."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.log = folder / f"{arguments[0]}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    def text(self) -> str:
        return self.log.read_text()

    def says(self, words: str) -> bool:
        assert self.process.poll() is None, self.text()
        return words in self.text()

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@pytest.fixture(scope="module")
def emulator_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = Running(tmp_path_factory.mktemp("emulator"), "emulator", "--port", "0")
    try:
        wait_for(lambda: running.says("PUBSUB_EMULATOR_HOST="), "the emulator's start")
        found = re.search(r"PUBSUB_EMULATOR_HOST=(\S+)", running.text())
        assert found
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PUBSUB_EMULATOR_HOST", found[1])
            yield found[1]
    finally:
        assert running.end() == 0


@pytest.fixture(scope="module")
def publish(emulator_host: str) -> Iterator[Callable[[list[bytes]], None]]:
    with PublisherClient() as publisher, SubscriberClient() as subscriber:
        publisher.create_topic(name=TOPIC)
        subscriber.create_subscription(name=NAME, topic=TOPIC, ack_deadline_seconds=60)

        def publish(data: list[bytes]) -> None:
            publisher.publish(topic=TOPIC, messages=[PubsubMessage(data=one) for one in data])

        yield publish


class Daemon(Running):
    """`penstock serve` on free ports."""

    def __init__(self, folder: Path, emulator_host: str, *arguments: str) -> None:
        self.endpoint, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        addresses = ("--listen", f"grpc://{self.endpoint}", "--http", self.http)
        super().__init__(folder, "serve", *addresses, *arguments, PUBSUB_EMULATOR_HOST=emulator_host)

    def get(self, path: str) -> int:
        with suppress(OSError), urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as reply:
            code: int = reply.status
            return code
        return 0

    def ready(self) -> bool:
        assert self.process.poll() is None, self.text()
        return self.get("/readyz") == 200


@pytest.fixture
def daemon(tmp_path: Path, emulator_host: str) -> Iterator[Daemon]:
    arguments: tuple[str, ...] = (
        "--subscription",
        "projects/p/subscriptions/*",
        "--drain-timeout-s",
        "1",
        "--log-format",
        "json",
    )
    # What was on its way to a reader that left comes again at the deadline: soon, here.
    arguments += ("--set", "pubsub.ack_deadline_s=10")
    running = Daemon(tmp_path, emulator_host, *arguments)
    try:
        wait_for(running.ready, "readiness")
        yield running
    finally:
        running.end(signal.SIGKILL)


def penstock(*arguments: str, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
    )


def test_tail_leaves_messages_on_the_subscription_unless_it_acknowledges(
    daemon: Daemon, publish: Callable[[list[bytes]], None]
) -> None:
    publish([b"one", b"two", b"\xff"])
    looked = penstock("tail", NAME, "--daemon", daemon.endpoint, "--limit", "3")
    assert looked.returncode == 0, looked.stderr
    lines = [json.loads(line) for line in looked.stdout.splitlines()]
    assert sorted(line.get("data", line.get("data_base64")) for line in lines) == ["/w==", "one", "two"]
    taken = penstock("tail", NAME, "--daemon", daemon.endpoint, "--limit", "3", "--ack")
    assert len(taken.stdout.splitlines()) == 3
    left = penstock("tail", NAME, "--daemon", daemon.endpoint, "--wait-s", "1.5")
    assert (left.returncode, left.stdout) == (0, "")
    status = json.loads(penstock("status", "--daemon", daemon.endpoint, "--json").stdout)
    assert status["subscriptions"][NAME]["acknowledged"] == 3


def test_tail_acknowledges_all_that_it_printed_and_no_more(
    daemon: Daemon, publish: Callable[[list[bytes]], None]
) -> None:
    publish([b"%d" % number for number in range(1000)])
    publish([b"%d" % number for number in range(1000, 1300)])
    taken = penstock("tail", NAME, "--daemon", daemon.endpoint, "--limit", "1200", "--ack")
    assert len(taken.stdout.splitlines()) == 1200, taken.stderr
    left = penstock("tail", NAME, "--daemon", daemon.endpoint, "--wait-s", "1.5", "--ack")
    assert len(left.stdout.splitlines()) == 100, left.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_tail_that_is_told_to_end_gives_messages_back(
    daemon: Daemon, publish: Callable[[list[bytes]], None], tmp_path: Path, number: int, code: int
) -> None:
    publish([b"seen"])
    tailing = Running(tmp_path, "tail", NAME, "--daemon", daemon.endpoint)
    wait_for(lambda: tailing.says("seen"), "the message")
    assert tailing.end(number) == code
    assert "Traceback" not in tailing.text()
    again = penstock("tail", NAME, "--daemon", daemon.endpoint, "--limit", "1", "--ack")
    assert "seen" in again.stdout


def test_a_subscription_that_is_not_allowed_names_the_flag(daemon: Daemon) -> None:
    refused = penstock("tail", "projects/other/subscriptions/orders", "--daemon", daemon.endpoint)
    assert refused.returncode == 2
    assert "--subscription projects/other/subscriptions/orders" in refused.stderr


def test_a_missing_subscription_is_told_in_googles_words(daemon: Daemon) -> None:
    missing = penstock("tail", "projects/p/subscriptions/missing", "--daemon", daemon.endpoint)
    assert missing.returncode == 1
    assert "NOT_FOUND" in missing.stderr or "not found" in missing.stderr.lower()
    assert "Traceback" not in missing.stderr


def test_sigterm_drains_and_ends_with_0(daemon: Daemon) -> None:
    assert daemon.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in daemon.text().splitlines()]
    assert [line["event"] for line in lines] == ["serving", "draining", "drained"]


def test_a_second_daemon_on_the_same_address_says_so(daemon: Daemon) -> None:
    for flags in (
        ("--listen", f"grpc://{daemon.endpoint}", "--http", "127.0.0.1:0"),
        ("--listen", "grpc://127.0.0.1:0", "--http", daemon.http),
    ):
        second = penstock("serve", *flags)
        assert second.returncode in {1, 2}, second.stderr
        assert (daemon.endpoint if daemon.endpoint in flags[1] else daemon.http) in second.stderr
        assert "Traceback" not in second.stderr


def test_a_taken_port_of_the_emulator_says_so(emulator_host: str) -> None:
    second = penstock("emulator", "--port", emulator_host.rpartition(":")[2])
    assert second.returncode == 1
    assert emulator_host in second.stderr
    assert "Traceback" not in second.stderr
