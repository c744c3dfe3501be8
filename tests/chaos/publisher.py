"""Publishes numbered messages at a rate until told to stop, and knows which the service confirmed."""

from __future__ import annotations

import threading
import time
from typing import Self

from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import PublisherClient, PubsubMessage

EVERY_S = 0.1


class Publisher:
    """A thread; `confirmed` messages have the numbers from 0 on."""

    def __init__(self, topic: str, per_second: int) -> None:
        self.confirmed = 0
        self._topic = topic
        self._each = max(1, round(per_second * EVERY_S))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher")

    def __enter__(self) -> Self:
        """Publish."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Publish no more; `confirmed` is final."""
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        client = PublisherClient()
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += EVERY_S
            numbers = range(self.confirmed, self.confirmed + self._each)
            messages = [PubsubMessage(data=b"%d" % number) for number in numbers]
            try:
                client.publish(topic=self._topic, messages=messages, timeout=10)
            except GoogleAPICallError as error:  # no fault goes to the publisher: it must not stop without a word
                raise RuntimeError(f"the publisher failed at {self.confirmed}") from error
            self.confirmed += self._each
