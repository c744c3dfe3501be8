"""A Pub/Sub server that sends responses encoded beforehand, as fast as they are taken, and agrees to everything.

It is its own process: `python -m benchmarks.firehose --port N`, and says `{"ready": N}` when it serves. What a
subscription sends is in its name (`messages.Shape`). Flow-control limits in requests are ignored, as are acks beyond
counting their bytes: whoever is slower than the firehose shows it by not reading, which HTTP/2 turns into waiting here.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import uvloop
from google.pubsub_v1.types import GetSubscriptionRequest, GetTopicRequest, StreamingPullRequest, Subscription, Topic

from benchmarks.children import say
from benchmarks.messages import Shape, responses

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    # A client that keeps alive while nothing runs is told off by default.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
]
FIGURES = "/penstock.Firehose/Figures"
"""Unary, empty request: JSON with what was sent and what came, by kind."""

_templates = functools.lru_cache(maxsize=8)(responses)
Unary = Callable[[bytes, object], Awaitable[bytes]]


class Firehose:
    """The handlers, and what they counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def streaming_pull(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Send until the client goes. What it sends after the first request is read and dropped."""
        opening = StreamingPullRequest.pb().FromString(await anext(aiter(requests)))
        shape = Shape.of(opening.subscription)
        templates = _templates(shape)
        drain = asyncio.ensure_future(_read_all(requests))
        self.counts["streams"] += 1
        try:
            while True:
                for response in templates:
                    await context.write(response)
                    self.counts["messages"] += shape.messages
                    self.counts["bytes"] += len(response)
        finally:
            drain.cancel()

    def unary(self, kind: str) -> Unary:
        """Agree with an empty reply, and count."""

        async def agree(request: bytes, _context: object) -> bytes:
            self.counts[f"{kind}_requests"] += 1
            self.counts[f"{kind}_bytes"] += len(request)
            return b""

        return agree

    async def get_subscription(self, request: bytes, _context: object) -> bytes:
        """Every subscription is there, without ordering."""
        name = GetSubscriptionRequest.pb().FromString(request).subscription
        found = Subscription.pb()(name=name, topic="projects/bench/topics/t", ack_deadline_seconds=60)
        encoded: bytes = found.SerializeToString()
        return encoded

    async def get_topic(self, request: bytes, _context: object) -> bytes:
        """So is every topic."""
        encoded: bytes = Topic.pb()(name=GetTopicRequest.pb().FromString(request).topic).SerializeToString()
        return encoded

    async def figures(self, _request: bytes, _context: object) -> bytes:
        """What was counted."""
        return json.dumps(self.counts).encode()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """For a server: bytes in, bytes out."""
        unary = grpc.unary_unary_rpc_method_handler
        subscriber = {
            "StreamingPull": grpc.stream_stream_rpc_method_handler(self.streaming_pull),
            "Acknowledge": unary(self.unary("ack")),
            "ModifyAckDeadline": unary(self.unary("modack")),
            "GetSubscription": unary(self.get_subscription),
        }
        return [
            grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", subscriber),
            grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", {"GetTopic": unary(self.get_topic)}),
            grpc.method_handlers_generic_handler("penstock.Firehose", {"Figures": unary(self.figures)}),
        ]


async def serve(port: int, prepared: list[str]) -> None:
    """Serve until cancelled; templates of `prepared` subscriptions are encoded before the port opens."""
    for name in prepared:
        _templates(Shape.of(name))
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(Firehose().handlers())
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    say(ready=bound)
    await server.wait_for_termination()


def figures(port: int) -> dict[str, int]:
    """Ask a running firehose what it counted."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        said: dict[str, int] = json.loads(channel.unary_unary(FIGURES)(b"", timeout=10))
        return said


async def _read_all(requests: AsyncIterator[bytes]) -> None:
    async for _ in requests:
        pass


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--prepare", nargs="*", default=[], help="subscriptions to encode beforehand")
    chosen = parser.parse_args()
    uvloop.run(serve(chosen.port, chosen.prepare))


if __name__ == "__main__":
    main()
