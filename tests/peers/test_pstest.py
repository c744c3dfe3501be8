"""What Penstock promises, on a Pub/Sub server that nobody here wrote and, with the same words, on its own emulator."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from google.pubsub_v1 import PubsubMessage
from tests.peers.servers import Peer
from tests.processes import NAME, TOPIC, Daemon, until

from penstock.client import Batch, Consumer, Driver, Limits, NodeClient, Offset, ReaderSettings
from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import CreateSubscription, OpenRequest, ReleaseRequest, SealReply, SealRequest
from penstock.errors import InvalidRequest, SubscriptionFailed

pytestmark = pytest.mark.long

ROWS = 100
"""The fake sends one message every 10 ms on each stream."""

DEADLINE_S = 10
"""The shortest that the service knows."""

SHORT_LEASES = ("--set", f"pubsub.ack_deadline_s={DEADLINE_S}")

LONG_LEASES = ("--set", "pubsub.ack_deadline_s=600")
"""What comes back within a test then was given back."""


def consumer(daemon: Daemon, **options: Any) -> Consumer:
    return Consumer(NAME, endpoint=daemon.endpoint, **options)


def batches(reading: Consumer, rows: int) -> Iterator[Batch]:
    """Batches until so many rows have come."""
    while rows > 0:
        batch = reading.next(60)
        assert batch is not None, f"{rows} rows did not come"
        rows -= len(batch)
        yield batch


def ids(*taken: Batch) -> list[str]:
    return [message for batch in taken for message in batch.to_table()["message_id"].to_pylist()]


def test_what_is_committed_is_acknowledged_and_never_comes_again(peer: Peer) -> None:
    peer.subscribe(ack_deadline_seconds=DEADLINE_S)
    sent, got = peer.publish_numbers(ROWS), []
    daemon = peer.serve(*SHORT_LEASES)
    with consumer(daemon) as reading:
        for batch in batches(reading, ROWS):
            got += ids(batch)
            batch.commit()
        until(lambda: peer.counts().acknowledged == ROWS)
    assert sorted(got) == sorted(sent)
    assert daemon.end() == 0
    assert not peer.pull(1, within_s=DEADLINE_S + 2)
    assert (peer.counts().delivered, peer.counts().acknowledged, peer.counts().nacked) == (ROWS, ROWS, 0)


def test_a_batch_held_for_longer_than_its_deadline_is_delivered_once(peer: Peer) -> None:
    peer.subscribe(ack_deadline_seconds=DEADLINE_S)
    peer.publish_numbers(ROWS)
    daemon = peer.serve(*SHORT_LEASES)
    with consumer(daemon) as reading:
        held = list(batches(reading, ROWS))
        # Extended at half-life: after three times a message has been held for one and a half deadlines.
        until(lambda: daemon.figures()["acks"]["extended"] >= 3 * ROWS, 60)
        assert peer.counts().delivered == ROWS
        assert peer.counts().acknowledged == 0
        for batch in held:
            batch.commit()
        until(lambda: peer.counts().acknowledged == ROWS)
    assert peer.counts().delivered == ROWS


def test_what_a_closed_consumer_did_not_commit_comes_back_at_once(peer: Peer) -> None:
    peer.subscribe()
    sent = peer.publish_numbers(ROWS)
    with consumer(peer.serve(*LONG_LEASES)) as reading:
        list(batches(reading, ROWS))
    assert sorted(received.message.message_id for received in peer.pull(ROWS, within_s=30)) == sorted(sent)


def test_messages_on_their_way_to_a_consumer_that_closes_come_back_by_their_deadline(peer: Peer) -> None:
    peer.subscribe()
    daemon = peer.serve(*SHORT_LEASES)
    sent: list[str] = []
    for _ in range(5):
        with consumer(daemon) as reading:
            sent += peer.publish_numbers(ROWS // 5)
            assert reading.next(60) is not None  # the fake is sending more right now
    got = peer.pull(ROWS, within_s=2 * DEADLINE_S)
    assert sorted(received.message.message_id for received in got) == sorted(sent)


def test_a_drained_daemon_leaves_its_messages_to_others_at_once(peer: Peer) -> None:
    peer.subscribe()
    sent = peer.publish_numbers(ROWS)
    daemon = peer.serve(*LONG_LEASES, "--drain-timeout-s", "0", "--subscription", NAME, "--prefetch")
    until(lambda: daemon.figures().get("buffered") == ROWS)
    assert daemon.end() == 0
    assert sorted(received.message.message_id for received in peer.pull(ROWS, within_s=30)) == sorted(sent)


def test_a_batch_skipped_by_a_later_commit_comes_back_to_the_same_consumer(peer: Peer) -> None:
    peer.subscribe()
    sent = peer.publish_numbers(ROWS)
    with consumer(peer.serve(*LONG_LEASES), max_rows=ROWS // 2) as reading:
        first, *others = batches(reading, ROWS)
        skipped = ids(first)
        got = ids(*others)
        for batch in others:
            batch.commit()
        again: list[str] = []
        for batch in batches(reading, len(skipped)):
            again += ids(batch)
            batch.commit()
        until(lambda: peer.counts().acknowledged == ROWS)
    assert sorted(again) == sorted(skipped)
    assert sorted(got + again) == sorted(sent)
    assert peer.counts().nacked == len(skipped)


def test_a_released_batch_comes_back_and_tells_how_often_it_was_delivered(peer: Peer) -> None:
    dead = "projects/p/topics/dead"
    peer.publisher.create_topic(name=dead)
    peer.subscribe(dead_letter_policy={"dead_letter_topic": dead, "max_delivery_attempts": 5})
    daemon = peer.serve(*LONG_LEASES)
    about: dict[str, Any] = {"v": PROTOCOL_VERSION, "consumer": "c", "reader": Reader(1, "r")}
    with NodeClient(daemon.endpoint) as node, consumer(daemon, share=True) as reading:
        node.call("open", OpenRequest(**about, subscription=NAME, after=0, share=True))
        (sent,) = peer.publish_numbers(1)

        def sealed() -> SealReply | None:
            reply: SealReply = node.call("seal", SealRequest(**about, epoch=1, after=0))
            return reply if reply.batch else None

        node.call("release", ReleaseRequest(**about, epoch=1, batch=until(sealed).batch))
        (batch,) = batches(reading, 1)
        (row,) = batch.rows()
    assert (row["message_id"], row["delivery_attempt"]) == (sent, 2)


def test_every_field_arrives_as_google_s_client_reads_it(peer: Peer) -> None:
    beside = f"{NAME}-beside"
    peer.subscribe()
    peer.subscribe(beside)
    sent = [
        PubsubMessage(data=bytes(range(256)), attributes={"plain": "value"}),
        PubsubMessage(data=b"\x00", attributes={"empty": "", "größe": "naïve ☃ 𝄞", "日本": "語\n\x00\t"}),
        PubsubMessage(data="𝄞 in UTF-8".encode(), ordering_key="Schlüssel/ключ 1"),
        PubsubMessage(attributes={"only": "attributes"}),
        PubsubMessage(data=b"x" * 300_000, attributes={f"key-{n}": str(n) * n for n in range(100)}),
    ]
    numbers = {message: number for number, message in enumerate(peer.publish(sent))}
    read = {
        received.message.message_id: received.message for received in peer.pull(len(sent), within_s=30, name=beside)
    }
    assert read.keys() == numbers.keys()
    with consumer(peer.serve()) as reading:
        rows = [row for batch in batches(reading, len(sent)) for row in batch.rows()]
    assert len(rows) == len(sent)
    for row in rows:
        google, original = read[row["message_id"]], sent[numbers[row["message_id"]]]
        assert row == {
            "message_id": google.message_id,
            "data": google.data,
            "attributes": dict(google.attributes),
            "publish_time": _to_microseconds(google.publish_time),
            "ordering_key": google.ordering_key or None,
            "delivery_attempt": None,
        }
        assert (row["data"], row["attributes"], row["ordering_key"] or "") == (
            original.data,
            dict(original.attributes),
            original.ordering_key,
        )


def _to_microseconds(time: Any) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(time.timestamp()), dt.UTC).replace(microsecond=time.microsecond)


def test_rows_of_an_ordering_key_come_in_the_order_they_were_published(peer: Peer) -> None:
    peer.subscribe(enable_message_ordering=True)
    keys = [f"key-{number % 5}" for number in range(40)]
    peer.publish(PubsubMessage(data=b"%d" % number, ordering_key=key) for number, key in enumerate(keys))
    got: dict[str, list[int]] = {}
    with consumer(peer.serve()) as reading:
        for batch in batches(reading, len(keys)):
            _note(batch, got)
            batch.commit()
        until(lambda: peer.counts().acknowledged == len(keys))
    assert got == {f"key-{key}": list(range(key, 40, 5)) for key in range(5)}


def test_a_skipped_batch_puts_no_row_of_a_key_before_an_earlier_one(peer: Peer) -> None:
    peer.subscribe(enable_message_ordering=True)
    keys = [f"key-{number % 3}" for number in range(30)]
    peer.publish(PubsubMessage(data=b"%d" % number, ordering_key=key) for number, key in enumerate(keys))
    daemon = peer.serve(*LONG_LEASES)
    with consumer(daemon, max_rows=2) as reading:
        assert reading.next(60) is not None
        until(lambda: daemon.figures()["received"] >= 3)  # the fake sends no more of a key before an acknowledgement
    # The next consumer begins with what the first one gave back, since it processed nothing of it.
    got: dict[str, list[int]] = {}
    with consumer(daemon, max_rows=2) as reading:
        for batch in batches(reading, len(keys)):
            _note(batch, got)
            batch.commit()
        until(lambda: peer.counts().acknowledged == len(keys))
    assert got == {f"key-{key}": list(range(key, 30, 3)) for key in range(3)}


def _note(batch: Batch, got: dict[str, list[int]]) -> None:
    for row in batch.rows():
        got.setdefault(row["ordering_key"], []).append(int(row["data"]))


def test_an_exactly_once_subscription_is_read_and_acknowledged(peer: Peer) -> None:
    peer.subscribe(enable_exactly_once_delivery=True)
    sent, got = peer.publish_numbers(ROWS), []
    daemon = peer.serve()
    with consumer(daemon) as reading:
        for batch in batches(reading, ROWS):
            got += ids(batch)
            batch.commit()
        until(lambda: peer.counts().acknowledged == ROWS)
    assert sorted(got) == sorted(sent)
    assert daemon.figures()["acks"]["lost"] == 0


@pytest.mark.parametrize("stream_close_after_s", [0.5])
def test_streams_that_the_server_closes_are_reopened_and_nothing_is_lost(peer: Peer) -> None:
    peer.subscribe()
    daemon, got, sent = peer.serve(*SHORT_LEASES), set[str](), set[str]()
    with consumer(daemon) as reading:
        for _ in range(5):
            sent.update(peer.publish_numbers(ROWS // 5))
            while not sent <= got:  # what was on its way when a stream ended comes again
                (batch,) = batches(reading, 1)
                got.update(ids(batch))
                batch.commit()
        until(lambda: peer.counts().acknowledged == ROWS)
    assert got == sent


def test_a_missing_subscription_fails_the_open_with_the_service_s_code(peer: Peer) -> None:
    daemon = peer.serve()
    with pytest.raises(SubscriptionFailed) as caught, consumer(daemon) as reading:
        reading.next(60)
    assert caught.value.details["service_code"] == "NOT_FOUND"
    peer.subscribe()
    with consumer(daemon) as reading:  # and is read once it is there
        assert reading.next(0) is None


@pytest.mark.parametrize("stream_close_after_s", [0.5])  # the fake's streams outlive their subscription
def test_a_subscription_deleted_while_it_is_read_fails_the_reader(peer: Peer) -> None:
    peer.subscribe()
    daemon = peer.serve()
    with consumer(daemon) as reading:
        peer.publish_numbers(1)
        for batch in batches(reading, 1):
            batch.commit()
        peer.subscriber.delete_subscription(subscription=NAME)
        with pytest.raises(SubscriptionFailed, match="NOT_FOUND"):
            reading.next(60)


def created(daemon: Daemon, **options: Any) -> Mapping[str, Any]:
    """A reader that names a topic; what the daemon then says of the subscription."""
    settings = ReaderSettings(subscription=NAME, create=CreateSubscription(**options))
    with NodeClient(daemon.endpoint) as node:
        driver = Driver("c", settings, [node])
        try:
            driver.seal(Offset.initial("c", NAME), Limits())
            return daemon.figures()
        finally:
            driver.close()


def test_a_subscription_is_created_for_a_reader_that_names_its_topic(peer: Peer) -> None:
    daemon = peer.serve()
    created(
        daemon,
        topic=TOPIC,
        ack_deadline_seconds=33,
        enable_message_ordering=True,
        enable_exactly_once_delivery=True,
        filter='attributes.kind = "wanted"',
    )
    made = peer.subscriber.get_subscription(subscription=NAME)
    assert (made.topic, made.ack_deadline_seconds, made.filter) == (TOPIC, 33, 'attributes.kind = "wanted"')
    assert made.enable_message_ordering
    assert made.enable_exactly_once_delivery
    peer.publish(PubsubMessage(data=b"%d" % number, attributes={"kind": kind}) for number, kind in _kinds(10))
    with consumer(daemon) as reading:
        got = [int(row["data"]) for batch in batches(reading, 5) for row in batch.rows()]
    assert sorted(got) == [number for number, kind in _kinds(10) if kind == "wanted"]


def _kinds(count: int) -> list[tuple[int, str]]:
    return [(number, ("wanted", "other")[number % 2]) for number in range(count)]


def test_a_subscription_is_not_created_on_a_missing_topic(peer: Peer) -> None:
    with pytest.raises(SubscriptionFailed) as caught:
        created(peer.serve(), topic="projects/p/topics/missing")
    assert caught.value.details["service_code"] == "NOT_FOUND"


def test_an_existing_subscription_of_another_topic_is_refused(peer: Peer) -> None:
    peer.subscribe()
    with pytest.raises(InvalidRequest, match=TOPIC):
        created(peer.serve(), topic="projects/p/topics/other")
