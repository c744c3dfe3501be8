"""Between a pull stream and the sink: responses wait a moment for each other and are decoded together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.clock import Clock
from penstock.pubsub import wire

DECODE_BYTES = 1 << 20
"""Responses are decoded together up to this size: 0.6 ms under the interpreter's lock, the cost of a call spread, and
still in the processor's cache. 256 KiB and 4 MiB are each about a tenth slower (benchmarks/decode)."""

LINGER_S = 0.002
"""How long the responses of a busy stream wait for more before they are decoded."""

IDLE_S = 0.005
"""A stream that decoded nothing for this long is not busy: its next response is decoded at once."""

Deliver = Callable[[wire.Decoded, float], None]


class Gathering:
    """The responses of one pull stream that are not decoded yet. `deliver` gets each chunk and when it was received."""

    def __init__(
        self, clock: Clock, deliver: Callable[[wire.Decoded, float], None], refuse: Callable[[wire.Undecodable], None]
    ) -> None:
        self._clock = clock
        self._deliver = deliver
        self._refuse = refuse
        self._responses: list[bytes] = []
        self._bytes = 0
        self._decoded_at = float("-inf")
        self._arrived = asyncio.Event()
        self._aged_bytes = 0
        self._aged_since = 0.0

    def add(self, response: bytes) -> None:
        """Take a response; decodes when enough are there. Raises what `deliver` raises."""
        self._responses.append(response)
        self._bytes += len(response)
        if self._bytes >= DECODE_BYTES:
            self.decode()
        elif len(self._responses) == 1:
            self._arrived.set()

    async def run(self) -> None:
        """Decode what no further response came to fill. Until cancelled; what waits then is left to `decode`."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._responses and self._clock() - self._decoded_at < IDLE_S:
                await asyncio.sleep(LINGER_S)
            self.decode()

    def age(self, since: float, size: int) -> None:
        """The next `size` bytes were received by this machine at `since` and only not read: their leases are older."""
        self._aged_since, self._aged_bytes = since, size

    def decode(self) -> None:
        """Decode and deliver all that waits. Undecodable responses are refused one by one, the others kept."""
        if not self._responses:
            return
        responses, size = self._responses, self._bytes
        self._responses, self._bytes = [], 0
        self._decoded_at = received_at = self._clock()
        if self._aged_bytes > 0:
            self._aged_bytes -= size
            received_at = self._aged_since
        bad: list[wire.Undecodable] = []
        try:
            good = [wire.decode(responses)]
        except wire.Undecodable:
            good, bad = wire.decode_each(responses)
        for decoded in good:
            if decoded.rows.num_rows:
                self._deliver(decoded, received_at)
        for error in bad:
            self._refuse(error)
