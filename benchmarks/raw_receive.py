"""The bare gRPC peer of `ingest`: receives StreamingPull responses and does nothing with them.

The same library, event loop, channel options and process count as the daemon's pull stream; what the daemon does on top
(decode, reservoir, leases, acks) is the difference. Prints `begin` and `end` around what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import grpc.aio
import uvloop

from benchmarks.children import say
from benchmarks.messages import Shape
from penstock.pubsub import wire
from penstock.pubsub.channel import _OPTIONS as OPTIONS

WARM_UP_S = 1.0


async def receive(port: int, shape: Shape, seconds: float, streams: int) -> None:
    """Read `streams` pull streams of one channel for `seconds`, after a warm-up."""
    counts = [0, 0]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        first = wire.first_pull_request(shape.subscription, ack_deadline_s=60, client_id="raw", max_outstanding_bytes=0)

        async def read() -> None:
            call = channel.stream_stream("/google.pubsub.v1.Subscriber/StreamingPull")()
            await call.write(first)
            while True:
                raw = await call.read()
                counts[0] += 1
                counts[1] += len(raw)

        readers = [asyncio.ensure_future(read()) for _ in range(streams)]
        await asyncio.sleep(WARM_UP_S)
        say(begin=True)
        before, start = list(counts), time.perf_counter()
        await asyncio.sleep(seconds)
        took = time.perf_counter() - start
        say(end={"seconds": took, "messages": (counts[0] - before[0]) * shape.messages, "bytes": counts[1] - before[1]})
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--subscription", required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--streams", type=int, default=1)
    chosen = parser.parse_args()
    uvloop.run(receive(chosen.port, Shape.of(chosen.subscription), chosen.seconds, chosen.streams))
