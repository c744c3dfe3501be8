"""A write ends with every row confirmed, or with an error that says how many were and why the others were not."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest
from tests.publish.site import READER, TOPIC, Site, daemon, rows

from penstock import Publisher
from penstock.contract import MAX_PUTS, PROTOCOL_VERSION
from penstock.contract.publishing import MAX_PUT_BYTES, MESSAGES_SCHEMA, PutProgress, PutRequest, Trace
from penstock.errors import (
    InvalidMessage,
    InvalidRequest,
    PublishFailed,
    ServiceUnavailable,
    TopicNotAllowed,
)

ATTRIBUTES = pa.map_(pa.string(), pa.string())


def keyed(count: int, keys: int) -> pa.RecordBatch:
    """Row n has the key n % keys."""
    return rows(count, ordering_key=pa.array([f"k{number % keys}" for number in range(count)]))


def until(holds: Any, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


# --- order ----------------------------------------------------------------------------------------------------------


def test_rows_of_a_key_keep_their_order_through_retries(site: Site) -> None:
    site.topic(ordering=True)
    site.fail("UNAVAILABLE", 5)
    site.put(*[keyed(1000, 7).slice(start, 50) for start in range(0, 1000, 50)])
    seen = defaultdict(list)
    for message in site.read(1000):
        seen[message.ordering_key].append(int(message.data))
    assert len(seen) == 7
    assert all(numbers == sorted(numbers) for numbers in seen.values())


def test_a_request_has_messages_of_one_key_only(site: Site) -> None:
    """The service takes no others (https://cloud.google.com/pubsub/docs/reference/rest/v1/PubsubMessage)."""
    site.topic()
    asked = site.watch_publish()
    unkeyed = rows(100, ordering_key=pa.array(["", None] * 50))
    site.put(keyed(6000, 3), unkeyed, keyed(6000, 3))
    assert {frozenset(keys) for keys in asked} == {frozenset({key}) for key in ("", "k0", "k1", "k2")}
    assert len(asked) < 30


def test_a_key_that_fails_stops_itself_and_no_other(site: Site) -> None:
    site.topic()
    site.watch_publish(refused_key="k1")
    with pytest.raises(PublishFailed, match=r"INVALID_ARGUMENT.*1 ordering keys stopped \('k1'\)") as caught:
        site.put(keyed(300, 3), keyed(300, 3))
    assert caught.value.details["published"] == 400
    assert {message.ordering_key for message in site.read(400)} == {"k0", "k2"}


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED", "DEADLINE_EXCEEDED"])
def test_failures_that_pass_are_no_failures(site: Site, code: str) -> None:
    site.topic()
    site.fail(code, 3)
    assert site.put(rows(2500)).messages == 2500
    assert site.published() == 2500


def test_a_failure_that_does_not_pass_within_retry_timeout_ends_the_write(site: Site) -> None:
    site.topic()
    site.fail("UNAVAILABLE", 1000)
    with pytest.raises(PublishFailed, match=r"UNAVAILABLE.*tried for retryTimeout, 0\.5 s.*10 rows taken 0 were"):
        site.put(rows(10), retry_timeout_s=0.5)


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNAUTHENTICATED"])
def test_an_answer_that_will_not_change_ends_the_write_at_once(site: Site, code: str) -> None:
    site.topic()
    site.fail(code, 1000)
    with pytest.raises(PublishFailed, match=code):
        site.put(rows(10))
    assert site.published() == 0


def test_rows_of_a_try_without_an_answer_may_have_been_published_whatever_the_last_try_says(site: Site) -> None:
    site.topic()
    site.fail("UNAVAILABLE", 1)
    site.fail("PERMISSION_DENIED", 1000)
    with pytest.raises(
        PublishFailed, match=r"PERMISSION_DENIED.*0 were confirmed, 10 may have been published"
    ) as caught:
        site.put(rows(10))
    assert caught.value.details["unknown"] == 10


def test_a_flush_that_takes_too_long_is_an_error_and_no_hang(site: Site) -> None:
    site.topic()
    site.on_loop(lambda: site.faults.delay("Publish", 30.0, 1000))
    with pytest.raises(PublishFailed, match=r"not confirmed within flushTimeout, 0\.4 s.*10 may have been") as caught:
        site.put(rows(10), flush_timeout_s=0.4)
    assert caught.value.details["service_code"] == "FLUSH_TIMEOUT"


def test_a_flush_of_too_many_requests_says_that_it_is_these(site: Site) -> None:
    site.topic()
    site.on_loop(lambda: site.faults.delay("Publish", 0.2, 1000))
    with pytest.raises(PublishFailed, match=r"flushTimeout, 1 s \([\d,]+ requests wait, which many ordering keys make"):
        site.put(keyed(2000, 2000), flush_timeout_s=1.0)


def test_a_topic_that_is_deleted_half_way_ends_the_write_which_says_how_many_were_confirmed(site: Site) -> None:
    site.topic()

    def batches() -> Iterator[pa.RecordBatch]:
        yield rows(5000)
        until(lambda: site.published() == 5000)
        site.delete()
        yield from itertools.repeat(rows(5000), 1000)

    batch = rows(1)
    with pytest.raises(PublishFailed, match=r"NOT_FOUND.*5,000 were confirmed") as caught:
        site.node.put(PutRequest(v=PROTOCOL_VERSION, topic=TOPIC), batch.schema, batches())
    assert caught.value.details["published"] == 5000


def test_rows_that_come_when_the_write_has_failed_already_are_not_held(site: Site) -> None:
    def refused() -> bool:
        topics = site.on_loop(lambda: site.outlet.statistics()["topics"])
        return TOPIC in topics and topics[TOPIC]["failed_messages"] == 10 and not len(site.outlet)

    def batches() -> Iterator[pa.RecordBatch]:
        yield rows(10)
        until(refused)
        yield rows(10)

    with pytest.raises(PublishFailed, match=r"NOT_FOUND.*Of the 10 rows taken 0 were confirmed"):
        site.node.put(PutRequest(v=PROTOCOL_VERSION, topic=TOPIC), rows(1).schema, batches())
    assert site.outlet.figures()["held_bytes"] == 0


def test_an_error_of_the_rows_themselves_ends_the_write_and_publishes_no_more(site: Site) -> None:
    site.topic()

    def batches() -> Iterator[pa.RecordBatch]:
        yield rows(10)
        raise RuntimeError("upstream")

    with pytest.raises(RuntimeError, match="upstream"):
        site.node.put(PutRequest(v=PROTOCOL_VERSION, topic=TOPIC), rows(1).schema, batches())
    until(lambda: len(site.outlet) == 0)
    assert site.put(rows(1)).messages == 1


def test_a_writer_that_goes_away_stops_its_write(site: Site) -> None:
    site.topic()
    site.on_loop(lambda: site.faults.delay("Publish", 30.0, 1000))
    with fl.FlightClient(f"grpc://{site.node.endpoint}") as client:
        request = PutRequest(v=PROTOCOL_VERSION, topic=TOPIC)
        options = fl.FlightCallOptions(timeout=0.5)
        writer, _ = client.do_put(fl.FlightDescriptor.for_command(request.to_json()), rows(1).schema, options)
        writer.write_batch(rows(3000))
        until(lambda: len(site.outlet) == 1)
        with pytest.raises((fl.FlightError, pa.ArrowException)):
            writer.close()
    until(lambda: len(site.outlet) == 0)
    assert site.published() == 0


def test_writers_wait_when_the_daemon_holds_as_much_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(monkeypatch, memory_mb=1) as site:
        site.topic()
        site.on_loop(lambda: site.faults.delay("Publish", 1.0, 4))
        sent: list[int] = []

        def batches() -> Iterator[pa.RecordBatch]:
            for number in range(20):
                sent.append(number)
                yield pa.RecordBatch.from_pydict({"data": [b"x" * 250_000] * 4})

        held: list[int] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                held.append(site.outlet.figures()["held_bytes"])

        watching = threading.Thread(target=watch)
        watching.start()
        reply = site.node.put(PutRequest(v=PROTOCOL_VERSION, topic=TOPIC), rows(1).schema, batches())
        done.set()
        watching.join()
        assert reply.messages == 80
        assert 0 < max(held) <= (1 << 20) + 1_100_000, "the limit, and one record batch"


def test_no_more_writes_than_allowed_run_at_a_time(site: Site) -> None:
    site.topic()
    request = PutRequest(v=PROTOCOL_VERSION, topic=TOPIC)
    with fl.FlightClient(f"grpc://{site.node.endpoint}") as client:
        writers = []
        for _ in range(MAX_PUTS):
            descriptor = fl.FlightDescriptor.for_command(request.to_json())
            writers.append(client.do_put(descriptor, rows(1).schema)[0])
        until(lambda: len(site.outlet) == MAX_PUTS)
        with pytest.raises(ServiceUnavailable, match="64 writes already"):
            site.put(rows(1))
        for writer in writers:
            with pytest.raises((fl.FlightError, pa.ArrowException)):
                writer.close()
    until(lambda: len(site.outlet) == 0)
    assert site.put(rows(1)).messages == 1


@pytest.mark.parametrize("told", [None, lambda _: None], ids=["silent", "with progress"])
def test_an_error_of_the_rows_themselves_is_the_one_that_is_told(
    site: Site, told: Callable[[PutProgress], None] | None
) -> None:
    site.topic()

    def batches() -> Iterator[pa.RecordBatch]:
        yield rows(10)
        raise pa.ArrowInvalid("a page of the file cannot be read")

    with (
        Publisher(TOPIC, endpoint=site.node.endpoint) as publisher,
        pytest.raises(pa.ArrowInvalid, match="a page of the file"),
    ):
        publisher.publish(batches(), told=told)
    until(lambda: len(site.outlet) == 0)


def test_record_batches_of_another_schema_are_refused_by_name(site: Site) -> None:
    site.topic()
    other = pa.RecordBatch.from_pydict({"payload": ["x"]})
    with (
        Publisher(TOPIC, endpoint=site.node.endpoint) as publisher,
        pytest.raises(
            InvalidRequest, match=r"begins with row 10 has the columns payload \(string\), the first one had"
        ),
    ):
        publisher.publish([rows(10), other])


# --- rows that Pub/Sub refuses --------------------------------------------------------------------------------------


def test_attributes_that_are_no_json_are_refused_like_other_rows(site: Site) -> None:
    dead = "projects/p/topics/dead"
    reader = site.topic()
    dead_reader = site.topic(dead)
    batch = pa.RecordBatch.from_pydict({"data": ["a", "b", "c"], "attributes": ['{"k":"v"}', "no JSON", None]})
    with (
        Publisher(TOPIC, endpoint=site.node.endpoint) as publisher,
        pytest.raises(InvalidMessage, match="row 1 of this"),
    ):
        publisher.publish(batch)
    with Publisher(TOPIC, endpoint=site.node.endpoint, on_invalid="skip") as publisher:
        assert publisher.publish(batch).skipped == 1
    chosen = {"on_invalid": "deadletter", "dead_letter_topic": dead}
    with Publisher(TOPIC, endpoint=site.node.endpoint, **chosen) as publisher:  # type: ignore[arg-type]
        assert publisher.publish(batch).dead_lettered == 1
    assert sorted(message.data for message in site.read(4, reader)) == [b"a", b"a", b"c", b"c"]
    (letter,) = site.read(1, dead_reader)
    assert letter.data == b"b"
    assert letter.attributes["penstock_reason"] == "column attributes: an empty key, or no JSON object of strings"


def test_a_row_that_is_too_large_for_the_daemon_is_named_by_the_writer(site: Site) -> None:
    site.topic()
    batch = pa.RecordBatch.from_pydict({"data": [b"a", b"b", bytes(MAX_PUT_BYTES)]})
    with (
        Publisher(TOPIC, endpoint=site.node.endpoint) as publisher,
        pytest.raises(InvalidMessage, match=r"row 2 of this write \(from 0\) has 67,108,8\d\d bytes"),
    ):
        publisher.publish(batch)
    until(lambda: len(site.outlet) == 0)


def test_such_a_row_is_left_out_or_buried_like_others_where_that_was_asked_for(site: Site) -> None:
    site.topic()
    dead = "projects/p/topics/dead"
    dead_reader = site.topic(dead)
    batch = pa.RecordBatch.from_pydict({"data": [b"a", b"b", bytes(MAX_PUT_BYTES)]})
    with Publisher(TOPIC, endpoint=site.node.endpoint, on_invalid="skip") as publisher:
        assert publisher.publish(batch).skipped == 1
    chosen = {"on_invalid": "deadletter", "dead_letter_topic": dead}
    with Publisher(TOPIC, endpoint=site.node.endpoint, **chosen) as publisher:  # type: ignore[arg-type]
        assert publisher.publish(batch).dead_lettered == 1
    assert site.published() == 4
    assert site.published(dead_reader) == 1


def broken(column: str, value: Any) -> pa.RecordBatch:
    """Row 1 of 3 has it."""
    given: dict[str, pa.Array] = {
        "data": pa.array([b"a", b"b", b"c"], pa.binary()),
        "attributes": pa.array([[]] * 3, ATTRIBUTES),
        "ordering_key": pa.array([None] * 3, pa.string()),
    }
    values = given[column].to_pylist()
    values[1] = value
    given[column] = pa.array(values, given[column].type)
    return pa.RecordBatch.from_pydict(given)


def garbled(column: str) -> pa.RecordBatch:
    """Row 1 has bytes there that are no UTF-8."""
    octets = pa.array([b"k", b"\xff\xfe", b"k"], pa.binary()).view(pa.string())
    batch = broken("data", b"b")
    if column == "ordering_key":
        return batch.set_column(2, column, octets)
    fine = pa.array(["k"] * 3)
    pairs = (octets, fine) if column == "keys" else (fine, octets)
    return batch.set_column(1, "attributes", pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), *pairs))


INVALID = {
    "large data": (broken("data", b"x" * 10_000_001), "column data: more than 10,000,000 bytes"),
    "empty": (broken("data", b""), "column data: empty, and there are no attributes"),
    "null": (broken("data", None), "column data: empty, and there are no attributes"),
    "long key": (broken("attributes", [("k" * 257, "v")]), "column attributes: more than 256 bytes in a key (257)"),
    "empty key": (broken("attributes", [("", "v")]), "column attributes: an empty key, or no JSON object of strings"),
    "long value": (
        broken("attributes", [("k", "é" * 513)]),
        "column attributes: more than 1,024 bytes in a value (1,026)",
    ),
    "many": (
        broken("attributes", [(f"k{n}", "") for n in range(101)]),
        "column attributes: more than 100 entries (101)",
    ),
    "long ordering key": (broken("ordering_key", "k" * 1025), "column ordering_key: more than 1,024 bytes (1,025)"),
    "ordering key, no UTF-8": (garbled("ordering_key"), "column ordering_key: bytes that are no UTF-8"),
    "attribute key, no UTF-8": (garbled("keys"), "column attributes: bytes that are no UTF-8"),
    "attribute value, no UTF-8": (garbled("values"), "column attributes: bytes that are no UTF-8"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_row_that_pubsub_refuses_is_named_before_it_is_sent(site: Site, case: str) -> None:
    site.topic()
    batch, words = INVALID[case]
    with pytest.raises(InvalidMessage) as caught:
        site.put(batch.slice(0, 1), batch.slice(0, 1), batch)
    assert "row 3 of this write" in caught.value.message
    assert words in caught.value.message
    assert caught.value.details["row"] == 3


@pytest.mark.parametrize("case", INVALID)
def test_such_a_row_is_left_out_where_that_was_asked_for(site: Site, case: str) -> None:
    site.topic()
    reply = site.put(INVALID[case][0], on_invalid="skip")
    assert (reply.rows, reply.messages, reply.skipped) == (3, 2, 1)
    assert sorted(bytes(message.data) for message in site.read(2)) == [b"a", b"c"]


@pytest.mark.parametrize("case", INVALID)
def test_such_a_row_goes_to_the_dead_letter_topic_with_what_is_wrong(site: Site, case: str) -> None:
    site.topic()
    dead = f"{TOPIC}-dead"
    reader = site.topic(dead)
    batch, words = INVALID[case]
    reply = site.put(batch, on_invalid="deadletter", dead_letter_topic=dead)
    assert (reply.messages, reply.skipped, reply.dead_lettered) == (2, 0, 1)
    if case == "large data":  # Google's client reads no more than 4 MiB from an emulator
        assert site.published(reader) == 1
        return
    (letter,) = site.read(1, reader)
    assert letter.attributes["penstock_reason"].split(" (")[0] in words
    assert letter.attributes["penstock_topic"] == TOPIC
    assert bytes(letter.data) == (batch.column("data")[1].as_py() or b"")


def test_a_dead_letter_names_the_topic_of_its_own_row_however_long_that_is(site: Site) -> None:
    dead, own = "projects/p/topics/dead", "projects/p/topics/own"
    dead_reader = site.topic(dead)
    batch = pa.RecordBatch.from_pydict({"data": [b"", b"long", b""], "topic": [own, "ö" * 3000, None]})
    site.put(batch, on_invalid="deadletter", dead_letter_topic=dead)
    letters = [message.attributes for message in site.read(3, dead_reader)]
    assert sorted(letter["penstock_topic"] for letter in letters) == sorted([own, TOPIC, TOPIC])
    assert any(letter["penstock_reason"].startswith("column topic: topic 'öö") for letter in letters)


def test_rows_and_dead_letters_of_one_topic_go_together(site: Site) -> None:
    dead = "projects/p/topics/dead"
    dead_reader = site.topic(dead)
    batch = pa.RecordBatch.from_pydict({"data": [b"own", b"", b"own"], "topic": [dead] * 3})
    reply = site.put(batch, on_invalid="deadletter", dead_letter_topic=dead, topic=None)
    assert (reply.messages, reply.dead_lettered) == (2, 1)
    assert sorted(message.data for message in site.read(3, dead_reader)) == [b"", b"own", b"own"]


def test_maps_that_promise_to_have_no_nulls_may_be_null_themselves(site: Site) -> None:
    site.topic()
    kind = pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False))
    data = pa.array([b"a"], pa.binary())
    maps = [pa.array([value], kind) for value in ([("k", "v")], None)]
    site.put(*[pa.RecordBatch.from_arrays([data, one], names=["data", "attributes"]) for one in maps])
    assert sorted(len(message.attributes) for message in site.read(2)) == [0, 1]


def test_what_is_at_a_limit_is_published(site: Site) -> None:
    site.topic()
    attributes = [(f"{n:0256d}", "v" * 1024) for n in range(100)]
    reply = site.put(
        broken("data", b"x" * 9_900_000), broken("attributes", attributes), broken("ordering_key", "k" * 1024)
    )
    assert reply.messages == 9
    assert site.published() == 9


# --- topics ---------------------------------------------------------------------------------------------------------


def test_a_column_of_topics_stands_above_the_writes_own(site: Site) -> None:
    site.topic()
    names = [f"projects/p/topics/topic-{n}" for n in range(3)]
    readers = [site.topic(name) for name in names]
    column = pa.array([names[n % 4] if n % 4 < 3 else None for n in range(40)])
    assert site.put(rows(40, topic=column)).messages == 40
    for number, reader in enumerate([*readers, READER]):
        assert sorted(int(one.data) % 4 for one in site.read(10, reader)) == [number] * 10


@pytest.mark.parametrize(
    ("code", "error"), [("RESOURCE_EXHAUSTED", ServiceUnavailable), ("PERMISSION_DENIED", PublishFailed)]
)
def test_a_topic_that_cannot_be_created_is_named(site: Site, code: str, error: type[Exception]) -> None:
    site.on_loop(lambda: site.faults.fail("CreateTopic", code))
    with pytest.raises(error, match=rf"creating topic {TOPIC}: {code}: "):
        site.put(rows(1), create_topic=True)


def test_topics_are_created_where_that_was_asked_for(site: Site) -> None:
    column = pa.array(["projects/p/topics/new-a", "projects/p/topics/new-b"] * 5)
    assert site.put(rows(10, topic=column), topic=None, create_topic=True).messages == 10
    assert site.put(rows(10), topic="projects/p/topics/new-a", create_topic=True).messages == 10


@pytest.mark.parametrize("name", ["", "nonsense", "projects/p/subscriptions/s"])
def test_a_row_without_a_topic_is_named(site: Site, name: str) -> None:
    with pytest.raises(InvalidMessage, match=r"row 0 of this write.*column topic"):
        site.put(rows(1, topic=pa.array([name or None], pa.string())), topic=None)


def test_topics_that_the_daemon_is_not_to_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(monkeypatch, topics=("projects/p/topics/public-*",)) as site:
        with pytest.raises(TopicNotAllowed, match=r"does not publish to projects/p/topics/orders; it publishes to"):
            site.put(rows(1))
        site.topic("projects/p/topics/public-1")
        assert site.put(rows(1), topic="projects/p/topics/public-1").messages == 1
        with pytest.raises(TopicNotAllowed):
            site.put(rows(1, topic=pa.array([TOPIC])), topic="projects/p/topics/public-1")


# --- the rest -------------------------------------------------------------------------------------------------------


def names_after(site: Site, *writes: Sequence[pa.RecordBatch]) -> Counter[str]:
    """What the rows of these writes of one partition are called, and how many have each name."""
    trace = Trace(query="q", batch="7", partition="3")
    rows_written = sum(site.put(*batches, trace=trace).messages for batches in writes)
    got = [one.attributes for one in site.read(rows_written)]
    assert {(one["penstock_query"], one["penstock_batch"]) for one in got} == {("q", "7")}
    return Counter(one["penstock_row"] for one in got)


def test_rows_that_are_written_again_have_the_names_that_they_had(site: Site) -> None:
    site.topic()
    batch = pa.concat_batches([broken("data", b""), broken("data", b"b")])
    names = names_after(site, [batch.slice(0, 2), batch.slice(2)], [batch.slice(0, 2), batch.slice(2)])
    assert {name.rpartition("-")[0]: count for name, count in names.items()} == {f"3-{n}": 2 for n in range(6)}
    assert len(names) == 6


def test_other_rows_under_the_same_numbers_have_other_names(site: Site) -> None:
    site.topic()
    assert set(names_after(site, [rows(4)], [rows(8).slice(4)]).values()) == {1}


def test_compressed_requests_arrive(site: Site) -> None:
    site.topic()
    assert site.put(rows(5000), compress_above_bytes=100).messages == 5000
    assert sorted(int(one.data) for one in site.read(5000)) == list(range(5000))


def test_progress_is_told_to_whoever_asks(site: Site) -> None:
    site.topic()
    told: list[PutProgress] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(4):
            yield rows(100)
            time.sleep(0.3)

    with Publisher(TOPIC, endpoint=site.node.endpoint) as publisher:
        reply = publisher.publish(batches(), told=told.append)
    assert reply.messages == 400
    assert len(told) >= 2
    assert [one.rows for one in told] == sorted(one.rows for one in told)
    assert all(one.confirmed <= one.rows <= 400 for one in told)


def test_what_a_writers_own_progress_function_raises_ends_the_write_and_is_raised(site: Site) -> None:
    site.topic()

    def told(_: PutProgress) -> None:
        raise ZeroDivisionError("no bar to draw")

    def batches() -> Iterator[pa.RecordBatch]:
        while True:
            yield rows(10)
            time.sleep(0.01)

    with (
        Publisher(TOPIC, endpoint=site.node.endpoint) as publisher,
        pytest.raises(ZeroDivisionError, match="no bar to draw"),
    ):
        publisher.publish(batches(), told=told)
    until(lambda: len(site.outlet) == 0)


def test_a_write_without_rows_is_one(site: Site) -> None:
    site.topic()
    assert site.put(rows(0)).rows == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flush_timeout_s": 0.0}, "flushTimeout=0.0: more than 0"),
        ({"on_invalid": "drop"}, "onInvalid='drop': one of fail, skip, deadletter"),
        ({"on_invalid": "deadletter"}, "go together"),
        ({"topic": "orders"}, "topic 'orders' is not a topic name"),
        ({"topic": None}, "no topic"),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(site: Site, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        site.put(rows(1), **given)


def test_the_daemons_columns_are_the_contracts(site: Site) -> None:
    assert MESSAGES_SCHEMA.names == ["data", "attributes", "ordering_key", "topic"]
    with pytest.raises(InvalidRequest, match=r"column 'body' is none of data, attributes.*to_json\(struct"):
        site.put(rows(1, body=pa.array(["x"])))
    with pytest.raises(InvalidRequest, match="column 'data' is int64; binary is needed"):
        site.put(pa.RecordBatch.from_pydict({"data": [1]}))
