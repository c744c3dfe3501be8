"""The daemon as a process: what it answers, and how it ends."""

from __future__ import annotations

import json
import signal
import threading
import time

import pyarrow.flight as fl
import pytest
from google.pubsub_v1 import SubscriberClient
from prometheus_client.parser import text_string_to_metric_families
from tests.service.conftest import NAME, TOPIC, Daemon, Site, payload, until

from penstock.client import Consumer, Driver, Limits, NodeClient, Offset, ReaderSettings
from penstock.contract import PROTOCOL_VERSION, Reader
from penstock.contract.actions import OpenRequest, PlanRequest, SealReply, SealRequest
from penstock.errors import OpenAgain, SubscriptionFailed, SubscriptionNotAllowed


def consumer(daemon: Daemon, **options: object) -> Consumer:
    return Consumer(NAME, endpoint=daemon.endpoint, **options)  # type: ignore[arg-type]


def sealed(node: NodeClient, rows: int) -> tuple[Reader, SealReply]:
    """A batch of all that was published, held by a reader of the bare protocol."""
    reader = Reader(int(time.time() * 1000), "r")
    first = OpenRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, subscription=NAME, after=0)
    node.call("open", first)

    def try_to_seal() -> SealReply | None:
        ask = SealRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, after=0, max_rows=rows)
        try:
            reply: SealReply = node.call("seal", ask)
        except OpenAgain:  # the daemon was starved of the processor for seconds, and noticed
            node.call("open", first)
            return None
        return reply if reply.batch is not None else None

    return reader, until(try_to_seal)


def test_what_is_published_is_read_committed_and_acknowledged(site: Site) -> None:
    daemon = site.serve()
    site.publish(5000)
    got: list[bytes] = []
    with consumer(daemon) as reading:
        for batch in reading:
            got += batch.to_table().column("data").to_pylist()
            batch.commit()
            if len(got) >= 5000:
                break
        until(lambda: site.statistics()["remaining"] == 0)
    assert sorted(got) == sorted(b"%d" % n + b"x" * 20 for n in range(5000))
    assert daemon.figures()["acknowledged"] == 5000


def test_nothing_is_pulled_before_the_first_open(site: Site) -> None:
    daemon = site.serve()
    site.publish(10)
    assert daemon.figures() == {}
    assert site.statistics()["streams"] == 0


def test_sigterm_gives_back_what_is_unsealed_and_exits_0(site: Site) -> None:
    daemon = site.serve("--drain-timeout-s", "1")
    site.publish(1000)
    with NodeClient(daemon.endpoint) as node:
        sealed(node, 1)
    until(lambda: daemon.figures()["received"] == 1000)
    assert daemon.end() == 0
    statistics = site.statistics()
    assert statistics["remaining"] == 1000
    assert statistics["nacked"] == 1000, "every message goes back at once, none waits for its deadline"


def test_a_drain_serves_and_commits_what_is_sealed(site: Site) -> None:
    daemon = site.serve()
    site.publish(100)
    with consumer(daemon, max_rows=40) as reading:
        batch = next(iter(reading))
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: "draining" in daemon.log())
        assert batch.to_table().num_rows == len(batch) <= 40
        batch.commit()
        assert daemon.process.wait(30) == 0
    assert site.statistics()["acked"] == len(batch)
    assert site.statistics()["remaining"] == 100 - len(batch)


def test_a_second_signal_exits_at_once(site: Site) -> None:
    daemon = site.serve("--drain-timeout-s", "60")
    site.publish(10)
    with NodeClient(daemon.endpoint) as node:
        sealed(node, 10)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in daemon.log())
    assert daemon.end(signal.SIGTERM, 5) != 0


def test_a_reader_that_stands_still_does_not_keep_the_daemon_from_ending(site: Site) -> None:
    daemon = site.serve("--drain-timeout-s", "1")
    for _ in range(5):
        site.publish(1000, data_bytes=9000)
    with NodeClient(daemon.endpoint) as node:
        reader, reply = sealed(node, 100_000)
        ask = PlanRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, batch=reply.batch or "", slices=1)
        ticket = node.call("plan", ask).slices[0].ticket
        stuck = fl.connect(f"grpc://{daemon.endpoint}").do_get(fl.Ticket(ticket.to_json()))
        stuck.read_chunk()
        assert daemon.end(timeout_s=20) == 0
        stuck.cancel()


def test_a_missing_subscription_fails_the_open_with_googles_words(site: Site) -> None:
    daemon = site.serve()
    with (
        pytest.raises(SubscriptionFailed, match="NOT_FOUND"),
        Consumer("projects/p/subscriptions/missing", endpoint=daemon.endpoint) as reading,
    ):
        next(iter(reading))


def test_a_subscription_that_the_settings_do_not_list_is_refused(site: Site) -> None:
    daemon = site.serve()
    with (
        pytest.raises(SubscriptionNotAllowed, match="--subscription projects/q/subscriptions/orders"),
        Consumer("projects/q/subscriptions/orders", endpoint=daemon.endpoint) as reading,
    ):
        next(iter(reading))


def test_permission_denied_while_pulling_reaches_the_reader_and_readyz(site: Site) -> None:
    daemon = site.serve()
    site.faults.fail("StreamingPull", "PERMISSION_DENIED", times=50)
    with consumer(daemon) as reading:
        with pytest.raises(SubscriptionFailed, match="PERMISSION_DENIED"):
            next(iter(reading))
        status, body = daemon.http("/readyz")
        assert status == 503
        assert "PERMISSION_DENIED" in body
        assert daemon.http("/healthz")[0] == 200
    assert daemon.http("/readyz")[0] == 200, "nobody waits for it any more"


def test_a_failed_subscription_is_tried_again_by_the_next_open(site: Site) -> None:
    daemon = site.serve()
    site.faults.fail("StreamingPull", "PERMISSION_DENIED", times=50)
    with pytest.raises(SubscriptionFailed), consumer(daemon) as reading:
        next(iter(reading))
    site.faults.clear()
    site.publish(10)
    with consumer(daemon) as reading:
        assert len(next(iter(reading))) > 0


def test_metrics_tell_the_backlog_to_prometheus(site: Site) -> None:
    daemon = site.serve()
    site.publish(100)
    with NodeClient(daemon.endpoint) as node:
        sealed(node, 1)
    until(lambda: daemon.figures()["received"] == 100)
    status, body = daemon.http("/metrics")
    assert status == 200
    samples = {
        (sample.name, sample.labels.get("subscription")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert [value for (name, of), value in samples.items() if of == NAME and "buffered_rows" in name] == [99]
    ready, said = daemon.http("/readyz")
    assert (ready, payload(said)) is not None
    assert ready == 200


def test_a_prefetched_subscription_that_was_refused_for_a_while_is_pulled_again(site: Site) -> None:
    # Twice, since a stream that ends while its first request is written does not hear why.
    site.faults.fail("StreamingPull", "PERMISSION_DENIED", 2)
    site.publish(10)
    daemon = site.serve("--subscription", NAME, "--prefetch")
    until(lambda: daemon.http("/readyz")[0] == 503)
    until(lambda: daemon.figures().get("buffered") == 10, 40)
    assert daemon.http("/readyz")[0] == 200


def test_a_subscription_to_prefetch_that_does_not_exist_is_why_the_daemon_is_not_ready(site: Site) -> None:
    missing = NAME + "-later"
    daemon = site.serve("--subscription", missing, "--prefetch")
    until(lambda: daemon.http("/readyz")[0] == 503 and f"{missing}: NOT_FOUND" in daemon.http("/readyz")[1])
    SubscriberClient().create_subscription(name=missing, topic=TOPIC)
    until(lambda: daemon.http("/readyz")[0] == 200)


def test_prefetch_pulls_before_anybody_opens(site: Site) -> None:
    site.publish(100)
    daemon = site.serve("--subscription", NAME, "--prefetch")
    until(lambda: daemon.figures().get("buffered") == 100)


def test_garbage_is_answered_with_documented_errors_and_the_daemon_lives(site: Site) -> None:
    daemon = site.serve()
    client = fl.connect(f"grpc://{daemon.endpoint}")
    for action, body in (
        ("seal", b"\xff\xfe"),
        ("open", b"[" * 100_000),
        ("nonsense", b""),
        ("plan", b"{}"),
        ("alive", b"null"),
    ):
        with pytest.raises(fl.FlightError) as caught:
            list(client.do_action(fl.Action(action, body)))
        assert (
            b'"code": "INVALID_REQUEST"' in caught.value.extra_info or b"PROTOCOL_MISMATCH" in caught.value.extra_info
        )
    with pytest.raises(fl.FlightError):
        list(client.do_action(fl.Action("seal", b"x" * (5 << 20))))
    for ticket, code in (
        (b"", "INVALID_REQUEST"),
        (b"\x00" * 10, "INVALID_REQUEST"),
        (b'{"v":1}', "INVALID_REQUEST"),
        (b'{"v":9,"batch":"","slice":0,"slices":1,"rows":1}', "PROTOCOL_MISMATCH"),
        (b'{"v":9,"range":[0,1]}', "PROTOCOL_MISMATCH"),  # another version may name other things
    ):
        with pytest.raises(fl.FlightError) as caught:
            client.do_get(fl.Ticket(ticket)).read_all()
        assert json.loads(caught.value.extra_info)["code"] == code
    assert daemon.http("/healthz")[0] == 200
    client.close()


def test_many_readers_at_once_all_get_their_rows(site: Site) -> None:
    daemon = site.serve()
    site.publish(20_000)
    with NodeClient(daemon.endpoint) as node:
        time.sleep(0.5)
        reader, reply = sealed(node, 1_000_000)
        ask = PlanRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, batch=reply.batch or "", slices=16)
        tickets = [planned.ticket for planned in node.call("plan", ask).slices]
    rows: list[int] = []

    def read(index: int) -> None:
        with NodeClient(daemon.endpoint) as mine:
            rows.append(sum(len(batch) for batch in mine.read(tickets[index])))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(tickets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(rows) == reply.rows


def test_a_budget_smaller_than_the_backlog_bounds_memory_and_loses_nothing(site: Site) -> None:
    daemon = site.serve("--memory-limit-mb", "16")
    for _ in range(60):
        site.publish(1000, data_bytes=1000)
    got = 0
    with consumer(daemon) as reading:
        for batch in reading:
            assert daemon.figures()["used_bytes"] < 24 << 20
            got += batch.to_table().num_rows
            batch.commit()
            if got >= 60_000:
                break
        until(lambda: site.statistics()["remaining"] == 0)
    assert got == 60_000


def test_what_a_leaving_consumer_gives_back_is_there_for_the_next_one_at_once(site: Site) -> None:
    """Released into a stream that is about to close, messages would be nobody's for the 60 s of their lease."""
    daemon = site.serve()
    site.publish(3)
    for _ in range(5):
        with consumer(daemon) as reading:
            rows = 0
            while rows < 3:
                batch = reading.next(20)
                assert batch is not None, site.statistics()
                rows += batch.to_table().num_rows


def test_a_minimum_of_rows_above_what_fits_is_met_by_what_fits(site: Site) -> None:
    daemon = site.serve("--memory-limit-mb", "16")
    for _ in range(40):
        site.publish(1000, data_bytes=1000)
    settings = ReaderSettings(subscription=NAME)
    with NodeClient(daemon.endpoint) as node:
        driver = Driver("c", settings, [node])
        start = Offset.initial("c", NAME)
        end = until(lambda: driver.latest(start, Limits(min_rows=10_000_000)), 40)
        assert 0 < end.rows < 40_000


def test_plain_flight_clients_find_subscriptions_slices_and_where_to_read_them(site: Site) -> None:
    daemon = site.serve("--advertise", "grpc://node-7:8815")
    site.publish(100)
    client = fl.connect(f"grpc://{daemon.endpoint}")
    with NodeClient(daemon.endpoint) as node:
        reader, reply = sealed(node, 1_000)
    assert [flight.descriptor.path for flight in client.list_flights()] == [[NAME.encode()]]
    assert "seal" in {action.type for action in client.list_actions()}
    ask = PlanRequest(v=PROTOCOL_VERSION, consumer="c", reader=reader, epoch=1, batch=reply.batch or "", slices=1)
    info = client.get_flight_info(fl.FlightDescriptor.for_command(ask.to_json()))
    assert info.total_records == reply.rows
    assert info.endpoints[0].locations == [fl.Location("grpc://node-7:8815")]
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == reply.rows
    client.close()


def test_tasks_are_told_the_address_that_the_daemon_advertises(site: Site) -> None:
    daemon = site.serve("--advertise", "grpc://node-7:8815")
    site.publish(10)
    with NodeClient(daemon.endpoint) as node:
        driver = Driver("c", ReaderSettings(subscription=NAME), [node])
        start = Offset.initial("c", NAME)
        end = until(lambda: driver.latest(start, Limits()))
        assert {part.endpoint for part in driver.plan(start, end, 2)} == {"grpc://node-7:8815"}
