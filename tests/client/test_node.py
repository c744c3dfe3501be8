"""One connection to one daemon: what a broken, foreign or absent peer turns into, and that no read is ever short."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION, ROWS_SCHEMA
from penstock.contract.actions import StatusReply, StatusRequest, Ticket
from penstock.errors import (
    BatchGone,
    InternalError,
    InvalidOption,
    NodeUnreachable,
    ProtocolMismatch,
    ReadIncomplete,
    SubscriptionFailed,
)
from tests.client.daemon import Daemon

STATUS = StatusRequest(v=PROTOCOL_VERSION)
TICKET = Ticket(v=PROTOCOL_VERSION, batch="b", slice=0, slices=1, rows=4)
Stream = Callable[[], Iterator[Any]]


class Peer(fl.FlightServerBase):  # type: ignore[misc]
    """Answers what a test tells it to."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.replies: list[bytes] = []
        self.error: Exception | None = None
        self.schema = ROWS_SCHEMA
        self.stream: Stream = lambda: iter(())

    def do_action(self, context: fl.ServerCallContext, action: fl.Action) -> Iterator[fl.Result]:
        """The replies set, or the error."""
        if self.error is not None:
            raise self.error
        return iter([fl.Result(pa.py_buffer(reply)) for reply in self.replies])

    def do_get(self, context: fl.ServerCallContext, ticket: fl.Ticket) -> fl.FlightDataStream:
        """The stream set, or the error."""
        if self.error is not None:
            raise self.error
        return fl.GeneratorStream(self.schema, self.stream())


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def client(peer: Peer) -> Iterator[NodeClient]:
    with NodeClient(f"127.0.0.1:{peer.port}") as client:
        yield client


def rows(count: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"message_id": f"m{number}"} for number in range(count)], schema=ROWS_SCHEMA)


def end(told: int) -> tuple[pa.RecordBatch, pa.Buffer]:
    return rows(0), pa.py_buffer(json.dumps({"rows": told}).encode())


def said(**error: Any) -> bytes:
    return json.dumps(error).encode()


def answer(client: NodeClient, timeout_s: float = 10.0) -> StatusReply:
    """The status, as soon as there is one."""
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            reply: StatusReply = client.call("status", STATUS)
        except NodeUnreachable:
            assert time.monotonic() < end_s
            time.sleep(0.02)
        else:
            return reply


def test_a_status_comes_back_as_its_body() -> None:
    with Daemon() as daemon, NodeClient(f"grpc://{daemon.endpoint}") as client:
        status = client.call("status", STATUS)
        assert isinstance(status, StatusReply)
        assert status.node == daemon.reservoir.node


def test_all_rows_of_a_ticket_are_read(peer: Peer, client: NodeClient) -> None:
    peer.stream = lambda: iter([rows(1), rows(3), end(4)])
    assert [batch.num_rows for batch in client.read(TICKET)] == [1, 3]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([], id="nothing at all"),
        pytest.param([rows(4)], id="no word at the end"),
        pytest.param([rows(3), end(3)], id="fewer, and the daemon says so"),
        pytest.param([rows(3), end(4)], id="fewer than it says"),
        pytest.param([rows(5), end(5)], id="more"),
        pytest.param([rows(4), (rows(0), pa.py_buffer(b"not json"))], id="garbage at the end"),
    ],
)
def test_a_read_of_another_number_of_rows_is_an_error(peer: Peer, client: NodeClient, sent: list[Any]) -> None:
    peer.stream = lambda: iter(sent)
    with pytest.raises(ReadIncomplete, match=r"slice 0 of 1 of batch b has 4 rows.*read it again"):
        list(client.read(TICKET))


def test_a_stream_that_breaks_in_the_middle_is_an_error_after_the_rows_before_it(peer: Peer, client: NodeClient) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield rows(2)
        raise fl.FlightInternalError("the connection was cut")

    peer.stream = broken
    read = client.read(TICKET)
    assert next(read).num_rows == 2
    with pytest.raises(NodeUnreachable, match="broke off do_get"):
        next(read)


def test_an_error_in_the_middle_of_a_stream_keeps_its_code(peer: Peer, client: NodeClient) -> None:
    def gone() -> Iterator[pa.RecordBatch]:
        yield rows(2)
        raise fl.FlightServerError("gone", said(code="BATCH_GONE", message="acknowledged", node="n1"))

    peer.stream = gone
    with pytest.raises(BatchGone, match=r"acknowledged \(node n1\)"):
        list(client.read(TICKET))


def test_rows_of_other_columns_are_refused_before_any_is_read(peer: Peer, client: NodeClient) -> None:
    peer.schema = pa.schema([("message_id", pa.int64())])
    with pytest.raises(ProtocolMismatch, match="install the same release"):
        list(client.read(TICKET))


def test_an_error_of_the_daemon_keeps_its_class_and_details(peer: Peer, client: NodeClient) -> None:
    peer.error = fl.FlightServerError(
        "x", said(code="SUBSCRIPTION_FAILED", message="NOT_FOUND: gone", node="n1", service_code="NOT_FOUND")
    )
    with pytest.raises(SubscriptionFailed, match="NOT_FOUND: gone") as caught:
        client.call("status", STATUS)
    assert caught.value.details["service_code"] == "NOT_FOUND"
    assert caught.value.node == "n1"


def test_a_daemon_of_another_version_says_which_it_speaks() -> None:
    with (
        Daemon() as daemon,
        NodeClient(daemon.endpoint) as client,
        pytest.raises(ProtocolMismatch, match=r"speaks protocol version 1, the caller 99"),
    ):
        client.call("status", StatusRequest(v=99))


def test_an_address_where_nobody_answers_is_named_with_what_to_start() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with (
            NodeClient(f"127.0.0.1:{port}") as client,
            pytest.raises(NodeUnreachable, match=f"127.0.0.1:{port}: start one with `penstock serve --listen"),
        ):
            client.call("status", STATUS)


def test_a_client_finds_a_daemon_that_came_later() -> None:
    daemon = Daemon()
    daemon.start()
    daemon.stop()
    with NodeClient(daemon.endpoint) as client:
        with pytest.raises(NodeUnreachable):
            client.call("status", STATUS)
        with daemon:
            assert answer(client).node == daemon.reservoir.node


def test_a_flight_server_that_is_not_ours_is_not_taken_for_one(peer: Peer, client: NodeClient) -> None:
    with pytest.raises(InternalError, match="0 replies where one is due"):
        client.call("status", STATUS)
    peer.error = fl.FlightServerError("no such thing")
    with pytest.raises(NodeUnreachable, match="not a penstock daemon"):
        client.call("status", STATUS)


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "localhost:99999", "a:1,b:2", "grpc://", "h:1/x"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(InvalidOption, match="write host:port"):
        NodeClient(address)
