"""Daemon processes beside a Pub/Sub server, as a user runs them: started, waited for, and ended by who started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION
from penstock.contract.actions import StatusReply, StatusRequest
from penstock.errors import NodeUnreachable

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
    """A Pub/Sub server at `pubsub` (`host:port`), and daemons on it that are started and ended by the test."""

    folder: Path
    pubsub: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list, kw_only=True)
    daemons: list[Daemon] = field(default_factory=list, kw_only=True)

    def __enter__(self) -> Self:
        """End with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Check the accounts of daemons that still run, and kill what does, the youngest first."""
        try:
            for daemon in self.daemons:
                daemon.check_accounts()
        finally:
            for process in reversed(self.processes):
                process.kill()
                process.wait()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PUBSUB_EMULATOR_HOST": self.pubsub}

    def penstock(self, log_name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of the command line, which ends with the block at the latest."""
        with (self.folder / log_name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *arguments], env=self.environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def serve(self, *arguments: str, port: int | None = None) -> Daemon:
        daemon = Daemon(self.folder, port or free_port(), free_port())
        self.daemons.append(daemon)
        daemon.process = self.penstock(
            daemon.log_name,
            *("serve", "--listen", f"grpc://127.0.0.1:{daemon.port}", "--http", f"127.0.0.1:{daemon.http_port}"),
            *("--subscription", "projects/p/subscriptions/*", *arguments),
        )
        until(lambda: connects(daemon.port) or daemon.process.poll() is not None, 30)
        assert daemon.process.poll() is None, daemon.log()
        return daemon


@dataclass
class Daemon:
    """One daemon process."""

    folder: Path
    port: int
    http_port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_name(self) -> str:
        return f"daemon-{self.port}.log"

    def log(self) -> str:
        return (self.folder / self.log_name).read_text()

    def figures(self, name: str = NAME) -> dict[str, Any]:
        with NodeClient(self.endpoint) as node:
            found: dict[str, Any] = node.call("status", StatusRequest(v=PROTOCOL_VERSION)).subscriptions.get(name, {})
        return found

    def check_accounts(self) -> None:
        """Every message that a living daemon ever took in is in exactly one place, whatever the test did to it."""
        if self.process.poll() is not None:
            return
        with NodeClient(self.endpoint) as node:
            try:
                reply: StatusReply = node.call("status", StatusRequest(v=PROTOCOL_VERSION))
            except NodeUnreachable:
                assert self.process.wait(10) is not None, "it runs and does not answer"
                return
        accounts = {name: figures["accounting"] for name, figures in reply.subscriptions.items()}
        assert not any(accounting["unaccounted"] for accounting in accounts.values()), accounts

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
