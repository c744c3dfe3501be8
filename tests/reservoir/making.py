"""What reservoir tests are made of: numbered messages, a hand-moved clock, and a Pub/Sub that only takes notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from penstock.contract import ROWS_SCHEMA, Reader
from penstock.contract.actions import FinishedEpoch
from penstock.reservoir import AckOutcome, Reservoir, Subscription
from penstock.reservoir.batch import Batch
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.ports import DeadLetterSink, SpillSink
from penstock.settings import ReservoirSettings

NAME = "projects/p/subscriptions/orders"
DEADLINE_S = 60
CONSUMER = "consumer-1"
START_US = 1_700_000_000_000_000


@dataclass
class HandClock:
    """Stands still until a test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@dataclass
class NotedAcks:
    """An `AckSink` that settles when the test says so."""

    at_once: bool = True
    acknowledged: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    extended: list[str] = field(default_factory=list)
    pending: list[tuple[list[str], Callable[[AckOutcome], None]]] = field(default_factory=list)
    extension_works: bool = True
    releases: list[Callable[[], None]] = field(default_factory=list)
    releases_wait: bool = False

    def acknowledge(self, ack_ids: Sequence[pa.Array], settled: Callable[[AckOutcome], None]) -> None:
        """Note; confirm at once, or when the test calls `confirm`."""
        ids = _flat(ack_ids)
        self.pending.append((ids, settled))
        if self.at_once:
            self.confirm()

    def confirm(self, *, lost: bool = False) -> None:
        """The service answers all that is pending."""
        pending, self.pending = self.pending, []
        for ids, settled in pending:
            if not lost:
                self.acknowledged += ids
            settled(AckOutcome(0, len(ids)) if lost else AckOutcome(len(ids), 0))

    def extend(self, ack_ids: Sequence[pa.Array], settled: Callable[[bool], None]) -> None:
        """Note and answer."""
        self.extended += _flat(ack_ids)
        settled(self.extension_works)

    def release(self, ack_ids: Sequence[pa.Array], settled: Callable[[], None]) -> None:
        """Note; settled at once, or when the test calls `settle_releases`."""
        self.released += _flat(ack_ids)
        self.releases.append(settled)
        if not self.releases_wait:
            self.settle_releases()

    def settle_releases(self) -> None:
        """The service has all that was given back."""
        releases, self.releases = self.releases, []
        for settled in releases:
            settled()


def _flat(arrays: Iterable[pa.Array]) -> list[str]:
    return [text for array in arrays for text in array.to_pylist()]


def messages(
    first: int, count: int, *, keys: Sequence[str | None] = (None,), data_bytes: int = 16
) -> tuple[pa.RecordBatch, pa.Array]:
    """Rows and ack IDs of messages numbered from `first`; `keys` are repeated."""
    numbers = range(first, first + count)
    columns = [
        pa.array([f"m{n}" for n in numbers], pa.string()),
        pa.array([b"x" * data_bytes for _ in numbers], pa.binary()),
        pa.array([[("n", str(n))] for n in numbers], ROWS_SCHEMA.field("attributes").type),
        pa.array([START_US + n for n in numbers], ROWS_SCHEMA.field("publish_time").type),
        pa.array([keys[n % len(keys)] for n in numbers], pa.string()),
        pa.nulls(count, pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS_SCHEMA), pa.array([f"a{n}" for n in numbers], pa.string())


def again(
    numbers: Sequence[int], attempt: int = 2, *, keys: Sequence[str | None] = (None,)
) -> tuple[pa.RecordBatch, pa.Array]:
    """Rows and ack IDs of a later delivery of some messages, in that order; the ack ID of message 7 is `a7.2`."""
    rows = [messages(number, 1, keys=keys)[0] for number in numbers]
    ack_ids = pa.array([f"a{number}.{attempt}" for number in numbers], pa.string())
    return pa.concat_batches(rows), ack_ids


def attempted(
    delivery: tuple[pa.RecordBatch, pa.Array], attempts: Sequence[int | None]
) -> tuple[pa.RecordBatch, pa.Array]:
    """The same delivery from a service that counts: so often was each row delivered, this time included."""
    rows, ack_ids = delivery
    column = ROWS_SCHEMA.get_field_index("delivery_attempt")
    return rows.set_column(column, ROWS_SCHEMA.field(column), pa.array(attempts, pa.int32())), ack_ids


def message_ids(batch: Batch) -> list[str]:
    """Of a sealed batch, in order."""
    return [text for chunk in batch.chunks for text in chunk.rows.column("message_id").to_pylist()]


def number_of(ack_id: str) -> int:
    """The message of an ack ID, of whichever delivery."""
    return int(ack_id[1:].partition(".")[0])


@dataclass
class Bench:
    """A reservoir with one subscription, and everything around it in the test's hands."""

    ordered: bool = False
    settings: ReservoirSettings = field(default_factory=lambda: ReservoirSettings(memory_limit_mb=64))
    clock: HandClock = field(default_factory=HandClock)
    acks: NotedAcks = field(default_factory=NotedAcks)
    dead_letters: DeadLetterSink | None = None
    max_delivery_attempts: int = 0
    spill: SpillSink | None = None

    def __post_init__(self) -> None:
        """Build it."""
        self.reservoir = Reservoir(self.settings, self.clock)
        self.subscription = self.subscribe(NAME)
        self.next_message = 0
        self.received = 0

    def subscribe(self, name: str) -> Subscription:
        """One more subscription of the reservoir."""
        subscription = Subscription(
            name,
            node=self.reservoir.node,
            settings=self.settings,
            budget=self.reservoir.budget,
            acks=self.acks,
            clock=self.clock,
            ordered=self.ordered,
            deadline_s=DEADLINE_S,
            max_buffer_age_s=60,
            dead_letters=self.dead_letters,
            max_delivery_attempts=self.max_delivery_attempts,
            spill=self.spill,
        )
        self.reservoir.add(subscription)
        return subscription

    def open(self, generation: int = 1, *, after: int = 0, consumer: str = CONSUMER, share: bool = False) -> Reader:
        """Open a consumer with a reader of that generation."""
        reader = Reader(generation, f"reader-{generation}")
        self.reservoir.open(self.subscription, consumer, reader, after=after, share=share)
        return reader

    @property
    def consumer(self) -> Consumer:
        """The one that `open` makes by default."""
        return self.subscription.consumers[CONSUMER]

    def seal(self, epoch: int, max_rows: int | None = None, max_bytes: int | None = None) -> Batch:
        """Seal, and the batch, of which there must be one."""
        self.subscription.seal(self.consumer, epoch, max_rows=max_rows, max_bytes=max_bytes)
        return self.consumer.batches[epoch]

    def commit(self, epoch: int, batch: str | None, excluded: frozenset[str] = frozenset()) -> dict[int, str]:
        """Spark has finished an epoch, whose offset named that batch of this node, or none."""
        named = FinishedEpoch(epoch=epoch, nodes={self.reservoir.node: batch} if batch else {})
        return self.subscription.commit(self.consumer, [named], excluded, contact=True)

    def deliver(self, count: int, *, keys: Sequence[str | None] = (None,), data_bytes: int = 16) -> list[str]:
        """Receive that many new messages as one chunk; their message IDs."""
        rows, ack_ids = messages(self.next_message, count, keys=keys, data_bytes=data_bytes)
        self.next_message += count
        self.receive(rows, ack_ids)
        ids: list[str] = rows.column("message_id").to_pylist()
        return ids

    def deliver_again(self, numbers: Sequence[int], attempt: int = 2, *, keys: Sequence[str | None] = (None,)) -> None:
        """Receive messages that were delivered before, with ack IDs such as `a7.2`."""
        self.receive(*again(numbers, attempt, keys=keys))

    def receive(self, rows: pa.RecordBatch, ack_ids: pa.Array) -> None:
        """One chunk; `received` counts the rows of all."""
        self.received += rows.num_rows
        self.subscription.receive(rows, ack_ids, self.clock())

    def pass_time(self, seconds: float, *, step_s: float = 1.0) -> None:
        """Let the clock run with ticks, as a live daemon sees it."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(self.clock.now + step_s, end)
            self.reservoir.tick()
