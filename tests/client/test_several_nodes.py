"""One reader of several daemons: what it takes from each, and what becomes of rows on one that is lost."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.client.daemon import SUBSCRIPTION, Daemon
from tests.reservoir.making import HandClock

from penstock import Consumer
from penstock.client import Driver, Limits, Listed, NodeClient, Offset, PlannedRead, ReaderSettings, SideBySide
from penstock.errors import InvalidOption, NodeUnreachable, SubscriptionShared

START = Offset.initial("consumer-1", SUBSCRIPTION)
ANY = Limits()


@pytest.fixture
def nodes() -> Iterator[tuple[Daemon, Daemon]]:
    with Daemon(site="a") as one, Daemon(site="b") as other:
        yield one, other


def until(condition: Callable[[], Any]) -> None:
    """A connection that was lost is tried again after a while."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


class Time:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def driver(*daemons: Daemon, passing: Time | None = None, **settings: Any) -> Driver:
    chosen = ReaderSettings(**{"subscription": SUBSCRIPTION, "node_wait_s": 10.0, **settings})
    listed = [NodeClient(daemon.endpoint) for daemon in daemons]
    if passing is None:
        return Driver("consumer-1", chosen, listed, together=SideBySide())
    return Driver("consumer-1", chosen, listed, clock=lambda: passing.now, sleep=passing.sleep)


def sealed(reader: Driver, start: Offset, limits: Limits = ANY) -> Offset:
    end = reader.latest(start, limits)
    assert end is not None
    return end


def read(planned: list[PlannedRead]) -> list[str]:
    return [
        message
        for part in planned
        for batch in NodeClient(part.endpoint).read(part.ticket)
        for message in batch.column("message_id").to_pylist()
    ]


def sealed_on_both(reader: Driver, nodes: tuple[Daemon, Daemon]) -> Offset:
    assert reader.latest(START, ANY) is None
    nodes[0].publish(5)
    nodes[1].sent = 100
    nodes[1].publish(3)
    end = sealed(reader, START)
    assert len(end.nodes) == 2
    return end


def test_an_epoch_has_what_every_node_holds_and_is_acknowledged_on_each(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes)
    end = sealed_on_both(reader, nodes)
    planned = reader.plan(START, end, 4)
    assert {part.node for part in planned} == {node.reservoir.node for node in nodes}
    assert sorted(read(planned)) == sorted([*(f"m{n}" for n in range(5)), *(f"m{n}" for n in range(100, 103))])
    assert reader.latest(end, ANY) is None
    assert [len(node.acknowledged()) for node in nodes] == [5, 3]


def test_limits_hold_for_all_nodes_together(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes)
    assert reader.latest(START, ANY) is None
    nodes[0].publish(90)
    nodes[1].publish(10)
    end = sealed(reader, START, Limits(max_rows=20))
    assert sorted(named.rows for named in end.nodes.values()) == [2, 18]


def test_a_minimum_counts_the_rows_of_all_nodes(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes)
    many = Limits(min_rows=10, max_delay_s=3600)
    assert reader.latest(START, many) is None
    nodes[0].publish(6)
    assert reader.latest(START, many) is None
    nodes[1].publish(6)
    assert sealed(reader, START, many).rows == 12


def test_nobody_waits_for_a_node_that_is_down_and_its_rows_come_when_it_is_back(nodes: tuple[Daemon, Daemon]) -> None:
    passing = Time()
    reader = driver(*nodes, passing=passing)
    assert reader.latest(START, ANY) is None
    nodes[1].stop()
    nodes[0].publish(5)
    end = sealed(reader, START)
    assert (end.rows, reader.report()["nodes_down"]) == (5, 1)
    nodes[1].start()
    until(lambda: reader.beat() and reader.report()["nodes_down"] == 0)
    assert reader.latest(end, ANY) is None
    nodes[1].publish(3)
    after = sealed(reader, end)
    assert (after.rows, reader.report()["nodes_down"]) == (3, 0)
    assert passing.now == 0.0


def test_all_nodes_down_is_an_error_after_the_wait(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes, passing=Time())
    assert reader.latest(START, ANY) is None
    for node in nodes:
        node.stop()
    try:
        with pytest.raises(NodeUnreachable, match=r"no penstock daemon answers .* \(waited 1. s, option nodeWait"):
            reader.latest(START, ANY)
    finally:
        for node in nodes:
            node.start()


class Cut:
    """Satisfies `client.Node`: a way that can be cut."""

    def __init__(self, daemon: Daemon) -> None:
        self._client = NodeClient(daemon.endpoint)
        self.endpoint = self._client.endpoint
        self.cut = False

    def call(self, action: str, request: Any) -> Any:
        if self.cut:
            raise NodeUnreachable("the way is cut")
        return self._client.call(action, request)

    def close(self) -> None:
        self._client.close()


def lost(nodes: tuple[Daemon, Daemon], **settings: Any) -> tuple[Driver, Offset, Cut, Time]:
    """An epoch on both nodes, of which the second cannot be reached any more when it is planned."""
    passing, ways = Time(), [Cut(node) for node in nodes]
    chosen = ReaderSettings(**{"subscription": SUBSCRIPTION, "node_wait_s": 10.0, **settings})
    reader = Driver("consumer-1", chosen, ways, clock=lambda: passing.now, sleep=passing.sleep)
    end = sealed_on_both(reader, nodes)
    ways[1].cut = True
    return reader, end, ways[1], passing


def test_a_node_that_is_lost_is_left_out_once_it_must_have_given_its_rows_back(nodes: tuple[Daemon, Daemon]) -> None:
    reader, end, _, passing = lost(nodes)
    assert len(read(reader.plan(START, end, 2))) == 5
    assert passing.now >= 330, "its time-out and a tenth"
    named = end.nodes[nodes[1].reservoir.node].batch
    excluded = [body for action, body in nodes[0].bodies if action == "exclude"]
    assert [body["batches"] for body in excluded] == [[named]], "recorded before the plan is used"
    nodes[0].publish(1)
    assert sealed(reader, end).excluded == {named: 1}, "and in the next offset"


def test_what_a_plan_left_out_is_never_acknowledged_whoever_finds_the_node_again(nodes: tuple[Daemon, Daemon]) -> None:
    reader, end, _, _ = lost(nodes)
    planned = reader.plan(START, end, 2)
    again = driver(*nodes)  # which reaches both
    assert read(again.plan(START, end, 2)) == read(planned), "never less, never more"
    assert again.latest(end, ANY) is None
    assert (len(nodes[0].acknowledged()), nodes[1].acknowledged()) == (5, [])
    assert len(nodes[1].service.released) == 3


def test_a_query_that_may_not_lose_nodes_fails_instead(nodes: tuple[Daemon, Daemon]) -> None:
    reader, end, way, passing = lost(nodes, exclude_lost=False)
    with pytest.raises(NodeUnreachable, match="option nodeWait"):
        reader.plan(START, end, 2)
    assert passing.now < 20
    way.cut = False
    assert len(read(reader.plan(START, end, 2))) == 8


def test_a_commit_that_a_node_could_not_be_told_is_carried_by_tasks(nodes: tuple[Daemon, Daemon]) -> None:
    reader, end, way, _ = lost(nodes)
    assert reader.latest(end, ANY) is None
    carried = reader.pending_commits()
    assert carried is not None
    assert carried.nodes == (nodes[1].reservoir.node,)
    way._client.call("commit", carried.request)
    assert len(nodes[1].acknowledged()) == 3


def test_slices_of_several_nodes_are_dealt_by_the_one_with_most_rows(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes)
    end = sealed_on_both(reader, nodes)
    host = reader.host(end.epoch, reader.plan(START, end, 4))
    assert host is not None
    assert (host.endpoint, host.incarnation) == (nodes[0].endpoint, nodes[0].reservoir.incarnation)


def test_slices_of_one_node_are_not_dealt(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes)
    assert reader.latest(START, ANY) is None
    nodes[1].publish(5)
    end = sealed(reader, START)
    assert reader.host(end.epoch, reader.plan(START, end, 4)) is None


def test_a_query_that_takes_what_is_there_ends_when_every_node_is_quiet(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes, passing=Time())
    assert reader.latest(START, ANY) is None
    reader.take_what_is_there(1.0)
    nodes[0].streams_open_since = 0.0
    nodes[0].publish(5)
    end = sealed(reader, START)
    nodes[1].publish(3)
    after = sealed(reader, end)
    nodes[1].streams_open_since = 0.0
    assert (end.rows, after.rows) == (5, 3)
    assert reader.latest(after, ANY) is None
    assert reader.ended


def test_a_plain_consumer_reads_from_all_daemons_that_it_is_given(nodes: tuple[Daemon, Daemon]) -> None:
    with Consumer(SUBSCRIPTION, endpoint=[node.endpoint for node in nodes]) as consumer:
        assert consumer.next(0.1) is None
        nodes[0].publish(5)
        nodes[1].publish(3)
        rows = 0
        while rows < 8:
            batch = consumer.next(10)
            assert batch is not None
            rows += batch.to_table().num_rows
            batch.commit()
    assert [len(node.acknowledged()) for node in nodes] == [5, 3]


# --- names that stand for several -----------------------------------------------------------------------------------


def resolving(*hosts: str) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 8815)) for host in hosts]


def test_a_name_is_resolved_anew_but_not_more_than_once_a_second() -> None:
    answers: list[list[Any] | OSError] = [
        resolving("10.0.0.1"),
        resolving("10.0.0.2", "10.0.0.1"),
        OSError("no DNS today"),
    ]

    def resolve(_name: str, _port: int, **_: Any) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    clock = HandClock()
    listed = Listed(["dns:///penstock.default.svc:8815"], resolve, clock)
    assert [node.endpoint for node in listed()] == ["10.0.0.1:8815"]
    clock.now += 0.9
    assert [node.endpoint for node in listed()] == ["10.0.0.1:8815"]
    clock.now += 0.2
    assert [node.endpoint for node in listed()] == ["10.0.0.1:8815", "10.0.0.2:8815"]
    clock.now += 1.1
    assert len(listed()) == 2, "what does not resolve now stays as it was"
    assert len(listed()) == 2
    assert answers == []


def test_a_daemon_with_addresses_of_both_families_is_one() -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [*resolving("10.0.0.1"), (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", 8815, 0, 0))]

    assert [node.endpoint for node in Listed(["dns:///penstock:8815"], resolve)()] == ["10.0.0.1:8815"]


def test_a_name_that_never_resolved_is_an_error_that_names_it() -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise OSError("unknown")

    with pytest.raises(NodeUnreachable, match="dns:///nowhere:8815 does not resolve"):
        Listed(["dns:///nowhere:8815"], resolve)()


def test_an_address_of_another_form_is_refused() -> None:
    with pytest.raises(InvalidOption, match="write dns:///name:port"):
        Listed(["dns:penstock:8815"])


def test_a_node_that_joins_is_read_from_and_one_that_leaves_is_not_waited_for(nodes: tuple[Daemon, Daemon]) -> None:
    first, second = (NodeClient(node.endpoint) for node in nodes)
    listed = [first]
    reader = Driver("consumer-1", ReaderSettings(subscription=SUBSCRIPTION), lambda: list(listed))
    assert reader.latest(START, ANY) is None
    listed.append(second)
    assert reader.latest(START, ANY) is None
    nodes[1].publish(3)
    end = sealed(reader, START)
    listed.remove(first)
    nodes[0].stop()
    try:
        until(lambda: reader.beat() and reader.report()["nodes_down"] == 1)
        nodes[1].publish(4)
        assert sealed(reader, end).rows == 4
        assert [peer.node.endpoint for peer in reader.peers] == [nodes[1].endpoint]
    finally:
        nodes[0].start()


# --- two machines that have one name --------------------------------------------------------------------------------


def test_rows_of_two_nodes_that_seem_to_be_at_one_site_are_all_read_before_they_are_acknowledged() -> None:
    with Daemon(site="same") as one, Daemon(site="same") as other:
        reader = driver(one, other)
        end = sealed_on_both(reader, (one, other))
        assert len(read(reader.plan(START, end, 4))) == 8
        again = driver(one, other)  # nothing but the offset is left of the one before it
        assert again.latest(end, ANY) is None
        assert [len(node.acknowledged()) for node in (one, other)] == [5, 3]


# --- replies that are lost, and addresses that lead elsewhere, while nodes are asked side by side ---------------------


def test_a_batch_whose_seal_got_lost_on_the_way_back_is_asked_for_again(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes, passing=Time())
    many = Limits(min_rows=3, max_delay_s=3600)
    assert reader.latest(START, many) is None
    nodes[1].publish(3)
    nodes[1].lose_replies = ["seal"]
    assert reader.latest(START, many) is None
    until(lambda: reader.beat() and reader.report()["nodes_down"] == 0)
    assert sealed(reader, START, many).rows == 3, "which are in no backlog any more"


def test_a_query_that_takes_what_is_there_does_not_end_without_such_a_batch(nodes: tuple[Daemon, Daemon]) -> None:
    passing = Time()
    reader = driver(*nodes, passing=passing)
    assert reader.latest(START, ANY) is None
    for node in nodes:
        node.streams_open_since = 0.0
    reader.take_what_is_there(1.0)
    nodes[1].publish(3)
    nodes[1].lose_replies = ["seal"]
    sleep = passing.sleep

    def beating(seconds: float) -> None:
        sleep(seconds)
        time.sleep(0.01)
        reader.beat()

    reader._sleep = beating
    reader._calls._sleep = beating
    assert sealed(reader, START).rows == 3


def test_a_batch_is_named_after_the_node_that_was_asked(nodes: tuple[Daemon, Daemon]) -> None:
    reader = driver(*nodes)
    assert reader.latest(START, ANY) is None
    nodes[0].publish(5)
    peer = reader.peers[0]
    node = peer.id

    def meanwhile(action: str, _reply: bytes) -> None:
        if action == "seal":  # a heartbeat hears another name
            peer.answers_as("b-other", "other")

    nodes[1].before_reply = meanwhile
    end = sealed(reader, START)
    assert set(end.nodes) == {node}


def test_while_a_lost_node_is_waited_for_the_others_keep_what_they_have(nodes: tuple[Daemon, Daemon]) -> None:
    reader, end, _, passing = lost(nodes)
    sleep, reservoir = passing.sleep, nodes[0].reservoir
    (consumer,) = nodes[0].held.consumers.values()

    def beating(seconds: float) -> None:
        sleep(seconds)
        if passing.now < 5:
            nodes[0].on_loop(lambda: [held.after_jump(0.0) for held in reservoir.subscriptions.values()])
        reader.beat()
        if passing.now >= 10:
            shut.append(consumer.must_open)

    shut: list[bool] = []
    reader._planner._sleep = beating
    reader.plan(START, end, 2)
    assert not any(shut), "it would give its rows back once its time-out is over"


def test_a_named_consumer_goes_on_where_the_furthest_node_is(nodes: tuple[Daemon, Daemon]) -> None:
    endpoints = [node.endpoint for node in nodes]

    def committed(epochs: int, *listed: str) -> None:
        with Consumer(SUBSCRIPTION, endpoint=listed, name="mail") as consumer:
            assert consumer.next(0) is None
            for _ in range(epochs):
                nodes[1].publish(1)
                batch = consumer.next(10)
                assert batch is not None
                batch.commit()
            consumer._session.bye()
            consumer._closed = True  # as a process that is killed: a closed consumer is forgotten

    nodes[0].publish(1)
    committed(1, *endpoints)
    committed(2, endpoints[1])
    with Consumer(SUBSCRIPTION, endpoint=endpoints, name="mail") as consumer:
        assert consumer.next(0) is None
        nodes[0].publish(1)
        batch = consumer.next(10)
        assert batch is not None
        assert batch.epoch == 4


def test_a_node_that_is_not_listed_for_a_while_is_told_what_it_missed(nodes: tuple[Daemon, Daemon]) -> None:
    ways = [Cut(node) for node in nodes]
    listed = list(ways)
    reader = Driver("consumer-1", ReaderSettings(subscription=SUBSCRIPTION), lambda: list(listed))
    first = sealed_on_both(reader, nodes)
    reader.plan(START, first, 2)
    ways[1].cut = True
    reader.beat()
    listed.remove(ways[1])  # not ready, as its name has it
    nodes[0].publish(1)
    second = sealed(reader, first)
    nodes[0].publish(1)
    third = sealed(reader, second)
    ways[1].cut = False
    listed.append(ways[1])
    reader.beat()
    assert reader.latest(third, ANY) is None
    reader.beat()
    assert reader.latest(third, ANY) is None
    assert (len(nodes[1].acknowledged()), nodes[1].service.released) == (3, [])


# --- a query that takes what is there, over nodes that come and go ----------------------------------------------------


def test_a_query_that_takes_what_is_there_says_why_a_node_does_not_serve_it(nodes: tuple[Daemon, Daemon]) -> None:
    other = driver(nodes[1], passing=Time())
    other.consumer = other._calls.consumer = "consumer-2"
    assert other.latest(START, ANY) is None
    reader = driver(*nodes, passing=Time())
    reader.take_what_is_there(1.0)
    for node in nodes:
        node.streams_open_since = 0.0
    with pytest.raises(SubscriptionShared, match=r"shareSubscription=true .*nodeWait"):
        reader.latest(START, ANY)


def test_a_query_that_takes_what_is_there_does_not_wait_for_a_node_that_left(nodes: tuple[Daemon, Daemon]) -> None:
    passing, ways = Time(), [Cut(node) for node in nodes]
    listed = list(ways)

    def sleep(seconds: float) -> None:
        passing.sleep(seconds)
        if passing.now > 2 and len(listed) == 2:
            listed.remove(ways[1])

    chosen = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=10.0)
    reader = Driver("consumer-1", chosen, lambda: list(listed), clock=lambda: passing.now, sleep=sleep)
    reader.take_what_is_there(1.0)
    for node in nodes:
        node.streams_open_since = 0.0
    ways[1].cut = True
    assert reader.latest(START, ANY) is None
    assert reader.ended


def test_a_node_that_comes_back_under_another_address_is_not_given_up(nodes: tuple[Daemon, Daemon]) -> None:
    passing, ways = Time(), [Cut(node) for node in nodes]
    listed = list(ways)

    def sleep(seconds: float) -> None:
        passing.sleep(seconds)
        if passing.now > 5 and ways[1] in listed:
            moved = Cut(nodes[1])
            moved.endpoint = f"localhost:{nodes[1].port}"
            listed[1] = moved

    chosen = ReaderSettings(subscription=SUBSCRIPTION, node_wait_s=10.0)
    reader = Driver("consumer-1", chosen, lambda: list(listed), clock=lambda: passing.now, sleep=sleep)
    end = sealed_on_both(reader, nodes)
    ways[1].cut = True
    assert len(read(reader.plan(START, end, 2))) == 8
    assert passing.now < 10


def test_a_node_that_may_not_be_lost_and_is_not_listed_is_named_with_the_way_out(nodes: tuple[Daemon, Daemon]) -> None:
    end = sealed_on_both(driver(*nodes), nodes)
    reader = driver(nodes[0], passing=Time(), exclude_lost=False)
    with pytest.raises(NodeUnreachable, match=r"name its address in the option `daemons`"):
        reader.plan(START, end, 2)
