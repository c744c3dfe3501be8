"""Between the pull streams of a subscription and the sink: responses wait a moment and are decoded together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from penstock.clock import Clock
from penstock.pubsub import wire

DECODE_BYTES = 2 << 20
"""Responses are decoded together up to this size: 1.5 ms under the interpreter's lock, the 0.4 ms that a chunk costs
whatever is in it spread, and still in the processor's cache. With 1 MiB a message costs a tenth more CPU time in the
daemon, with 4 MiB as much and up to twice the pause (benchmarks/ingest, 100-message responses)."""

LINGER_S = 0.005
"""How long the responses of busy streams wait for more before they are decoded. A chunk costs 0.4 ms whatever is in it:
this bounds that to a twelfth of a core."""

IDLE_S = 0.01
"""Streams that brought nothing for this long are not busy: the next response is decoded at once."""

Deliver = Callable[[wire.Decoded, float], None]
Refuse = Callable[[wire.Undecodable], None]


class Gathering:
    """The responses that are not decoded yet. `deliver` gets each chunk and when it was received.

    All streams share one: the service spreads its messages over them, and few on each would make small chunks. The
    order of each stream's responses is kept.
    """

    def __init__(self, clock: Clock, deliver: Deliver) -> None:
        self._clock = clock
        self._deliver = deliver
        self._responses: list[bytes] = []
        self._refuse: list[Refuse] = []
        self._bytes = 0
        self._oldest = float("inf")
        self._decoded_at = float("-inf")
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()

    def add(self, response: bytes, refuse: Refuse, *, received_at: float | None = None) -> None:
        """Take a response; `run` decodes.

        Not this call: whoever adds a response asks for the next one first, and gRPC fetches that during the decode.
        `refuse` is called if it cannot be decoded. `received_at` is for one that this machine received a while ago and
        only did not read: the lease of its messages is older.
        """
        self._responses.append(response)
        self._refuse.append(refuse)
        self._bytes += len(response)
        if received_at is not None:
            self._oldest = min(self._oldest, received_at)
        self._arrived.set()
        if self._bytes >= DECODE_BYTES:
            self._full.set()

    async def run(self) -> None:
        """Decode what is enough, or what no further response came to fill. Raises what `deliver` raises.

        Until cancelled; what waits then is left to `decode`.
        """
        while True:
            await self._arrived.wait()
            if self._clock() - self._decoded_at < IDLE_S:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_S):
                        await self._full.wait()
            self.decode()

    def decode(self) -> None:
        """Decode and deliver all that waits. Undecodable responses are refused one by one, the others kept."""
        if not self._responses:
            return
        responses, refuse = self._responses, self._refuse
        self._responses, self._refuse, self._bytes = [], [], 0
        self._arrived.clear()
        self._full.clear()
        self._decoded_at = now = self._clock()
        # A lease that is thought older than it is costs an extension; one thought younger costs a redelivery.
        received_at, self._oldest = min(now, self._oldest), float("inf")
        try:
            outcomes: list[wire.Decoded | wire.Undecodable] = [wire.decode(responses)]
        except wire.Undecodable:
            outcomes = wire.decode_each(responses)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, wire.Undecodable):
                refuse[number](outcome)
            elif outcome.rows.num_rows:
                self._deliver(outcome, received_at)
