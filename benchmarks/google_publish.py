"""Google's Python client as the peer of `publish`: a future for each message, batches as large as the service takes.

Prints `begin` and `end` around what it measures.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from concurrent.futures import Future

from google.cloud import pubsub_v1

from benchmarks.children import say

WARM_UP_S = 1.0
AHEAD = 20_000
"""Messages that are not confirmed yet, at most: as many as the daemon's memory holds of 1 KB."""


def publish(topic: str, data_bytes: int, seconds: float) -> None:
    """Publish for `seconds`, after a warm-up; only what was confirmed counts."""
    batches = pubsub_v1.types.BatchSettings(max_messages=1000, max_bytes=9_500_000, max_latency=0.01)
    client = pubsub_v1.PublisherClient(batch_settings=batches)
    data = b"x" * data_bytes
    pending: deque[Future[str]] = deque()

    def run(for_s: float) -> tuple[int, float]:
        messages, start = 0, time.perf_counter()
        while time.perf_counter() - start < for_s:
            pending.append(client.publish(topic, data))
            messages += 1
            if len(pending) >= AHEAD:
                pending.popleft().result()
        while pending:
            pending.popleft().result()
        return messages, time.perf_counter() - start

    run(WARM_UP_S)
    say(begin=True)
    messages, took = run(seconds)
    say(end={"seconds": took, "messages": messages})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--data-bytes", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=5)
    chosen = parser.parse_args()
    publish(chosen.topic, chosen.data_bytes, chosen.seconds)
