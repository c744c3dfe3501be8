"""Publishes sensor readings as fast as the server takes them, or at a rate: `python -m penstock.demo.publisher`.

The last line of its output is JSON: `{"published", "bytes", "seconds"}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import uvloop

from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import PubSubChannel, wire
from penstock.settings import PubSubSettings

CITIES = ("Bergen", "Kyoto", "Lagos", "Lima", "Oulu", "Perth", "Quito", "Turin")
PER_REQUEST, REQUEST_BYTES = 1000, 9_500_000
"""The service's limits, 10 MB with what is around the data (https://cloud.google.com/pubsub/quotas#resource_limits)."""

BESIDE_DATA_BYTES = 64
"""Of each message, encoded: its attribute, and the lengths of all."""

PACE_S = 0.1
"""With a rate, a request has the messages of this time: what is asked for per second should not come in lumps."""

IN_FLIGHT = 4


def readings(messages: int, data_bytes: int) -> pa.RecordBatch:
    """Messages with random data and a city, made without a Python object for each."""
    rng = np.random.default_rng()
    octets = pa.py_buffer(rng.integers(0, 256, messages * data_bytes, np.uint8))
    offsets = pa.py_buffer(np.arange(0, (messages + 1) * data_bytes, data_bytes, dtype=np.int32))
    cities = pa.DictionaryArray.from_arrays(rng.integers(0, len(CITIES), messages, np.int32), pa.array(CITIES))
    keys = pa.DictionaryArray.from_arrays(np.zeros(messages, np.int32), pa.array(["city"]))
    columns = {
        "data": pa.Array.from_buffers(pa.binary(), messages, [None, offsets, octets]),
        "attributes": pa.MapArray.from_arrays(
            pa.array(np.arange(messages + 1, dtype=np.int32)), keys.dictionary_decode(), cities.dictionary_decode()
        ),
    }
    arrays = [columns.get(field.name, pa.nulls(messages, field.type)) for field in ROWS_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS_SCHEMA)


def request_sizes(messages: int, data_bytes: int, rate: float | None) -> Iterator[int]:
    """Messages of each request."""
    most = min(PER_REQUEST, REQUEST_BYTES // (data_bytes + BESIDE_DATA_BYTES))
    if rate is not None:
        most = min(most, math.ceil(min(rate * PACE_S, most)))
    for start in range(0, messages, most):
        yield min(most, messages - start)


async def publish(topic: str, messages: int, data_bytes: int, rate: float | None) -> dict[str, float]:
    """Publish and wait for every confirmation; the figures."""
    begun = published = 0
    start = time.monotonic()
    sizes = request_sizes(messages, data_bytes, rate)

    async with PubSubChannel(PubSubSettings()) as channel:
        call = channel.unary("Publisher", "Publish")

        async def work() -> None:
            nonlocal begun, published
            for size in sizes:
                due = start + begun / rate if rate else start
                begun += size
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await call(wire.encode_publish(topic, readings(size, data_bytes)), timeout=60)
                published += size

        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(work())
    return {"published": published, "bytes": published * data_bytes, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--data-bytes", type=int, default=1024)
    parser.add_argument("--rate", type=float)
    asked = parser.parse_args()
    figures = uvloop.run(publish(asked.topic, asked.messages, asked.data_bytes, asked.rate))
    print(json.dumps(figures), flush=True)  # noqa: T201 - its result
