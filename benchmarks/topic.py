"""The embedded emulator as a process, and a topic in it that takes numbered messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
import numpy as np
import pyarrow as pa
from google.pubsub_v1.types import Subscription, Topic

from benchmarks.children import Child, Children, free_port
from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire

TOPIC = "projects/bench/topics/topic"
SUBSCRIPTION = "projects/bench/subscriptions/subscription"
PER_REQUEST = 1000
"""The service's limit (https://cloud.google.com/pubsub/quotas#resource_limits)."""

TIMEOUT_S = 60.0


class Publisher:
    """A blocking publisher on one channel, bytes to bytes."""

    def __init__(self, channel: grpc.Channel, topic_name: str = TOPIC) -> None:
        self._topic = topic_name
        self._publish = channel.unary_unary("/google.pubsub.v1.Publisher/Publish")

    def numbered(self, first: int, count: int, data_bytes: int) -> None:
        """Messages whose data begins with their number (8 bytes), four requests at a time."""
        pending: list[grpc.Future] = []
        for start in range(first, first + count, PER_REQUEST):
            rows = _numbered(start, min(PER_REQUEST, first + count - start), data_bytes)
            pending.append(self._publish.future(wire.encode_publish(self._topic, rows), timeout=TIMEOUT_S))
            if len(pending) == 4:
                pending.pop(0).result()
        for last in pending:
            last.result()

    def one(self, data: bytes) -> None:
        """One message, confirmed."""
        rows = pa.RecordBatch.from_pylist([{"data": data, "attributes": {}}], schema=ROWS_SCHEMA)
        self._publish(wire.encode_publish(self._topic, rows), timeout=TIMEOUT_S)


@contextlib.contextmanager
def topic(owned: Children) -> Iterator[tuple[Child, int, Publisher]]:
    """An emulator with `TOPIC` and `SUBSCRIPTION`: its process, its port, a publisher."""
    port = free_port()
    with owned.running("emulator", "penstock", "emulator", "--port", str(port)) as process:
        process.wait_listening(port)
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            subscription = Subscription.pb()(name=SUBSCRIPTION, topic=TOPIC, ack_deadline_seconds=60)
            for call, request in (
                ("Publisher/CreateTopic", Topic.pb()(name=TOPIC)),
                ("Subscriber/CreateSubscription", subscription),
            ):
                channel.unary_unary(f"/google.pubsub.v1.{call}")(request.SerializeToString(), timeout=TIMEOUT_S)
            yield process, port, Publisher(channel)


def numbers(data: pa.Array) -> np.ndarray:
    """The numbers of such messages, from their data column."""
    offsets = np.frombuffer(data.buffers()[1], np.int32, len(data) + 1, data.offset * 4)
    octets = np.frombuffer(data.buffers()[2], np.uint8)
    found: np.ndarray = octets[offsets[:-1, None] + np.arange(8)].copy().view(">u8").ravel()
    return found


def _numbered(first: int, count: int, data_bytes: int) -> pa.RecordBatch:
    octets = np.zeros((count, data_bytes), np.uint8)
    octets[:, :8] = np.arange(first, first + count, dtype=">u8").view(np.uint8).reshape(count, 8)
    offsets = np.arange(0, (count + 1) * data_bytes, data_bytes, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(octets)]
    empty = np.zeros(count + 1, np.int32)
    none = pa.array([], pa.string())
    columns = {
        "data": pa.Array.from_buffers(pa.binary(), count, buffers),
        "attributes": pa.MapArray.from_arrays(pa.array(empty), none, none),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in ROWS_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS_SCHEMA)
