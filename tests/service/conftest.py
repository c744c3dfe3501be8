"""A real daemon process beside an emulator process, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient
from tests import processes
from tests.processes import NAME, TOPIC, Daemon, connects, free_port, until

from penstock.emulator import FaultClient

__all__ = ["NAME", "TOPIC", "Daemon", "Site", "connects", "emulated", "free_port", "payload", "site", "until"]


@dataclass
class Site(processes.Site):
    """An emulator, and daemons that are started and ended by the test."""

    faults: FaultClient

    def publish(self, count: int, *, data_bytes: int = 20) -> None:
        client = PublisherClient()
        for start in range(0, count, 1000):
            rows = [PubsubMessage(data=b"%d" % n + b"x" * data_bytes) for n in range(start, min(start + 1000, count))]
            client.publish(topic=TOPIC, messages=rows)

    def statistics(self) -> dict[str, Any]:
        return self.faults.statistics(NAME)


@contextmanager
def emulated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An emulator with a topic and a subscription, which Google's clients find."""
    port, http_port = free_port(), free_port()
    with Site(folder, f"127.0.0.1:{port}", FaultClient(f"127.0.0.1:{http_port}")) as site:
        site.penstock("emulator.log", "emulator", "--port", str(port), "--http-port", str(http_port), "--faults")
        until(lambda: connects(port) and connects(http_port), 30)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", site.pubsub)
        PublisherClient().create_topic(name=TOPIC)
        SubscriberClient().create_subscription(name=NAME, topic=TOPIC, ack_deadline_seconds=10)
        yield site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with emulated(tmp_path, monkeypatch) as site:
        yield site


def payload(said: str) -> Any:
    return json.loads(said)
