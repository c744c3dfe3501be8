"""A real daemon process beside an emulator process, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import StatusRequest
from penstock.emulator import FaultClient

TOPIC = "projects/p/topics/orders"
NAME = "projects/p/subscriptions/orders"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(holds: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait for a condition; what it answered."""
    end = time.monotonic() + timeout_s
    while not (answer := holds()):
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.02)
    return answer


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass
class Site:
    """An emulator, and daemons that are started and ended by the test."""

    folder: Path
    emulator_port: int
    faults: FaultClient
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self.emulator_port}"}

    def serve(self, *arguments: str, port: int | None = None) -> Daemon:
        daemon = Daemon(self, port or free_port(), free_port())
        with (self.folder / f"daemon-{daemon.port}.log").open("ab") as log:
            daemon.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "penstock", "serve"),
                    *("--listen", f"grpc://127.0.0.1:{daemon.port}", "--http", f"127.0.0.1:{daemon.http_port}"),
                    *("--subscription", "projects/p/subscriptions/*", *arguments),
                ],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(daemon.process)
        until(lambda: connects(daemon.port) or daemon.process.poll() is not None, 30)
        assert daemon.process.poll() is None, daemon.log()
        return daemon

    def publish(self, count: int, *, data_bytes: int = 20) -> None:
        client = PublisherClient()
        for start in range(0, count, 1000):
            rows = [PubsubMessage(data=b"%d" % n + b"x" * data_bytes) for n in range(start, min(start + 1000, count))]
            client.publish(topic=TOPIC, messages=rows)

    def statistics(self) -> dict[str, Any]:
        return self.faults.statistics(NAME)


@dataclass
class Daemon:
    """One daemon process."""

    site: Site
    port: int
    http_port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.site.folder / f"daemon-{self.port}.log").read_text()

    def figures(self) -> dict[str, Any]:
        with NodeClient(self.endpoint) as node:
            found: dict[str, Any] = node.call("status", StatusRequest(v=PROTOCOL_VERSION)).subscriptions.get(NAME, {})
        return found

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 40) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    port, http_port = free_port(), free_port()
    ports = ["--port", str(port), "--http-port", str(http_port), "--faults"]
    with (tmp_path / "emulator.log").open("wb") as log:
        emulator = subprocess.Popen([sys.executable, "-m", "penstock", "emulator", *ports], stdout=log, stderr=log)
    site = Site(tmp_path, port, FaultClient(f"127.0.0.1:{http_port}"), [emulator])
    try:
        until(lambda: connects(port) and connects(http_port), 30)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
        PublisherClient().create_topic(name=TOPIC)
        SubscriberClient().create_subscription(name=NAME, topic=TOPIC, ack_deadline_seconds=10)
        yield site
    finally:
        for process in reversed(site.processes):
            process.kill()
            process.wait()


def payload(said: str) -> Any:
    return json.loads(said)
