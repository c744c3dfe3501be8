"""One Flight connection to one daemon. Foreign errors end here: what leaves is a `PenstockError`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.flight as fl

from penstock.client.put import Put, Told
from penstock.client.whole import whole_slice, whole_write
from penstock.contract import project
from penstock.contract.actions import ACTIONS, Ticket
from penstock.contract.body import Request
from penstock.contract.publishing import PutReply, PutRequest
from penstock.errors import (
    InternalError,
    InvalidOption,
    NodeUnreachable,
    PenstockError,
    ProtocolMismatch,
    from_dict,
)

_CHANNEL: list[tuple[str, int]] = [
    # A repeated action is the driver's decision, never gRPC's (design.md, section 6).
    ("grpc.enable_retries", 0),
    # A restarted daemon is found within a second; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a word ends a call, but not soon: a Flight server ends connections that ping more
    # often than every five minutes while it has nothing to say, as to a reader that pauses; it has no setting for that.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Two clients in one process are two connections, so that one's trouble is not the other's.
    ("grpc.use_local_subchannel_pool", 1),
]


class Node(Protocol):
    """What a driver needs of a daemon; tests and simulations bring their own."""

    @property
    def endpoint(self) -> str:
        """Where it is, for messages: `host:port`."""

    def call(self, action: str, request: Request) -> Any:
        """The reply body of `ACTIONS[action]`. Raises `PenstockError`."""

    def close(self) -> None:
        """Let the connection go."""


class NodeClient:
    """Satisfies `Node`. May be used from several threads. Nothing is connected before the first call."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = host_and_port(endpoint)
        try:
            self._client = fl.FlightClient(f"grpc://{self.endpoint}", generic_options=_CHANNEL)
        except pa.ArrowInvalid as error:
            raise InvalidOption(f"daemon address {endpoint!r}: {error}") from error

    def __repr__(self) -> str:
        """Where it leads."""
        return f"NodeClient({self.endpoint!r})"

    def __enter__(self) -> Self:
        """Close with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def call(self, action: str, request: Request, deadline_s: float | None = None) -> Any:
        """One action within its own deadline, or that one; the reply's class is that of `ACTIONS[action]`.

        Raises what the daemon said, or `NodeUnreachable` when it did not answer (whether it acted is unknown then).
        """
        known = ACTIONS[action]
        deadline_s = known.deadline_s if deadline_s is None else deadline_s
        options = fl.FlightCallOptions(timeout=deadline_s)
        try:
            replies = list(self._client.do_action(fl.Action(action, request.to_json()), options))
        except (fl.FlightError, pa.ArrowException) as error:
            raise self._translated(error, f"{action}, deadline {deadline_s:g} s") from error
        if len(replies) != 1:
            raise InternalError(f"{action} at {self.endpoint}: {len(replies)} replies where one is due")
        return known.reply.from_json(replies[0].body.to_pybytes())

    def read(self, ticket: Ticket) -> Iterator[pa.RecordBatch]:
        """The rows of a ticket, all of them or an error: never an empty read in place of rows.

        Raises `ReadIncomplete` at the end if their number is not the ticket's, `BatchGone`, `NodeUnreachable`.
        """
        try:
            reader = self._client.do_get(fl.Ticket(ticket.to_json()))
            self._check_schema(reader.schema, ticket)
        except (fl.FlightError, pa.ArrowException) as error:
            raise self._translated(error, "do_get") from error
        try:
            yield from whole_slice(ticket, self._parts(reader), self.endpoint)
        finally:
            with contextlib.suppress(pa.ArrowException):
                reader.cancel()

    def put(
        self,
        request: PutRequest,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        told: Told | None = None,
    ) -> PutReply:
        """Publish rows: the reply comes when Pub/Sub has confirmed every one, or there is an error. Never a half.

        `told` is called with progress on a thread of its own, if the request asks for it. An error of `batches`
        or `told` ends the write and is raised. Raises what the daemon says, `NodeUnreachable`, `WriteIncomplete`.
        """
        descriptor = fl.FlightDescriptor.for_command(request.to_json())
        put = None
        try:
            writer, reader = self._client.do_put(descriptor, schema)
            put = Put(writer, reader, schema, told)
            put.send(batches)
        except (fl.FlightError, pa.ArrowException) as error:
            if put is not None and put.source_failed:
                raise
            raise self._translated(error, "do_put") from error
        return whole_write(put.rows, put.said, self.endpoint)

    def close(self) -> None:
        """End the connection; running reads fail."""
        self._client.close()

    def _parts(self, reader: fl.FlightStreamReader) -> Iterator[fl.FlightStreamChunk]:
        while True:
            try:
                part = reader.read_chunk()
            except StopIteration:
                return
            except (fl.FlightError, pa.ArrowException) as error:
                raise self._translated(error, "do_get") from error
            yield part

    def _check_schema(self, schema: pa.Schema, ticket: Ticket) -> None:
        if not schema.equals(project(ticket.columns)):
            raise ProtocolMismatch(
                f"rows from {self.endpoint} have the columns {', '.join(schema.names)} with other types or names than "
                "this client expects: install the same release of penstock on both sides"
            )

    def _translated(self, error: Exception, doing: str) -> PenstockError:
        said = _said(getattr(error, "extra_info", b""))
        if said is not None:
            return said
        if isinstance(error, fl.FlightTimedOutError):
            return NodeUnreachable(
                f"the daemon at {self.endpoint} did not answer in time ({doing})", endpoint=self.endpoint
            )
        if isinstance(error, fl.FlightUnavailableError | fl.FlightCancelledError):
            return unreachable(self.endpoint)
        if isinstance(error, fl.FlightUnauthenticatedError | fl.FlightUnauthorizedError):
            return InternalError(f"{self.endpoint} refused {doing}: {error}")
        # A connection that ends in the middle of a stream comes as one of several internal errors of gRPC.
        return NodeUnreachable(
            f"what answers at {self.endpoint} broke off {doing}, or is not a penstock daemon of this release: {error}",
            endpoint=self.endpoint,
        )


def unreachable(endpoint: str) -> NodeUnreachable:
    """The error for an address where nobody answers, with the way out."""
    return NodeUnreachable(
        f"no penstock daemon answers at {endpoint}: start one with `penstock serve --listen grpc://{endpoint} "
        "--subscription projects/PROJECT/subscriptions/ID`, or name its address in the option `daemons`",
        endpoint=endpoint,
    )


def host_and_port(endpoint: str) -> str:
    """`host:port` from that or from `grpc://host:port`. Raises `InvalidOption`."""
    address = endpoint.strip().removeprefix("grpc://").removeprefix("grpc+tcp://").rstrip("/")
    host, _, port = address.rpartition(":")
    if (
        not host
        or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)
        or "/" in address
        or "," in address
    ):
        raise InvalidOption(f"daemon address {endpoint!r}: write host:port, such as localhost:8815")
    return address


def _said(extra_info: bytes | None) -> PenstockError | None:
    """The error that a daemon put beside Flight's own; None when there is none of ours."""
    try:
        said = json.loads(extra_info or b"")
    except ValueError:
        return None
    return from_dict(said) if isinstance(said, dict) and "code" in said else None
