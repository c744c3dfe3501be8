"""Every error that Penstock raises on purpose, split by whose fault it is.

::

    PenstockError
    ├── CallerError               the request, option or setting must change
    │   ├── InvalidRequest        INVALID_REQUEST         a body, ticket or argument that cannot be read
    │   ├── InvalidOption         INVALID_OPTION          a Spark option or a setting
    │   ├── ProtocolMismatch      PROTOCOL_MISMATCH       client and daemon speak different versions
    │   ├── SubscriptionNotAllowed SUBSCRIPTION_NOT_ALLOWED  the daemon's settings do not list it
    │   ├── SubscriptionChanged   SUBSCRIPTION_CHANGED    a checkpoint of another subscription
    │   ├── SubscriptionShared    SUBSCRIPTION_SHARED     another live consumer reads it
    │   ├── TooManyConsumers      TOO_MANY_CONSUMERS
    │   ├── TopicNotAllowed       TOPIC_NOT_ALLOWED       the daemon's settings do not list it
    │   ├── InvalidMessage        INVALID_MESSAGE         a row that Pub/Sub would refuse
    │   ├── ReaderFenced          READER_FENCED           a newer reader took the consumer over
    │   ├── EpochPast             EPOCH_PAST              the epoch was committed before
    │   ├── BatchGone             BATCH_GONE              acknowledged, released or lost; for good
    │   └── PlanGone              PLAN_GONE               a restarted plan host: the query has to plan again
    ├── ServiceError              Google Cloud Pub/Sub said no
    │   ├── SubscriptionFailed    SUBSCRIPTION_FAILED     with Google's own code and message
    │   └── PublishFailed         PUBLISH_FAILED          rows that Pub/Sub refused, or took too long to take
    └── NodeError                 a daemon, or the way to it
        ├── NodeUnreachable       NODE_UNREACHABLE
        ├── ServiceUnavailable    SERVICE_UNAVAILABLE     a daemon cannot reach Pub/Sub now
        ├── OpenAgain             OPEN_AGAIN              a restarted daemon does not know this reader
        ├── Draining              DRAINING                the daemon is shutting down
        ├── DiskFull              DISK_FULL               a daemon cannot write to its data_dir now
        ├── ReadIdle              READ_IDLE               a do_get stood still for too long
        ├── ReadIncomplete        READ_INCOMPLETE         fewer or more rows than the ticket names
        ├── WriteIncomplete       WRITE_INCOMPLETE        a daemon did not say that every row was published
        └── InternalError         INTERNAL                a defect of ours

On the wire an error is JSON: ``{"code", "message", "node", ...details}`` (`PenstockError.to_dict`).
"""

from __future__ import annotations

from typing import Any, ClassVar


class PenstockError(Exception):
    """Base of all. `message` is written for the reader of a Spark exception: what, which value, what to do.

    `node` names the daemon that said it ("" when it was said locally); `details` are JSON values.
    """

    code: ClassVar[str] = "PENSTOCK"

    def __init__(self, message: str, *, node: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.details = details

    def __str__(self) -> str:
        """Code, message and node: all that a Spark stack trace shows of it."""
        where = f" (node {self.node})" if self.node else ""
        return f"[{self.code}] {self.message}{where}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with details: Spark carries errors between processes."""
        return (_rebuild, (type(self), self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The form on the wire."""
        return {"code": self.code, "message": self.message, "node": self.node, **self.details}


class CallerError(PenstockError):
    """The request, option or setting must change."""


class InvalidRequest(CallerError):
    """A body, ticket or argument that cannot be read."""

    code = "INVALID_REQUEST"


class InvalidOption(CallerError):
    """A Spark option or a daemon setting that is unknown, contradictory or out of range."""

    code = "INVALID_OPTION"


class ProtocolMismatch(CallerError):
    """Client and daemon speak different protocol versions."""

    code = "PROTOCOL_MISMATCH"


class SubscriptionNotAllowed(CallerError):
    """The daemon's settings do not list this subscription."""

    code = "SUBSCRIPTION_NOT_ALLOWED"


class SubscriptionChanged(CallerError):
    """The checkpoint belongs to another subscription."""

    code = "SUBSCRIPTION_CHANGED"


class SubscriptionShared(CallerError):
    """Another live consumer reads this subscription."""

    code = "SUBSCRIPTION_SHARED"


class TooManyConsumers(CallerError):
    """The daemon holds as many consumers as it may."""

    code = "TOO_MANY_CONSUMERS"


class TopicNotAllowed(CallerError):
    """The daemon's settings do not list this topic."""

    code = "TOPIC_NOT_ALLOWED"


class InvalidMessage(CallerError):
    """A row that Pub/Sub would refuse for what it is; `details["row"]` is its number within the write, from 0."""

    code = "INVALID_MESSAGE"


class ReaderFenced(CallerError):
    """A newer reader has taken this consumer over; this one must stop all its calls."""

    code = "READER_FENCED"


class EpochPast(CallerError):
    """The epoch was committed before: another driver moved on, or the checkpoint was rolled back."""

    code = "EPOCH_PAST"


class BatchGone(CallerError):
    """The node does not have the batch any more, and never will."""

    code = "BATCH_GONE"


class PlanGone(CallerError):
    """The plan's host does not know it (any more), so it cannot tell which slices were dealt: it deals none."""

    code = "PLAN_GONE"


class ServiceError(PenstockError):
    """Google Cloud Pub/Sub said no."""


class SubscriptionFailed(ServiceError):
    """A fatal answer of the service; `details["service_code"]` is the gRPC code's name."""

    code = "SUBSCRIPTION_FAILED"


class PublishFailed(ServiceError):
    """Rows were not published, or it is not known of them.

    `details`: `rows` taken, `published` of them confirmed, `topic`, `service_code` (the gRPC code's name, or
    FLUSH_TIMEOUT).
    """

    code = "PUBLISH_FAILED"


class NodeError(PenstockError):
    """A daemon, or the way to it."""


class NodeUnreachable(NodeError):
    """A daemon did not answer."""

    code = "NODE_UNREACHABLE"


class ServiceUnavailable(NodeError):
    """A daemon cannot reach Pub/Sub now, or is told to come later; a later call may succeed."""

    code = "SERVICE_UNAVAILABLE"


class OpenAgain(NodeError):
    """The daemon does not know this reader (it was restarted, or gave the consumer up): call `open`."""

    code = "OPEN_AGAIN"


class Draining(NodeError):
    """The daemon is shutting down and seals nothing new."""

    code = "DRAINING"


class DiskFull(NodeError):
    """The daemon cannot write to its `data_dir` now, so nothing new is sealed or decided."""

    code = "DISK_FULL"


class ReadIdle(NodeError):
    """A `do_get` made no progress within the daemon's `read_idle_s`."""

    code = "READ_IDLE"


class ReadIncomplete(NodeError):
    """A `do_get` ended with fewer or more rows than its ticket names."""

    code = "READ_INCOMPLETE"


class WriteIncomplete(NodeError):
    """A `do_put` ended without the daemon's word that every row was published."""

    code = "WRITE_INCOMPLETE"


class InternalError(NodeError):
    """A defect of ours; the daemon's log has the traceback."""

    code = "INTERNAL"


def _leaves(kind: type[PenstockError]) -> list[type[PenstockError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _leaves(child))]


BY_CODE: dict[str, type[PenstockError]] = {kind.code: kind for kind in _leaves(PenstockError) if "code" in vars(kind)}


def from_dict(said: dict[str, Any]) -> PenstockError:
    """The error that `to_dict` wrote; a code from a newer version becomes a plain `PenstockError`."""
    return _rebuild(BY_CODE.get(str(said.get("code")), PenstockError), said)


def _rebuild(kind: type[PenstockError], said: dict[str, Any]) -> PenstockError:
    details = {key: value for key, value in said.items() if key not in {"code", "message", "node"}}
    return kind(str(said.get("message", "")), node=str(said.get("node", "")), **details)
