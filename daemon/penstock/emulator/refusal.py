"""How the emulator says no: one exception that carries a gRPC status, and the service's own wordings."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

# What the service writes when it ends a healthy StreamingPull after its maximal age.
STREAM_TOO_OLD = "The service was unable to fulfill your request. Please try again. [code=8a75]"

# From reports against Google's clients (googleapis/nodejs-pubsub#1951).
_ACK_IDS_INVALID = (
    "Some acknowledgement ids in the request were invalid. This could be because the acknowledgement ids have expired "
    "or the acknowledgement ids were malformed."
)


class Refused(Exception):
    """A call that ends with a status other than OK; raised where it is decided, sent by the handler."""

    def __init__(
        self, code: grpc.StatusCode, message: str, trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailing_metadata = trailing_metadata


def unavailable(message: str) -> Refused:
    """UNAVAILABLE."""
    return Refused(grpc.StatusCode.UNAVAILABLE, message)


def invalid(message: str) -> Refused:
    """INVALID_ARGUMENT."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(name: str) -> Refused:
    """NOT_FOUND in the service's words; `name` is the full resource name."""
    return Refused(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name.rsplit('/', 1)[-1]}).")


def already_exists(name: str) -> Refused:
    """ALREADY_EXISTS in the service's words."""
    return Refused(
        grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={name.rsplit('/', 1)[-1]})."
    )


def detached(name: str) -> Refused:
    """FAILED_PRECONDITION for a subscription without a topic."""
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, f"Subscription {name} is detached.")


def malformed_ack_id(ack_id: str) -> Refused:
    """INVALID_ARGUMENT for an ack ID that this subscription cannot have given out."""
    return invalid(f"You have passed an invalid ack ID to the service (ack_id={ack_id[:200]}).")


def exactly_once_failure(failed: Mapping[str, str]) -> Refused:
    """INVALID_ARGUMENT with `google.rpc.ErrorInfo`, whose metadata says for each failed ack ID why.

    `failed`: ack ID → `PERMANENT_FAILURE_INVALID_ACK_ID` or a `TRANSIENT_FAILURE_...`.
    """
    info = error_details_pb2.ErrorInfo(
        reason="EXACTLY_ONCE_ACKID_FAILURE", domain="pubsub.googleapis.com", metadata=dict(failed)
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(
        code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=_ACK_IDS_INVALID, details=[detail]
    )
    return Refused(
        grpc.StatusCode.INVALID_ARGUMENT,
        _ACK_IDS_INVALID,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
