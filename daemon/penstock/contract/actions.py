"""Bodies of the Flight actions, protocol version 1, and the ticket. `ACTIONS` is the list that `list_actions` tells.

Times of messages are RFC 3339 strings in UTC, durations carry `_s`. Where a field is None it is left out on the wire.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from penstock.contract.body import Body, Request
from penstock.contract.names import Reader


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderRequest(Request):
    """A call that one reader makes for a consumer.

    `node`: the one that it takes for the callee, since an address may lead to another one by now; None: any.
    """

    consumer: str
    reader: Reader
    node: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreateSubscription(Body):
    """How to create a subscription that does not exist; None leaves the service's default."""

    topic: str
    ack_deadline_seconds: int | None = None
    enable_message_ordering: bool | None = None
    enable_exactly_once_delivery: bool | None = None
    filter: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenRequest(ReaderRequest):
    """Take a consumer over. `after` is the last epoch that Spark has finished (0: none).

    `dedupe`: of messages that Penstock's sink has published more than once, with `tracing`, only one becomes a row.
    """

    subscription: str
    after: int
    share: bool = False
    dedupe: bool = False
    create: CreateSubscription | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenReply(Body):
    """`schema`: the rows' Arrow schema as base64 of its IPC form. `held`: epoch → batch ID.

    `endpoint`: the address that tasks use, `grpc://host:port`; None: the one that the driver uses.
    """

    node: str
    incarnation: str
    schema: str
    held: dict[int, str]
    generation: int
    excluded: tuple[str, ...]
    heartbeat_s: float
    endpoint: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AliveRequest(ReaderRequest):
    """The driver's heartbeat."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByeRequest(ReaderRequest):
    """The reader was told to stop: its contact counts as lost at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloseRequest(ReaderRequest):
    """The consumer ends for good: what it holds is released, and the daemon forgets it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BacklogRequest(ReaderRequest):
    """With `wait_s` (at most 30), answered as soon as an unsealed row is there."""

    wait_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backlog(Body):
    """What waits unsealed on one node.

    `paused`: waiting brings nothing more. Pulling stands still (the daemon drains, its disk cannot be written, the
    memory is used up, the oldest row is too old, or the queue holds more than the next batch takes), or the service
    sends nothing before something is acknowledged (the pull streams' flow control is used up).
    `streams_open_s`: for how long every pull stream has been open; None when one is not.
    `trouble`: what Pub/Sub has refused for a while, with its code and words; it passes or is mended there.
    """

    rows: int
    bytes: int
    oldest_publish_time: str | None = None
    oldest_age_s: float | None = None
    paused: bool = False
    draining: bool = False
    streams_open_s: float | None = None
    trouble: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealRequest(ReaderRequest):
    """Seal epoch `epoch`, the one after `after`; limits of None are the daemon's own."""

    epoch: int
    after: int
    max_rows: int | None = None
    max_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealReply(Body):
    """`batch` is None when nothing was buffered."""

    backlog: Backlog
    batch: str | None = None
    rows: int = 0
    bytes: int = 0
    oldest_publish_time: str | None = None
    newest_publish_time: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRequest(ReaderRequest):
    """Cut a batch into at most `slices` slices of the columns wanted (None: all)."""

    epoch: int
    batch: str
    slices: int
    columns: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ticket(Request):
    """Names the rows of one `do_get`: slice `slice` of `slices` of a batch, which has `rows` rows."""

    batch: str
    slice: int
    slices: int
    rows: int
    columns: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedSlice(Body):
    """A slice that has rows."""

    ticket: Ticket
    rows: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanReply(Body):
    """The slices with rows, in order."""

    slices: tuple[PlannedSlice, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedSlice(Body):
    """A slice and where it is: the node that has it, and the address at which tasks read it."""

    node: str
    endpoint: str
    ticket: Ticket


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssignRequest(ReaderRequest):
    """Make the callee the host of a plan: it deals these slices to the partitions that claim one.

    `plan`: fresh for each list; the same list under a known one keeps its claims, another list is refused.
    """

    epoch: int
    plan: str
    slices: tuple[PlacedSlice, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssignReply(Body):
    """`incarnation`: of the host, whose claims end with its process.

    `claims`: slices of the subscription that it has dealt since it started; `local`: to tasks beside them.
    """

    incarnation: str
    claims: int = 0
    local: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimRequest(Request):
    """A task asks which slice partition `partition` of a plan reads; `near`: the node beside it, None: none is.

    The same slice whenever this partition asks. Not a reader's call, and no contact.
    """

    plan: str
    incarnation: str
    partition: int
    near: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimReply(Body):
    """The slice that belongs to the partition from now on."""

    slice: PlacedSlice


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExcludeRequest(ReaderRequest):
    """Batches that plans of an epoch leave out for good, since their node has given them back: never acknowledged."""

    epoch: int
    batches: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedEpoch(Body):
    """An epoch that Spark has finished, and the batches its offset names: node ID → batch ID."""

    epoch: int
    nodes: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommitRequest(ReaderRequest):
    """`excluded`: batch IDs that some plan of these epochs left out. `task`: carried by a task, so it is no contact."""

    epochs: tuple[FinishedEpoch, ...]
    excluded: tuple[str, ...] = ()
    task: bool = False


class CommitState(enum.StrEnum):
    """What became of a daemon's part of a finished epoch."""

    ACKED = "acked"
    PENDING = "pending"
    RELEASED = "released"
    REQUEUED = "requeued"
    GONE = "gone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommitReply(Body):
    """Epoch → a `CommitState`. The driver asks again until nothing is pending."""

    epochs: dict[int, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseRequest(ReaderRequest):
    """Give one batch back to Pub/Sub at once."""

    epoch: int
    batch: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatusRequest(Request):
    """With `consumer`, the reply's `generation` is that consumer's."""

    consumer: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accounting(Body):
    """Where the messages of a subscription are that a node has taken in since it started.

    `received` came from Pub/Sub (each delivery counts), `recovered` from storage. Each is in one of `places`:

    * held: `buffered` (no batch has taken it), `in_batches` (sealed, or committed and not confirmed yet),
      `dead_letters_pending` (delivered too often, its dead letter or its ack not confirmed yet), `duplicates_pending`
      (repeats a row that is held, and is acknowledged or given back with it);
    * acknowledged: `acknowledged` (confirmed), `known` (a redelivery of a processed message, acknowledged again and
      dropped), `duplicates` (repeated a row that was processed: the option `dedupe`), `dead_lettered` (published to the
      dead-letter topic), `acks_lost` (processed, and the service refused the ack for good);
    * somebody else's again: `released` (given back at once), `lapsed` (its lease ran out here).

    `unaccounted`: what is in none, or less than 0 for what is in two; anything but 0 is a defect.
    """

    received: int
    recovered: int
    places: dict[str, int]
    unaccounted: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatusReply(Body):
    """`generation`: of the consumer asked for, 0 when unknown. `subscriptions`: name → figures for people and tools.

    `storage`: figures of the `data_dir`, `spill`: of the temporary files, `publishing`: of what is published, by topic;
    None where there are none.
    Of these figures `accounting` is an `Accounting`.
    """

    node: str
    incarnation: str
    version: str
    state: str
    generation: int
    subscriptions: dict[str, Any]
    memory: dict[str, Any]
    storage: dict[str, Any] | None = None
    spill: dict[str, Any] | None = None
    publishing: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrainRequest(Request):
    """Begin the shutdown that SIGTERM begins."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Empty(Body):
    """A reply that says nothing but that it was done."""


@dataclasses.dataclass(frozen=True)
class Action:
    """One Flight action: its bodies, how long a client waits for it, and what `list_actions` says."""

    name: str
    request: type[Request]
    reply: type[Body]
    deadline_s: float
    description: str


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        # `open` may create a subscription, which takes the service seconds.
        Action("open", OpenRequest, OpenReply, 30.0, "take a consumer over; starts pulling"),
        Action("alive", AliveRequest, Empty, 5.0, "the driver's heartbeat"),
        Action("bye", ByeRequest, Empty, 2.0, "the reader stops; another consumer may take over"),
        Action("close", CloseRequest, Empty, 5.0, "the consumer ends for good; its messages go back"),
        # Waits up to `wait_s` (30) on top of the call itself.
        Action(
            "backlog", BacklogRequest, Backlog, 35.0, "what waits unsealed; with wait_s answers when something does"
        ),
        Action("seal", SealRequest, SealReply, 10.0, "make the batch of an epoch; idempotent"),
        Action("plan", PlanRequest, PlanReply, 10.0, "the slices of a batch, with tickets"),
        Action("assign", AssignRequest, AssignReply, 10.0, "make this node the host of a plan, which deals its slices"),
        Action("claim", ClaimRequest, ClaimReply, 10.0, "the slice of a partition of a plan, the same one every time"),
        Action("exclude", ExcludeRequest, Empty, 10.0, "batches that plans of an epoch leave out: never acknowledged"),
        Action("commit", CommitRequest, CommitReply, 10.0, "finished epochs: acknowledge what they name"),
        Action("release", ReleaseRequest, Empty, 5.0, "give a batch back to Pub/Sub"),
        Action("status", StatusRequest, StatusReply, 5.0, "figures and states"),
        Action("drain", DrainRequest, Empty, 5.0, "begin to shut down"),
    )
}
