"""Google's Python client as the peer of `ingest`, as its documentation says: a callback that acknowledges each message.

Flow control at 100,000 messages and 1 GiB, so that it never waits for acks. Prints `begin` and `end` around what it
measures.
"""

from __future__ import annotations

import argparse
import os
import time

from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message

from benchmarks.children import say

WARM_UP_S = 2.0
"""Its threads take a moment to start."""


def receive(subscription: str, seconds: float) -> None:
    """Count and acknowledge for `seconds`, after a warm-up."""
    messages = 0

    def callback(message: Message) -> None:
        nonlocal messages
        messages += 1
        message.ack()

    limits = pubsub_v1.types.FlowControl(max_messages=100_000, max_bytes=1 << 30)
    pubsub_v1.SubscriberClient().subscribe(subscription, callback, flow_control=limits)
    while not messages:
        time.sleep(0.01)
    time.sleep(WARM_UP_S)
    say(begin=True)
    before, start = messages, time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - start
    say(end={"seconds": took, "messages": messages - before})
    # Its shutdown waits for the callbacks of all that is queued.
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscription", required=True)
    parser.add_argument("--seconds", type=float, default=5)
    chosen = parser.parse_args()
    receive(chosen.subscription, chosen.seconds)
