"""A model of Pub/Sub, one subscription: leases by ack ID, redelivery under new ones, acks that are late or in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.simulation.faults import Faults
from tests.simulation.history import History, Spans
from tests.simulation.schedule import Scheduler

MAX_RESPONSE = 8
"""Messages of one response: few, so that batches have several chunks."""

RETRY_S = 0.5
"""How soon a delivery is tried again while every stream stands still."""


@dataclass
class Message:
    """One message. `delivered`: how often it was; its ack IDs are numbered so. `live`: ack ID → end of its lease."""

    number: int
    key: str | None
    published_us: int
    delivered: int = 0
    acked: bool = False
    ready: bool = True
    live: dict[str, float] = field(default_factory=dict)


class Stream(Protocol):
    """A pull stream as the service sees it."""

    def may_send(self) -> bool:
        """Whether flow control lets anything through."""

    def arrive(self, messages: Sequence[Message], ack_ids: Sequence[str]) -> None:
        """One response."""


class Service:
    """The subscription. Acks are checked where the daemon decides them (`checks`), and again where they arrive."""

    def __init__(self, scheduler: Scheduler, faults: Faults, history: History, allowed: Callable[[int], bool]) -> None:
        self.messages: list[Message] = []
        self.streams: list[Stream] = []
        self.unacked = 0
        self.away: dict[bool, float] = {}
        """Until when it takes no acks (True), or no extensions and releases (False)."""
        self._scheduler = scheduler
        self._faults = faults
        self._history = history
        self._allowed = allowed
        self._delivering = False
        self._arrival = 0.0

    # --- publishers ---------------------------------------------------------------------------------------------

    def publish(self, count: int) -> None:
        """More messages."""
        rng, now = self._faults.rng, self._scheduler.now
        for _ in range(count):
            key = f"k{rng.randrange(5)}" if self._faults.shape.ordered else None
            self.messages.append(Message(len(self.messages), key, int((1_700_000_000 + now) * 1e6)))
        self.unacked += count
        self.kick()

    # --- pull streams -------------------------------------------------------------------------------------------

    def attach(self, stream: Stream) -> None:
        """A stream was opened."""
        self.streams.append(stream)
        self.kick()

    def detach(self, stream: Stream) -> None:
        """It was closed; what it brought stays leased."""
        if stream in self.streams:
            self.streams.remove(stream)

    def kick(self) -> None:
        """Something may be there to deliver."""
        if not self._delivering:
            self._delivering = True
            self._scheduler.at(self._faults.soon_s(0.02), self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        ready = [message for message in self.messages if message.ready]
        if not ready or not self.streams:
            return
        open_streams = [stream for stream in self.streams if stream.may_send()]
        if not open_streams:
            self._delivering = True
            self._scheduler.at(RETRY_S, self._deliver)
            return
        rng = self._faults.rng
        count = rng.randint(1, MAX_RESPONSE)
        if not self._faults.shape.ordered and not self._faults.shape.calm and len(ready) > count:
            ready = ready[rng.randrange(len(ready) - count) :]
        sent = ready[:count]
        stream = rng.choice(open_streams)
        ack_ids = [self._lease(message) for message in sent]
        # One stream is in order: nothing overtakes what was sent before.
        self._arrival = max(self._arrival, self._scheduler.now + self._faults.soon_s(0.02))
        self._scheduler.at(self._arrival - self._scheduler.now, lambda: stream.arrive(sent, ack_ids))
        self._scheduler.at(self._faults.shape.deadline_s, lambda: self._expire(list(zip(sent, ack_ids, strict=True))))
        self.kick()

    def _lease(self, message: Message) -> str:
        message.delivered += 1
        message.ready = False
        ack_id = f"{message.number}.{message.delivered}"
        message.live[ack_id] = self._scheduler.now + self._faults.shape.deadline_s
        if not self._faults.shape.exactly_once and self._faults.happens("delivered_twice"):
            message.ready = True
        return ack_id

    def _expire(self, leased: list[tuple[Message, str]]) -> None:
        """Deliver again what nobody extended; look again when the next lease of these ends."""
        now = self._scheduler.now
        left = [(message, ack_id) for message, ack_id in leased if ack_id in message.live]
        ended = [(message, ack_id) for message, ack_id in left if message.live[ack_id] <= now]
        for message, ack_id in ended:
            self._give_back(message, ack_id)
        if ended:
            self._history.add(now, "Pub/Sub: leases end of %s", Spans(m.number for m, _ in ended))
        left = [(message, ack_id) for message, ack_id in left if ack_id in message.live]
        if left:
            soonest = min(message.live[ack_id] for message, ack_id in left)
            self._scheduler.at(max(soonest - now, 0.001), lambda: self._expire(left))

    def _give_back(self, message: Message, ack_id: str) -> None:
        del message.live[ack_id]
        if not message.acked and not message.live:
            message.ready = True
            self.kick()

    # --- requests -----------------------------------------------------------------------------------------------

    def acknowledge(self, ack_ids: Sequence[str]) -> list[bool]:
        """Which were refused for good (exactly-once delivery only: others are told OK whatever happens)."""
        return [self._acknowledge(ack_id) for ack_id in ack_ids]

    def _acknowledge(self, ack_id: str) -> bool:
        message = self.messages[number_of(ack_id)]
        assert self._allowed(message.number), f"an ack of message {message.number} arrived that nobody may have sent"
        if message.acked:
            return False
        if ack_id not in message.live:
            # Too late: refused, or taken without effect, or taken after all.
            if self._faults.shape.exactly_once:
                return True
            if self._faults.rng.random() < 0.5:
                return False
        message.acked = True
        message.ready = False
        message.live.clear()
        self.unacked -= 1
        return False

    def modify(self, ack_ids: Sequence[str], seconds: float) -> list[bool]:
        """Renew leases, or with 0 give back; which were refused for good."""
        now = self._scheduler.now
        refused = []
        for ack_id in ack_ids:
            message = self.messages[number_of(ack_id)]
            live = ack_id in message.live
            refused.append(self._faults.shape.exactly_once and not live and not message.acked)
            if live and seconds > 0:
                message.live[ack_id] = now + seconds
            elif live:
                self._give_back(message, ack_id)
        return refused


def number_of(ack_id: str) -> int:
    """The message that an ack ID belongs to."""
    return int(ack_id.partition(".")[0])
