"""A Pub/Sub server that sends responses encoded beforehand, as fast as they are taken, and agrees to everything.

What is published to it gets message IDs and is forgotten.

It is its own process: `python -m benchmarks.firehose --port N`, and says `{"ready": N}` when it serves. What a
subscription sends is in its name (`messages.Shape`). Flow-control limits in requests are ignored, as are acks beyond
counting their bytes: whoever is slower than the firehose shows it by not reading, which HTTP/2 turns into waiting here.

It speaks HTTP/2 by itself (h2 for everything but DATA frames, which are slices of memory between two writes, and of
what came): gRPC's own server took as much CPU as the receiver, of the two cores that are there for everybody.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
import uvloop
from google.pubsub_v1.types import (
    GetSubscriptionRequest,
    GetTopicRequest,
    PublishResponse,
    StreamingPullRequest,
    Subscription,
    Topic,
)

from benchmarks.children import say
from benchmarks.frames import Frames
from benchmarks.messages import FIRST_MESSAGE_ID, Shape, id_places, responses

FIGURES = "/penstock.Firehose/Figures"
"""Unary, empty request: JSON with what was sent and what came, by kind."""

TURN_BYTES = 4 << 20
"""A connection writes this much before it looks at what came in."""

FRAME_BYTES = 1 << 20
"""Large frames for ack requests of half a MiB, too."""

WINDOW_BYTES = 32 << 20
"""Of a stream that sends: more than any request has, and than a pull stream says in a benchmark."""

HIGH_WATER_BYTES = 1 << 20
_PREFIX_BYTES = 5
_MESSAGES_TAG = 0x12
"""PublishRequest.messages = 2, length-delimited."""
_WINDOW_UPDATE = b"\0\0\4\x08\0\0\0\0\0"
_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
_OK = [("grpc-status", "0")]
_UNIMPLEMENTED = [("grpc-status", "12"), ("grpc-message", "the firehose does not have this call")]


def framed(message: bytes) -> bytes:
    """A gRPC message with its prefix: not compressed, length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@functools.lru_cache(maxsize=8)
def templates(shape: Shape) -> list[tuple[bytes, np.ndarray]]:
    """The responses of a shape, framed, and where the digits are that make their message IDs new."""
    return [(framed(response), id_places(framed(response))) for response in responses(shape)]


TURNS = itertools.count()
"""Responses sent so far, by whichever stream: no message ID is sent twice."""

COPY_BYTES = 64 << 10
"""Responses below this are copied each time they are sent. Larger ones are changed in place: before one has its turn
again, megabytes of the others have gone through the socket."""


class Response:
    """One of a stream's own copies of the responses."""

    def __init__(self, template: bytes, places: np.ndarray) -> None:
        self._bytes = bytearray(template)
        self._places = places

    def renewed(self) -> memoryview:
        """With message IDs that were never sent."""
        if len(self._bytes) < COPY_BYTES:
            self._bytes = bytearray(self._bytes)
        anywhere = np.ndarray((len(self._bytes) - 7,), np.uint64, self._bytes, strides=(1,))
        anywhere[self._places] = np.frombuffer(b"%08d" % next(TURNS), np.uint64)[0]
        return memoryview(self._bytes)


class Hose:
    """One pull stream: what is left of the message being written, and all that follow."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._endless: Iterator[Response] = itertools.cycle(Response(*template) for template in templates(shape))
        self._left = memoryview(b"")

    def next(self, size_bytes: int) -> tuple[memoryview, bool]:
        """At most so many bytes, and whether a message ends with them."""
        if not self._left:
            self._left = next(self._endless).renewed()
        piece, self._left = self._left[:size_bytes], self._left[size_bytes:]
        return piece, not self._left


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._frames = Frames()
        self._unacknowledged = 0
        self._paths: dict[int, str] = {}
        self._bodies: dict[int, list[memoryview]] = {}
        self._hoses: dict[int, Hose] = {}
        self._blocked = False
        self._scheduled = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        # uvloop's transport has the methods of a stream transport without being one.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        settings = h2.settings.SettingCodes
        self._http.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                settings.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                settings.MAX_FRAME_SIZE: FRAME_BYTES,
                settings.MAX_CONCURRENT_STREAMS: 1000,
            },
        )
        self._http.max_inbound_frame_size = FRAME_BYTES  # read from the defaults when it was made
        self._http.initiate_connection()
        self._http.increment_flow_control_window(64 << 20)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget its streams."""
        self._hoses.clear()

    def pause_writing(self) -> None:
        """The socket is full."""
        self._blocked = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._blocked = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Requests, acks, window updates."""
        for_h2, payload = self._frames.part(data)
        events = self._http.receive_data(for_h2)
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                assert event.headers is not None and event.stream_id is not None
                self._paths[event.stream_id] = dict(event.headers)[b":path"].decode()
                self._bodies[event.stream_id] = []
        for number, piece in payload:
            self._take(number, piece)
        for event in events:
            if isinstance(event, h2.events.StreamEnded):
                self._ended(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self._forget(event.stream_id)
        self._flush()
        self._pump()

    def _take(self, number: int, piece: memoryview) -> None:
        self._unacknowledged += len(piece)
        body = self._bodies.get(number)
        if body is None or number in self._hoses:
            return
        body.append(piece)
        if not self._paths[number].endswith("/StreamingPull"):
            return
        begun = b"".join(body)
        if len(begun) >= _PREFIX_BYTES and len(begun) >= _PREFIX_BYTES + int.from_bytes(begun[1:5], "big"):
            opening = StreamingPullRequest.pb().FromString(begun[_PREFIX_BYTES:])
            self._http.send_headers(number, _HEADERS)
            self._hoses[number] = Hose(Shape.of(opening.subscription))
            self._counts["streams"] += 1

    def _ended(self, number: int | None) -> None:
        """Answer a unary call. The end of a pull stream's requests says nothing."""
        if number is None or number in self._hoses or number not in self._bodies:
            return
        path, body = self._paths[number], b"".join(self._bodies[number])[_PREFIX_BYTES:]
        reply = _reply(path, body, self._counts)
        self._http.send_headers(number, _HEADERS)
        if reply is not None:
            self._http.send_data(number, framed(reply))
        self._http.send_headers(number, _UNIMPLEMENTED if reply is None else _OK, end_stream=True)
        self._forget(number)

    def _forget(self, number: int | None) -> None:
        for kept in (self._paths, self._bodies, self._hoses):
            if number is not None:
                kept.pop(number, None)

    def _flush(self) -> None:
        if self._unacknowledged >= FRAME_BYTES:
            # The connection's window; h2 does not know of the payload. A stream's own is never used up.
            self._transport.write(_WINDOW_UPDATE + self._unacknowledged.to_bytes(4, "big"))
            self._unacknowledged = 0
        if said := self._http.data_to_send():
            self._transport.write(said)

    def _pump(self) -> None:
        """Write responses while windows and socket have room."""
        written, most = 0, self._http.max_outbound_frame_size
        while self._hoses and not self._blocked and written < TURN_BYTES:
            before = written
            for number, hose in self._hoses.items():
                room = min(self._http.local_flow_control_window(number), most)
                if room > 0:
                    written += self._write(number, hose, room)
            if written == before:
                return  # every window is full: an update of one comes back here
        if self._hoses and not self._blocked and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._again)

    def _again(self) -> None:
        self._scheduled = False
        self._pump()

    def _write(self, number: int, hose: Hose, room: int) -> int:
        """One DATA frame, past h2, which would copy it twice; its windows are told."""
        piece, ends = hose.next(room)
        size = len(piece)
        self._http.outbound_flow_control_window -= size
        self._http.streams[number].outbound_flow_control_window -= size
        self._transport.writelines([size.to_bytes(3, "big") + b"\0\0" + number.to_bytes(4, "big"), piece])
        self._counts["bytes"] += size
        if ends:
            self._counts["messages"] += hose.shape.messages
        return size


def _reply(path: str, body: bytes, counts: Counter[str]) -> bytes | None:
    """What a unary call gets; None for one that nobody here needs."""
    call = path.rpartition("/")[2]
    if call in _AGREED:
        counts[f"{_AGREED[call]}_requests"] += 1
        counts[f"{_AGREED[call]}_bytes"] += len(body)
        return b""
    if call == "Publish":
        messages = published(body)
        counts["published"] += messages
        counts["publish_requests"] += 1
        counts["publish_bytes"] += len(body)
        return message_ids(messages)
    if path == FIGURES:
        return json.dumps(counts).encode()
    described = _DESCRIBED.get(call)
    return None if described is None else described(body)


def published(request: bytes) -> int:
    """How many messages a PublishRequest has, by its outermost tags: nothing inside is looked at."""
    at, messages = 0, 0
    while at < len(request):
        tag, length, shift = request[at], 0, 0
        at += 1
        while True:
            octet = request[at]
            at += 1
            length |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                break
        at += length
        messages += tag == _MESSAGES_TAG
    return messages


@functools.lru_cache(maxsize=2048)
def message_ids(messages: int) -> bytes:
    """A PublishResponse with so many IDs, the same ones each time."""
    ids = [str(FIRST_MESSAGE_ID + number) for number in range(messages)]
    encoded: bytes = PublishResponse.pb()(message_ids=ids).SerializeToString()
    return encoded


def _subscription(request: bytes) -> bytes:
    name = GetSubscriptionRequest.pb().FromString(request).subscription
    found = Subscription.pb()(name=name, topic="projects/bench/topics/topic", ack_deadline_seconds=60)
    encoded: bytes = found.SerializeToString()
    return encoded


def _topic(request: bytes) -> bytes:
    encoded: bytes = Topic.pb()(name=GetTopicRequest.pb().FromString(request).topic).SerializeToString()
    return encoded


_AGREED = {"Acknowledge": "ack", "ModifyAckDeadline": "modack"}
_DESCRIBED: dict[str, Callable[[bytes], bytes]] = {"GetSubscription": _subscription, "GetTopic": _topic}


async def serve(port: int, prepared: list[str]) -> None:
    """Serve until cancelled; templates of `prepared` subscriptions are encoded before the port opens."""
    for name in prepared:
        templates(Shape.of(name))
    counts: Counter[str] = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(counts), "127.0.0.1", port)
    say(ready=server.sockets[0].getsockname()[1])
    await server.serve_forever()


def figures(port: int) -> dict[str, int]:
    """Ask a running firehose what it counted."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        said: dict[str, int] = json.loads(channel.unary_unary(FIGURES)(b"", timeout=10))
        return said


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--prepare", nargs="*", default=[], help="subscriptions to encode beforehand")
    chosen = parser.parse_args()
    uvloop.run(serve(chosen.port, chosen.prepare))


if __name__ == "__main__":
    main()
