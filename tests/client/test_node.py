"""What a client makes of what answers it: whole reads or errors, in words that say what to do."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest
from tests.client.daemon import Daemon

from penstock.client import NodeClient
from penstock.contract import PROTOCOL_VERSION, ROWS_SCHEMA
from penstock.contract.actions import AliveRequest, StatusRequest, Ticket
from penstock.contract.names import Reader
from penstock.errors import (
    BatchGone,
    InvalidOption,
    InvalidRequest,
    NodeUnreachable,
    OpenAgain,
    ProtocolMismatch,
    ReadIncomplete,
    from_dict,
)

TICKET = Ticket(v=PROTOCOL_VERSION, batch="b", slice=0, slices=1, rows=3)
ROWS = pa.RecordBatch.from_pylist([{"message_id": str(n)} for n in range(3)], schema=ROWS_SCHEMA)
STATUS = StatusRequest(v=PROTOCOL_VERSION)


class Broken(fl.FlightServerBase):  # type: ignore[misc]
    """Streams what the test gives it: batches, (batch, metadata) pairs, pauses in seconds, or errors to raise."""

    def __init__(self, *parts: Any, schema: pa.Schema = ROWS_SCHEMA) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.parts = parts
        self.stream_schema = schema

    def do_get(self, context: fl.ServerCallContext, ticket: fl.Ticket) -> fl.FlightDataStream:
        return fl.GeneratorStream(self.stream_schema, self._stream())

    def _stream(self) -> Iterator[Any]:
        for part in self.parts:
            if isinstance(part, float):
                time.sleep(part)
                continue
            if isinstance(part, Exception):
                raise part
            yield part


def trailer(rows: int) -> tuple[pa.RecordBatch, pa.Buffer]:
    return ROWS.slice(0, 0), pa.py_buffer(json.dumps({"rows": rows}).encode())


def read(*parts: Any) -> list[pa.RecordBatch]:
    with Broken(*parts) as server, NodeClient(f"127.0.0.1:{server.port}") as client:
        return list(client.read(TICKET))


def test_a_whole_read_gives_the_rows_without_the_empty_trailer() -> None:
    assert read(ROWS.slice(0, 2), ROWS.slice(2), trailer(3)) == [ROWS.slice(0, 2), ROWS.slice(2)]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_read_of_a_daemon_that_is_silent_for_minutes_is_whole() -> None:
    assert read(ROWS.slice(0, 2), 320.0, ROWS.slice(2), trailer(3)) == [ROWS.slice(0, 2), ROWS.slice(2)]


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (ROWS,),
        (trailer(0),),
        (ROWS.slice(0, 2), trailer(2)),
        (ROWS, trailer(4)),
        (ROWS, ROWS, trailer(6)),
        (ROWS, (ROWS.slice(0, 0), pa.py_buffer(b"not json"))),
    ],
)
def test_a_read_that_is_not_what_the_ticket_says_is_an_error_and_never_short(parts: tuple[Any, ...]) -> None:
    with pytest.raises(ReadIncomplete, match="read it again"):
        read(*parts)


def test_a_stream_that_breaks_in_the_middle_is_an_error() -> None:
    with pytest.raises(NodeUnreachable, match="broke off do_get"):
        read(ROWS.slice(0, 2), ValueError("boom"))


def test_an_error_of_the_daemon_in_the_middle_of_a_stream_keeps_its_class() -> None:
    said = json.dumps(BatchGone("it is gone", node="n1").to_dict()).encode()
    with pytest.raises(BatchGone, match=r"\[BATCH_GONE\] it is gone \(node n1\)"):
        read(ROWS.slice(0, 2), fl.FlightServerError("gone", said))


def test_rows_of_another_schema_are_refused() -> None:
    other = pa.schema([pa.field("message_id", pa.large_string())])
    with (
        Broken(schema=other) as server,
        NodeClient(f"127.0.0.1:{server.port}") as client,
        pytest.raises(ProtocolMismatch, match="same release"),
    ):
        list(client.read(TICKET))


def test_nobody_at_the_address_is_named_with_the_way_to_start_a_daemon() -> None:
    with NodeClient("127.0.0.1:9") as client:
        with pytest.raises(NodeUnreachable, match=r"penstock serve --listen grpc://127\.0\.0\.1:9"):
            client.call("status", STATUS)
        with pytest.raises(NodeUnreachable, match="penstock serve"):
            list(client.read(TICKET))


def test_something_else_at_the_address_is_said_to_be_no_daemon() -> None:
    with (
        Broken() as server,
        NodeClient(f"127.0.0.1:{server.port}") as client,
        pytest.raises(NodeUnreachable, match="not a penstock daemon"),
    ):
        client.call("status", STATUS)


def test_another_protocol_version_is_a_clear_error() -> None:
    with (
        Daemon() as daemon,
        NodeClient(daemon.endpoint) as client,
        pytest.raises(ProtocolMismatch, match="install the same release"),
    ):
        client.call("status", StatusRequest(v=99))


def test_an_unknown_reader_is_told_to_open() -> None:
    with Daemon() as daemon, NodeClient(f"grpc://{daemon.endpoint}") as client, pytest.raises(OpenAgain):
        client.call("alive", AliveRequest(v=PROTOCOL_VERSION, consumer="c", reader=Reader(1, "u")))


def test_a_daemon_that_comes_back_is_found_by_the_same_client() -> None:
    with Daemon() as daemon, NodeClient(daemon.endpoint) as client:
        first = client.call("status", STATUS)
        daemon.stop()
        with pytest.raises(NodeUnreachable):
            client.call("status", STATUS)
        daemon.start()
        assert _when_it_answers(client).node != first.node


def _when_it_answers(client: NodeClient) -> Any:
    until = time.monotonic() + 10
    while True:
        try:
            return client.call("status", STATUS)
        except NodeUnreachable:
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":8815", "host:99999", "a:1,b:2", "http://h:1/x", ""])
def test_an_address_that_is_none_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(InvalidOption, match="write host:port"):
        NodeClient(address)


def test_errors_survive_pickling_and_unknown_codes() -> None:
    error = BatchGone("m", node="n", batch="b")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.to_dict()) == (BatchGone, error.to_dict())
    assert str(from_dict({"code": "NEW", "message": "m"})) == "[PENSTOCK] m"
    assert isinstance(from_dict({"code": "INVALID_REQUEST"}), InvalidRequest)
