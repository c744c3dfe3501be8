"""The Flight server itself: C++ threads in, the loop in the middle, errors as JSON out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from penstock.clock import Clock
from penstock.contract import MAX_BODY_BYTES, PROTOCOL_VERSION, ROWS_SCHEMA, project
from penstock.contract.actions import ACTIONS, PlanRequest, Ticket
from penstock.contract.publishing import PutRequest
from penstock.errors import (
    InternalError,
    InvalidOption,
    InvalidRequest,
    NodeError,
    PenstockError,
)
from penstock.flight.actions import Actions
from penstock.flight.puts import Outlet, Put, WriterGone
from penstock.flight.reads import Read, Reads
from penstock.reservoir import Reservoir
from penstock.telemetry import events

MAX_MESSAGE_BYTES, MAX_DETAIL_BYTES = 1200, 400
"""Of an error and of each of its details, escaped. They travel in gRPC's trailers, escaped in three ways; of more than
8 KiB in all a client gets an error of its gRPC instead of ours (https://grpc.io/docs/guides/metadata)."""

CROSSING_S = 40.0
"""How long a Flight thread waits for the loop; above every action's own deadline."""

Handler = TypeVar("Handler", bound=Callable[..., Any])
Result = TypeVar("Result")


def _answering_errors(handler: Handler) -> Handler:
    """Every error leaves as the fitting Flight error with JSON; one that nobody planned is logged and named so."""

    @functools.wraps(handler)
    def wrapped(self: FlightServer, context: fl.ServerCallContext, *arguments: Any) -> Any:
        try:
            return handler(self, context, *arguments)
        except PenstockError as error:
            raise self.flight_error(error) from error
        except fl.FlightCancelledError:
            raise
        except Exception as error:  # the door: a defect must reach the caller as an error, not end the connection
            events.RequestFailed(call=handler.__name__, error=repr(error)).emit()
            raise self.flight_error(InternalError(f"{handler.__name__} failed: {error!r}")) from error

    return wrapped  # type: ignore[return-value]


class FlightServer(fl.FlightServerBase):  # type: ignore[misc]
    """Serves the protocol of design.md, section 6, on `location` (`grpc://host:port`, port 0 for any)."""

    def __init__(  # noqa: PLR0913 - composed in one place
        self,
        location: str,
        *,
        loop: asyncio.AbstractEventLoop,
        reservoir: Reservoir,
        actions: Actions,
        clock: Clock,
        read_idle_s: float,
        advertise: str | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        self._loop = loop
        self._outlet = outlet
        self._advertise = advertise
        self._reservoir = reservoir
        self._actions = actions
        self.reads = Reads(clock, read_idle_s)
        # It answers from here on, on threads of its own. `serve` would only wait, and it takes SIGTERM and SIGINT for
        # itself: the port would close at once, and no drain could serve what is sealed.
        try:
            super().__init__(location)
        except (pa.ArrowException, OSError) as error:
            # Arrow does not say why; gRPC's native part does, on standard error.
            raise InvalidOption(f"listen = {location!r}: cannot listen there; is the port taken? ({error})") from error

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Close the port and end running calls; whether all of them ended.

        Blocks, so call it off the loop, which running calls may need. A reader that stands still holds its call for
        ever: after `timeout_s` it is left to the end of the process.
        """
        stopping = threading.Thread(target=self.shutdown, name="flight-shutdown", daemon=True)
        stopping.start()
        stopping.join(timeout_s)
        return not stopping.is_alive()

    def flight_error(self, error: PenstockError) -> fl.FlightError:
        """The Flight error that carries an error of ours."""
        message = _carried(error.message, MAX_MESSAGE_BYTES)
        details = {
            key: _carried(value, MAX_DETAIL_BYTES) if isinstance(value, str) else value
            for key, value in error.details.items()
        }
        said = {"code": error.code, "message": message, "node": error.node or self._reservoir.node, **details}
        passing = isinstance(error, NodeError) and not isinstance(error, InternalError)
        kind = fl.FlightUnavailableError if passing else fl.FlightServerError
        return kind(f"[{error.code}] {message}", json.dumps(said).encode())

    @_answering_errors
    def do_action(self, context: fl.ServerCallContext, action: fl.Action) -> Iterator[fl.Result]:
        """One action; its reply is one result."""
        body = action.body
        _check_size(action.type, body.size)
        reply = self._on_loop(self._actions.call(action.type, body.to_pybytes()))
        return iter([fl.Result(pa.py_buffer(reply))])

    @_answering_errors
    def list_actions(self, context: fl.ServerCallContext) -> list[tuple[str, str]]:
        """Names and what they do."""
        return [(a.name, f"{a.description} (deadline {a.deadline_s:g} s)") for a in ACTIONS.values()]

    @_answering_errors
    def do_get(self, context: fl.ServerCallContext, ticket: fl.Ticket) -> fl.FlightDataStream:
        """The rows of a ticket."""
        wanted = _ticket(ticket.ticket)
        snapshot = self._on_loop(self._now(lambda: self._reservoir.read(wanted)))
        read = self.reads.start(snapshot, wanted.columns)
        return fl.GeneratorStream(read.schema, self._told(read))

    def _told(self, read: Read) -> Iterator[Any]:
        """A read's stream, with its error in the form of all others."""
        try:
            yield from read.stream()
        except PenstockError as error:
            raise self.flight_error(error) from error

    @_answering_errors
    def do_put(
        self,
        context: fl.ServerCallContext,
        descriptor: fl.FlightDescriptor,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.FlightMetadataWriter,
    ) -> None:
        """Publish the rows that come; over when Pub/Sub has confirmed every one. The command is a `PutRequest`."""
        if self._outlet is None or descriptor.descriptor_type != fl.DescriptorType.CMD:
            raise InvalidRequest("do_put: a command descriptor with the JSON of a put request is needed")
        if len(descriptor.command) > MAX_BODY_BYTES:
            raise InvalidRequest(f"do_put: a command of {len(descriptor.command)} bytes; {MAX_BODY_BYTES} are allowed")
        request = PutRequest.read(descriptor.command, PROTOCOL_VERSION)
        put = Put(context, lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, self._loop))
        try:
            put.run(self._outlet, request, reader, writer)
        except WriterGone as error:
            raise fl.FlightCancelledError("the writer went away") from error

    @_answering_errors
    def get_flight_info(self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor) -> fl.FlightInfo:
        """`plan` for plain Flight clients: the command is the JSON of a `PlanRequest`."""
        if descriptor.descriptor_type != fl.DescriptorType.CMD:
            raise InvalidRequest("get_flight_info: a command descriptor with the JSON of a plan request is needed")
        _check_size("get_flight_info", len(descriptor.command))
        reply = json.loads(self._on_loop(self._actions.call("plan", descriptor.command)))
        here = [] if self._advertise is None else [self._advertise]
        endpoints = [fl.FlightEndpoint(json.dumps(entry["ticket"]).encode(), here) for entry in reply["slices"]]
        rows, size = (sum(entry[key] for entry in reply["slices"]) for key in ("rows", "bytes"))
        columns = PlanRequest.read(descriptor.command, PROTOCOL_VERSION).columns
        return fl.FlightInfo(project(columns), descriptor, endpoints, rows, size)

    @_answering_errors
    def list_flights(self, context: fl.ServerCallContext, criteria: bytes) -> Iterator[fl.FlightInfo]:
        """One for each subscription, with what waits unsealed."""

        def describe() -> list[tuple[str, int, int]]:
            backlogs = [(name, held.backlog()) for name, held in self._reservoir.subscriptions.items()]
            return [(name, backlog.rows, backlog.bytes) for name, backlog in backlogs]

        return iter(
            fl.FlightInfo(ROWS_SCHEMA, fl.FlightDescriptor.for_path(name), [], rows, size)
            for name, rows, size in self._on_loop(self._now(describe))
        )

    async def _now(self, decide: Callable[[], Result]) -> Result:
        return decide()

    def _on_loop(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run on the loop and wait for it: the reservoir belongs to one thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(CROSSING_S)
        except concurrent.futures.TimeoutError as error:
            future.cancel()
            raise InternalError(f"the daemon's loop did not answer within {CROSSING_S:g} s") from error
        finally:
            # An error's traceback has this frame: the future, its error and what both refer to, such as a body of
            # megabytes, would stay until the collector comes by, which in a quiet daemon is seldom.
            del future


def _ticket(raw: bytes) -> Ticket:
    _check_size("do_get", len(raw))
    return Ticket.read(raw, PROTOCOL_VERSION)


def _check_size(call: str, size_bytes: int) -> None:
    if size_bytes > MAX_BODY_BYTES:
        raise InvalidRequest(f"{call}: a body of {size_bytes} bytes; {MAX_BODY_BYTES} are allowed")


def _carried(text: str, limit_bytes: int) -> str:
    """A text that arrives: its beginning and end, if it repeats something large."""
    escaped = json.dumps(text)
    if len(escaped) <= limit_bytes:
        return text
    per_character = -(-len(escaped) // len(text))
    kept = limit_bytes // per_character
    return f"{text[: kept * 2 // 3]} ... {text[-kept // 3 :]}"
