"""Whatever schema, bytes or command a `do_put` brings: an error of ours or a publication, and a daemon that lives."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.publish.site import TOPIC, Site, rows

from penstock.contract import PROTOCOL_VERSION
from penstock.contract.publishing import PutRequest
from penstock.errors import PublishFailed

REQUEST = PutRequest(v=PROTOCOL_VERSION, topic=TOPIC, flush_timeout_s=10.0).to_json()
NAMES = st.sampled_from(["data", "attributes", "ordering_key", "topic", "body", ""])
TYPES = st.sampled_from(
    [
        pa.binary(),
        pa.string(),
        pa.large_binary(),
        pa.int64(),
        pa.null(),
        pa.map_(pa.string(), pa.string()),
        pa.map_(pa.string(), pa.binary()),
        pa.map_(pa.int64(), pa.string()),
        pa.list_(pa.string()),
        pa.dictionary(pa.int32(), pa.string()),
        pa.struct([("key", pa.string())]),
        pa.timestamp("us"),
        pa.decimal128(10, 2),
    ]
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _bent(raw: bytearray) -> st.SearchStrategy[bytes]:
    """One byte of a sound command is another."""

    def bend(where: int, octet: int) -> bytes:
        bent = bytearray(raw)
        bent[where] = octet
        return bytes(bent)

    return st.builds(bend, st.integers(0, len(raw) - 1), st.integers(0, 255))


def put(site: Site, command: bytes, schema: pa.Schema, batches: list[tuple[pa.RecordBatch, bytes | None]]) -> Any:
    """As a stranger would: nothing is checked before it is sent."""
    with fl.FlightClient(f"grpc://{site.node.endpoint}") as client:
        writer, reader = client.do_put(fl.FlightDescriptor.for_command(command), schema)
        try:
            for batch, metadata in batches:
                if metadata is None:
                    writer.write_batch(batch)
                else:
                    writer.write_with_metadata(batch, metadata)
            writer.done_writing()
            said = reader.read()
        finally:
            writer.close()
    return said


def refused(error: BaseException) -> None:
    """An error that the daemon meant, with its code; none that nobody planned."""
    text = str(error)
    assert "INTERNAL" not in text, text
    assert any(code in text for code in ("INVALID_", "PROTOCOL_MISMATCH", "PUBLISH_FAILED", "TOPIC_NOT")), text


@FUZZ
@given(fields=st.lists(st.tuples(NAMES, TYPES), max_size=5))
def test_schemas(site: Site, fields: list[tuple[str, pa.DataType]]) -> None:
    schema = pa.schema([pa.field(name, kind) for name, kind in fields])
    batch = pa.RecordBatch.from_arrays([pa.nulls(3, kind) for _, kind in fields], schema=schema)
    end = (pa.RecordBatch.from_arrays([pa.nulls(0, kind) for _, kind in fields], schema=schema), b'{"rows":3}')
    try:
        put(site, REQUEST, schema, [(batch, None), end])
    except (fl.FlightError, pa.ArrowException) as error:
        refused(error)
    else:
        raise AssertionError("three empty messages were taken")


@FUZZ
@given(command=st.one_of(st.binary(max_size=50), st.just(REQUEST).map(bytearray).flatmap(_bent)))
def test_commands(site: Site, command: bytes) -> None:
    with contextlib.suppress(fl.FlightError, pa.ArrowException):
        put(site, command, rows(1).schema, [(rows(1), None), (rows(0), b'{"rows":1}')])
    alive(site)


def test_an_end_that_counts_other_rows_is_refused(site: Site) -> None:
    site.topic()
    for metadata in (b'{"rows":2}', b"{}", b"nonsense", b'{"rows":-1}', b'{"rows":1e99}'):
        try:
            put(site, REQUEST, rows(1).schema, [(rows(1), None), (rows(0), metadata)])
        except (fl.FlightError, pa.ArrowException) as error:
            refused(error)
        else:
            raise AssertionError(metadata)


def test_a_stream_without_an_end_is_refused(site: Site) -> None:
    with pytest.raises(fl.FlightError, match="ended without its last record batch"):
        put(site, REQUEST, rows(1).schema, [(rows(1), None)])


def alive(site: Site) -> None:
    """It still answers."""
    with pytest.raises(PublishFailed, match="NOT_FOUND"):
        site.put(rows(1))
