"""Reads what gRPC brings of a refused Acknowledge or ModifyAckDeadline."""

from __future__ import annotations

import contextlib

import grpc.aio
import pyarrow as pa
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from penstock.pubsub.refusal import PERMANENT, TRANSIENT, Refusal, judged

_STATUS_DETAILS = "grpc-status-details-bin"


def refusal(error: grpc.aio.AioRpcError, ack_ids: pa.Array) -> Refusal:
    """What an error of the service means for the IDs of the request that it answers."""
    return judged(error.code().name, error.details() or "", _per_id(error), ack_ids)


def _per_id(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Ack ID → `TRANSIENT_…` or `PERMANENT_…`, from the ErrorInfo in the error's details."""
    failures: dict[str, str] = {}
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_DETAILS and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):  # then the code speaks for all
                for detail in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info):
                        pairs = info.metadata.items()
                        failures.update((k, v) for k, v in pairs if v.startswith((TRANSIENT, PERMANENT)))
    return failures
