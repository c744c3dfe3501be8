"""All events of the daemon, one class each, by room."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from penstock.telemetry.event import Count, Event


def _counter(name: str, help_text: str, *labels: str) -> Count:
    return Count(name, help_text, labels)


# --- pubsub ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StreamOpened(Event):
    """A pull stream was opened."""

    level = "debug"
    counter: ClassVar = _counter("pull_streams_opened", "StreamingPull calls started", "subscription")
    subscription: str
    stream: int


# --- flight ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RequestFailed(Event):
    """A call failed in a way that nobody planned: a defect of ours."""

    level = "error"
    counter: ClassVar = _counter("flight_defects", "Flight calls that failed by a defect", "call")
    call: str
    error: str


@dataclass(frozen=True, kw_only=True)
class BatchesExcluded(Event):
    """A driver waited for a node in vain and plans its epoch without that node's batches, whose rows come again."""

    level = "warning"
    counter: ClassVar = _counter("batches_excluded", "Batches that a driver told this node to exclude", "subscription")
    subscription: str
    consumer: str
    epoch: int
    batches: int

    @property
    def amount(self) -> float:
        """One for each batch."""
        return self.batches


# --- ingest ---------------------------------------------------------------------------------------------------------


Part: TypeAlias = Literal["pull", "acks", "dead letters"]


@dataclass(frozen=True, kw_only=True)
class IngestFailed(Event):
    """A part of a subscription's way in failed in a way that nobody planned: a defect of ours."""

    level = "error"
    counter: ClassVar = _counter("ingest_defects", "Failures by a defect on the way in", "subscription", "part")
    subscription: str
    part: Part
    error: str
    exception: str

    @classmethod
    def of(
        cls, subscription: str, part: Literal["pull", "acks", "dead letters"], defect: BaseException
    ) -> IngestFailed:
        """With the traceback, which is what mends it."""
        text = "".join(traceback.format_exception(defect))
        return cls(subscription=subscription, part=part, error=repr(defect), exception=text)


# --- service --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Serving(Event):
    """The daemon is up."""

    listen: str
    port: int
    http: str
    node: str


@dataclass(frozen=True, kw_only=True)
class Draining(Event):
    """The daemon was told to stop."""

    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Drained(Event):
    """The drain is over; `unconfirmed` ack IDs were not confirmed by the service in time."""

    unconfirmed: int


@dataclass(frozen=True, kw_only=True)
class SubscriptionForgotten(Event):
    """Nobody has used a subscription for a while; its counts start again with the next reader."""

    subscription: str


@dataclass(frozen=True, kw_only=True)
class StoodStill(Event):
    """Time went on without the daemon: a suspended machine, a stopped process, a processor that others had."""

    level = "warning"
    counter: ClassVar = _counter("pauses", "Pauses of the whole daemon that leases may not have outlived")
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RowsLapsed(Event):
    """Unsealed rows whose ack deadline ran out were dropped; the service delivers them again."""

    level = "warning"
    rows: int


@dataclass(frozen=True, kw_only=True)
class ReadsCancelled(Event):
    """Readers that stood still lost their rows."""

    level = "warning"
    counter: ClassVar = _counter("reads_cancelled", "do_get calls cancelled because their reader stood still")
    reads: int

    @property
    def amount(self) -> float:
        """One for each read."""
        return self.reads


# --- storage --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recovered(Event):
    """The daemon took up what a process before it had sealed."""

    data_dir: str
    batches: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class JournalTruncated(Event):
    """What was being written when the machine stopped was cut off; nobody had been told of it."""

    level = "warning"
    path: str
    at: int
    torn_bytes: int


@dataclass(frozen=True, kw_only=True)
class DataDirUntrusted(Event):
    """The machine was restarted, and fsync was off: what the folder held is removed, and comes again."""

    level = "warning"
    data_dir: str


@dataclass(frozen=True, kw_only=True)
class BatchLost(Event):
    """The rows of a batch are not what was written: it is never served or acknowledged, its messages come again."""

    level = "error"
    counter: ClassVar = _counter("batches_lost", "Batches whose rows could not be read after a restart")
    batch: str
    epoch: int
    rows: int
    error: str


@dataclass(frozen=True, kw_only=True)
class DiskTrouble(Event):
    """Nothing can be written to the data_dir; pulling pauses until it can."""

    level = "error"
    counter: ClassVar = _counter("disk_troubles", "Times that the data_dir became full or could not be written")
    data_dir: str
    error: str
    free: str


@dataclass(frozen=True, kw_only=True)
class DiskRecovered(Event):
    """The data_dir can be written to again."""

    data_dir: str


@dataclass(frozen=True, kw_only=True)
class SpillOff(Event):
    """The system's temporary folder cannot take sealed batches, so they stay in memory."""

    level = "warning"
    spill_dir: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SpillFailed(Event):
    """A sealed batch could not be written to a temporary file and stays in memory; tried again after a while."""

    level = "warning"
    counter: ClassVar = _counter("spills_failed", "Sealed batches that could not be written to temporary files")
    spill_dir: str
    error: str
    free: str


@dataclass(frozen=True, kw_only=True)
class StorageFailed(Event):
    """The disk may have lost what it took: the daemon ends, and its successor checks what is left."""

    level = "error"
    error: str


# --- pubsub, continued ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StreamClosed(Event):
    """A pull stream ended and is opened again."""

    level = "debug"
    counter: ClassVar = _counter("pull_streams_closed", "StreamingPull calls ended", "subscription", "code")
    subscription: str
    stream: int
    code: str
    error: str


@dataclass(frozen=True, kw_only=True)
class StreamSilent(Event):
    """A pull stream did not answer keep-alives and is opened again."""

    level = "warning"
    counter: ClassVar = _counter("pull_streams_silent", "StreamingPull calls given up for silence", "subscription")
    subscription: str
    stream: int


@dataclass(frozen=True, kw_only=True)
class ResponseUndecodable(Event):
    """A response was not protobuf of the kind expected; it was dropped unacknowledged."""

    level = "error"
    counter: ClassVar = _counter("responses_undecodable", "Responses that could not be decoded", "subscription")
    subscription: str
    stream: int
    error: str


@dataclass(frozen=True, kw_only=True)
class SubscriptionFailed(Event):
    """The service refuses the subscription for good."""

    level = "error"
    counter: ClassVar = _counter("subscription_failures", "Fatal answers of the service", "subscription", "code")
    subscription: str
    code: str
    error: str


@dataclass(frozen=True, kw_only=True)
class SubscriptionUnseen(Event):
    """The subscription may not be described by this account; its properties stay unknown."""

    level = "warning"
    subscription: str
    error: str


@dataclass(frozen=True, kw_only=True)
class SubscriptionCreated(Event):
    """A driver asked for a subscription that did not exist."""

    subscription: str
    topic: str


@dataclass(frozen=True, kw_only=True)
class AckRetried(Event):
    """Acknowledge requests failed for now and are sent again."""

    level = "warning"
    counter: ClassVar = _counter("ack_retries", "Ack IDs sent again in an Acknowledge", "subscription", "code")
    subscription: str
    acks: int
    code: str
    error: str

    @property
    def amount(self) -> float:
        """One for each ID."""
        return self.acks


@dataclass(frozen=True, kw_only=True)
class AcksLost(Event):
    """The service refused ack IDs for good; their messages may be delivered again."""

    level = "error"
    counter: ClassVar = _counter("acks_lost", "Ack IDs that the service refused for good", "subscription", "code")
    subscription: str
    acks: int
    code: str
    error: str

    @property
    def amount(self) -> float:
        """One for each ID."""
        return self.acks


@dataclass(frozen=True, kw_only=True)
class ModackFailed(Event):
    """Lease extensions or releases failed for now."""

    level = "warning"
    counter: ClassVar = _counter(
        "modack_failures", "Ack IDs whose ModifyAckDeadline request failed", "subscription", "code"
    )
    subscription: str
    acks: int
    code: str
    error: str

    @property
    def amount(self) -> float:
        """One for each ID."""
        return self.acks


@dataclass(frozen=True, kw_only=True)
class BreakerOpened(Event):
    """Calls of one kind have failed for a while: from now on one of them at a time asks whether the service is back."""

    level = "warning"
    counter: ClassVar = _counter(
        "breakers_opened", "Outages of one kind of call", "subscription", "topic", "call", "code"
    )
    subscription: str = ""
    topic: str = ""
    call: str
    code: str
    error: str


@dataclass(frozen=True, kw_only=True)
class BreakerClosed(Event):
    """The service answers such calls again, `failed_s` after the first one that failed."""

    subscription: str = ""
    topic: str = ""
    call: str
    failed_s: float


@dataclass(frozen=True, kw_only=True)
class DeadLettersPublished(Event):
    """Messages that were delivered too often were published to the dead-letter topic."""

    level = "warning"
    counter: ClassVar = _counter("dead_letters_published", "Dead letters that were confirmed", "subscription")
    subscription: str
    topic: str
    messages: int

    @property
    def amount(self) -> float:
        """One for each message."""
        return self.messages


@dataclass(frozen=True, kw_only=True)
class DeadLettersRefused(Event):
    """Dead letters could not be published now. Their messages stay here, unacknowledged, and it is tried again."""

    level = "error"
    counter: ClassVar = _counter("dead_letters_refused", "Dead letters that were refused", "subscription", "code")
    subscription: str
    topic: str
    messages: int
    code: str
    error: str

    @property
    def amount(self) -> float:
        """One for each message and try."""
        return self.messages


@dataclass(frozen=True, kw_only=True)
class PublishRetried(Event):
    """Publish requests failed for now and are sent again."""

    level = "warning"
    counter: ClassVar = _counter("publish_retries", "Publish requests that were sent again", "topic", "code")
    topic: str
    requests: int
    code: str
    error: str

    @property
    def amount(self) -> float:
        """One for each request."""
        return self.requests


@dataclass(frozen=True, kw_only=True)
class PublishRefused(Event):
    """Messages of a write were not published; its caller gets the error."""

    level = "error"
    counter: ClassVar = _counter("publish_failures", "Messages that could not be published", "topic", "code")
    topic: str
    messages: int
    code: str
    error: str

    @property
    def amount(self) -> float:
        """One for each message."""
        return self.messages


@dataclass(frozen=True, kw_only=True)
class RowsInvalid(Event):
    """Rows that Pub/Sub would refuse were left out, or went to the dead-letter topic, as the writer asked."""

    level = "warning"
    counter: ClassVar = _counter("publish_invalid_rows", "Rows that Pub/Sub would refuse", "topic", "outcome")
    topic: str
    outcome: str
    rows: int
    reason: str

    @property
    def amount(self) -> float:
        """One for each row."""
        return self.rows


@dataclass(frozen=True, kw_only=True)
class TopicCreated(Event):
    """A writer asked for a topic that did not exist."""

    topic: str


@dataclass(frozen=True, kw_only=True)
class PrefetchFailed(Event):
    """A subscription that is to be prefetched cannot be opened now; it is tried again."""

    level = "warning"
    subscription: str
    error: str
