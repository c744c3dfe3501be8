"""What a Subscription resource means for delivery, read once from its proto and checked as the service checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.emulator.filters import Filter, parse_filter
from penstock.emulator.refusal import invalid

MIN_ACK_DEADLINE_S = 10
MAX_ACK_DEADLINE_S = 600

_DAY_S = 86_400
_DEFAULT_RETENTION_S = 7 * _DAY_S
_MIN_RETENTION_S = 600
_MAX_RETENTION_S = 31 * _DAY_S
_MAX_BACKOFF_S = 600
_DEFAULT_MAX_ATTEMPTS = 5
_MIN_ATTEMPTS, _MOST_ATTEMPTS = 5, 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a message goes that has been delivered `max_attempts` times in vain."""

    topic: str
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a nacked message waits: `minimum_s`, doubled with each delivery, at most `maximum_s`."""

    minimum_s: float
    maximum_s: float


@dataclass(frozen=True, slots=True)
class SubscriptionConfig:
    """The parts of a Subscription that decide about delivery."""

    ack_deadline_s: int
    ordering: bool
    exactly_once: bool
    retain_acked: bool
    retention_s: float
    filter: Filter | None
    dead_letter: DeadLetter | None
    backoff: Backoff | None


def complete(proto: Any) -> None:
    """Fill in the service's defaults. `proto`: a `google.pubsub.v1.Subscription`, changed in place."""
    if proto.ack_deadline_seconds == 0:
        proto.ack_deadline_seconds = MIN_ACK_DEADLINE_S
    if not proto.HasField("message_retention_duration"):
        proto.message_retention_duration.FromSeconds(_DEFAULT_RETENTION_S)
    if not proto.HasField("expiration_policy"):
        proto.expiration_policy.ttl.FromSeconds(31 * _DAY_S)
    if proto.HasField("dead_letter_policy") and proto.dead_letter_policy.max_delivery_attempts == 0:
        proto.dead_letter_policy.max_delivery_attempts = _DEFAULT_MAX_ATTEMPTS
    if proto.HasField("retry_policy"):
        if not proto.retry_policy.HasField("minimum_backoff"):
            proto.retry_policy.minimum_backoff.FromSeconds(10)
        if not proto.retry_policy.HasField("maximum_backoff"):
            proto.retry_policy.maximum_backoff.FromSeconds(_MAX_BACKOFF_S)


def read_config(proto: Any) -> SubscriptionConfig:
    """From a completed Subscription proto. Raises `Refused` (INVALID_ARGUMENT)."""
    _within("ack deadline", proto.ack_deadline_seconds, MIN_ACK_DEADLINE_S, MAX_ACK_DEADLINE_S)
    retention_s = _seconds(proto.message_retention_duration)
    _within("message retention duration", retention_s, _MIN_RETENTION_S, _MAX_RETENTION_S)
    if proto.push_config.push_endpoint or proto.HasField("bigquery_config") or proto.HasField("cloud_storage_config"):
        raise invalid("This emulator has pull subscriptions only: no push, BigQuery or Cloud Storage delivery.")
    dead_letter = None
    if proto.dead_letter_policy.dead_letter_topic:
        attempts = proto.dead_letter_policy.max_delivery_attempts
        _within("max_delivery_attempts", attempts, _MIN_ATTEMPTS, _MOST_ATTEMPTS)
        dead_letter = DeadLetter(proto.dead_letter_policy.dead_letter_topic, attempts)
    backoff = None
    if proto.HasField("retry_policy"):
        backoff = Backoff(_seconds(proto.retry_policy.minimum_backoff), _seconds(proto.retry_policy.maximum_backoff))
        _within("minimum_backoff", backoff.minimum_s, 0, backoff.maximum_s)
        _within("maximum_backoff", backoff.maximum_s, 0, _MAX_BACKOFF_S)
    return SubscriptionConfig(
        ack_deadline_s=proto.ack_deadline_seconds,
        ordering=proto.enable_message_ordering,
        exactly_once=proto.enable_exactly_once_delivery,
        retain_acked=proto.retain_acked_messages,
        retention_s=retention_s,
        filter=parse_filter(proto.filter) if proto.filter else None,
        dead_letter=dead_letter,
        backoff=backoff,
    )


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)


def _within(what: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise invalid(f"Invalid {what} of {value:g}: it must be between {least:g} and {most:g}.")
