"""A pull stream as the subscription sees it: how much it may still be given, and what else must be said to it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque

from penstock.emulator.refusal import Refused


@dataclasses.dataclass(slots=True, eq=False)
class PullStream:
    """One StreamingPull call, or for its moment one Pull. Limits of 0 mean none, as in the protocol.

    `replies` are encoded responses that go out before any messages. Once `gone` is set the call ends: with the
    status `ending`, or with OK without one.
    """

    number: int
    ack_deadline_s: int
    max_rows: int = 0
    max_bytes: int = 0
    client_id: str = ""
    protocol_version: int = 0
    opened_at: float = 0.0
    outstanding_rows: int = 0
    outstanding_bytes: int = 0
    replies: deque[bytes] = dataclasses.field(default_factory=deque)
    wake: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    ending: Refused | None = None

    @property
    def room_rows(self) -> int:
        """Messages that it may be given now."""
        return self.max_rows - self.outstanding_rows if self.max_rows > 0 else 1 << 62

    @property
    def room_bytes(self) -> int:
        """Bytes that it may be given now."""
        return self.max_bytes - self.outstanding_bytes if self.max_bytes > 0 else 1 << 62

    def say(self, response: bytes) -> None:
        """Queue an encoded response."""
        self.replies.append(response)
        self.wake.set()

    def end(self, why: Refused | None = None) -> None:
        """End the call; the first reason given counts."""
        if not self.gone.is_set():
            self.ending = why
        self.gone.set()
        self.wake.set()
