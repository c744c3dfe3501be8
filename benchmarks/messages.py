"""StreamingPullResponses as the service sends them, encoded beforehand."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from google.pubsub_v1.types import StreamingPullResponse

ACK_ID_CHARACTERS = 188
"""The length of the service's ack IDs, as seen in its responses; they take the room and the time in ack requests."""

TEMPLATE_BYTES = 8 << 20
"""About this much in all for one shape: more than a core's own cache holds, so that nobody reads from there alone."""

FIRST_MESSAGE_ID = 10**15
TURN_DIGITS = slice(1, 9)
"""Of a message ID: how often its response was sent before. A daemon takes an ID that it holds for a redelivery."""

_FIRST_PUBLISH_TIME_US = 1_700_000_000_000_000


@dataclass(frozen=True)
class Shape:
    """What a subscription of the firehose sends. Its name says it, so that both sides agree."""

    data_bytes: int
    messages: int

    @property
    def subscription(self) -> str:
        """`projects/bench/subscriptions/b1024-n100`."""
        return f"projects/bench/subscriptions/b{self.data_bytes}-n{self.messages}"

    @classmethod
    def of(cls, subscription: str) -> Shape:
        """The shape of a name. Raises `ValueError`."""
        data, _, messages = subscription.rpartition("/")[2].partition("-n")
        return cls(int(data.removeprefix("b")), int(messages))


def responses(shape: Shape, *, attributes: int = 2) -> list[bytes]:
    """Different responses of one shape: message IDs, ack IDs and data vary from message to message and among them."""
    count = max(2, min(64, TEMPLATE_BYTES // (shape.messages * (shape.data_bytes + 300))))
    rng = random.Random(0)
    return [_response(shape, rng, number * shape.messages, attributes) for number in range(count)]


def id_places(response: bytes) -> np.ndarray:
    """Where in a response the `TURN_DIGITS` of each message ID are: eight bytes each."""
    first = b"1" + b"0" * (TURN_DIGITS.stop - TURN_DIGITS.start)
    tag = bytes([0x1A, len(str(FIRST_MESSAGE_ID))])  # PubsubMessage.message_id = 3, length-delimited
    places, at = [], response.find(tag + first)
    while at >= 0:
        places.append(at + len(tag) + TURN_DIGITS.start)
        at = response.find(tag + first, places[-1])
    return np.array(places)


def _response(shape: Shape, rng: random.Random, first: int, attributes: int) -> bytes:
    response = StreamingPullResponse.pb()()
    for i in range(first, first + shape.messages):
        received = response.received_messages.add()
        received.ack_id = f"{i:0{ACK_ID_CHARACTERS}d}"
        received.message.data = rng.randbytes(shape.data_bytes)
        received.message.message_id = str(FIRST_MESSAGE_ID + i)
        received.message.publish_time.FromMicroseconds(_FIRST_PUBLISH_TIME_US + i)
        for key in range(attributes):
            received.message.attributes[f"key{key}"] = f"value{key}-{i}"
    encoded: bytes = response.SerializeToString()
    return encoded
