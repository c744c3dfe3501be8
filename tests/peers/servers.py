"""Pub/Sub servers as processes, counted in the same way, and Google's client beside them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import PublisherClient, PubsubMessage, ReceivedMessage, SubscriberClient
from tests import processes
from tests.processes import NAME, TOPIC, connects, free_port, until

from penstock.emulator import FaultClient


@dataclass(frozen=True)
class Counts:
    """What a server has seen of the subscription `NAME` so far, in messages; each delivery and each nack counts."""

    delivered: int
    acknowledged: int
    nacked: int


class Server(Protocol):
    """A Pub/Sub server that counts. Counts hold where `NAME` is the only subscription of its topic."""

    address: str

    def counts(self) -> Counts:
        """So far."""


class Pstest:
    """Google's fake, whose standard input and output are the line to what it has inside."""

    def __init__(self, binary: Path, stream_close_after_s: float) -> None:
        close_after = f"-stream-close-after={stream_close_after_s}s"
        self.process = subprocess.Popen([binary, close_after], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self._line().strip()

    def __enter__(self) -> Self:
        """End with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """It ends by itself when nobody can ask it any more."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            assert self.process.wait(20) == 0

    def counts(self) -> Counts:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        messages = json.loads(self._line()) or []  # Go's empty list is null
        nacks = [modack for message in messages for modack in message["Modacks"] or [] if not modack["AckDeadline"]]
        return Counts(
            delivered=sum(message["Deliveries"] for message in messages),
            acknowledged=sum(message["Acks"] for message in messages),
            nacked=len(nacks),
        )

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it ended"
        return line


class Embedded:
    """Penstock's own emulator. The process is the site's."""

    def __init__(self, folder: Path, stream_close_after_s: float) -> None:
        port, http_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._faults = FaultClient(f"127.0.0.1:{http_port}")
        self._site = processes.Site(folder, self.address)
        arguments = ["--port", str(port), "--http-port", str(http_port), "--faults"]
        if stream_close_after_s:
            arguments += ["--stream-close-after-s", str(stream_close_after_s)]
        self._site.penstock("emulator.log", "emulator", *arguments)
        until(lambda: connects(port) and connects(http_port), 30)

    def __enter__(self) -> Self:
        """End with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill it."""
        self._site.__exit__(*error)

    def counts(self) -> Counts:
        said = self._faults.statistics(NAME)
        return Counts(delivered=said["delivered"], acknowledged=said["acked"], nacked=said["nacked"])


@dataclass
class Peer(processes.Site):
    """A server, Google's clients on it, and daemons that are started and ended by the test."""

    server: Server
    publisher: PublisherClient
    subscriber: SubscriberClient

    def counts(self) -> Counts:
        return self.server.counts()

    def subscribe(self, name: str = NAME, **options: Any) -> None:
        self.subscriber.create_subscription(request={"name": name, "topic": TOPIC, **options})

    def publish(self, messages: Iterable[PubsubMessage]) -> list[str]:
        """The IDs that the server gave them."""
        return list(self.publisher.publish(topic=TOPIC, messages=list(messages)).message_ids)

    def publish_numbers(self, count: int) -> list[str]:
        return self.publish(PubsubMessage(data=b"%d" % number) for number in range(count))

    def pull(self, rows: int, *, within_s: float, name: str = NAME) -> list[ReceivedMessage]:
        """What Google's client gets and acknowledges until it has `rows` messages or the time is up."""
        got: list[ReceivedMessage] = []
        end = time.monotonic() + within_s
        while len(got) < rows and time.monotonic() < end:
            try:
                reply = self.subscriber.pull(subscription=name, max_messages=rows, timeout=2.0, retry=None)
            except DeadlineExceeded:  # a server may wait for the first message longer than we do
                continue
            if reply.received_messages:
                got += reply.received_messages
                ack_ids = [message.ack_id for message in reply.received_messages]
                self.subscriber.acknowledge(subscription=name, ack_ids=ack_ids)
        return got
