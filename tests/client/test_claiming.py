"""Slices dealt by a real daemon to tasks that ask at once, again, and while it is away; and the node beside a task."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.client.daemon import SUBSCRIPTION, Daemon

from penstock.client import NodeClient, claim, own_node
from penstock.client.claiming import OWN_NODE_KNOWN_S, OwnNode, ask_own_node
from penstock.contract import MAX_SLICES, PROTOCOL_VERSION, Reader
from penstock.contract.actions import (
    AssignReply,
    AssignRequest,
    ClaimReply,
    ExcludeRequest,
    OpenReply,
    OpenRequest,
    PlacedSlice,
    PlanReply,
    PlanRequest,
    SealReply,
    SealRequest,
    StatusRequest,
    Ticket,
)
from penstock.contract.body import Request
from penstock.errors import InvalidRequest, NodeUnreachable, PlanGone

READER = Reader(1, "r")
PARTITIONS = 64
ATTEMPTS = 3


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


def opened(daemon: Daemon, node: NodeClient, generation: int = 1) -> OpenReply:
    request = OpenRequest(
        v=PROTOCOL_VERSION, consumer="c", reader=Reader(generation, "r"), subscription=SUBSCRIPTION, after=0
    )
    reply: OpenReply = node.call("open", request)
    assert reply.node == daemon.reservoir.node
    return reply


def spread(count: int) -> tuple[PlacedSlice, ...]:
    """Slices of eight nodes."""
    return tuple(
        PlacedSlice(
            node=f"n{number % 8}",
            endpoint=f"host-{number % 8}:8815",
            ticket=Ticket(
                v=PROTOCOL_VERSION, batch=f"b{number % 8}", slice=number // 8, slices=-(-count // 8), rows=number + 1
            ),
        )
        for number in range(count)
    )


def assign(node: NodeClient, slices: tuple[PlacedSlice, ...], plan: str = "p") -> str:
    """The host's incarnation."""
    request = AssignRequest(v=PROTOCOL_VERSION, consumer="c", reader=READER, epoch=1, plan=plan, slices=slices)
    reply: AssignReply = node.call("assign", request)
    return reply.incarnation


def test_tasks_that_claim_at_once_and_again_have_one_slice_each(daemon: Daemon) -> None:
    slices = spread(PARTITIONS)
    with NodeClient(daemon.endpoint) as node:
        opened(daemon, node)
        incarnation = assign(node, slices)
        asking = [partition for partition in range(PARTITIONS) for _ in range(ATTEMPTS)]
        random.Random(7).shuffle(asking)
        ready = threading.Barrier(16)

        def task(partition: int, attempt: int) -> tuple[int, PlacedSlice]:
            if attempt < 16:
                ready.wait(10)
            near = f"n{random.Random(partition * attempt).randrange(10)}"
            return partition, claim(node, "p", incarnation, partition, near, 10)

        with ThreadPoolExecutor(16) as pool:
            got = list(pool.map(task, asking, range(len(asking))))
        assert assign(node, slices) == incarnation, "a call that is repeated, its reply was lost"
        later = {partition: claim(node, "p", incarnation, partition, None, 10) for partition in range(PARTITIONS)}
        figures = node.call("status", StatusRequest(v=PROTOCOL_VERSION)).subscriptions[SUBSCRIPTION]
    assert dict(got) == later
    assert len(set(got)) == PARTITIONS, "each partition heard of one slice"
    assert {placed for _, placed in got} == set(slices)
    assert figures["claims"] == PARTITIONS
    assert 0 < figures["claims_local"] <= PARTITIONS


def test_a_claimed_slice_is_read_at_its_node(daemon: Daemon) -> None:
    with NodeClient(daemon.endpoint) as node:
        opened(daemon, node)
        sent = daemon.publish(10)
        sealing = SealRequest(v=PROTOCOL_VERSION, consumer="c", reader=READER, epoch=1, after=0)
        sealed: SealReply = node.call("seal", sealing)
        planning = PlanRequest(
            v=PROTOCOL_VERSION, consumer="c", reader=READER, epoch=1, batch=sealed.batch or "", slices=3
        )
        planned: PlanReply = node.call("plan", planning)
        here = daemon.reservoir.node
        slices = tuple(PlacedSlice(node=here, endpoint=daemon.endpoint, ticket=one.ticket) for one in planned.slices)
        incarnation = assign(node, slices)
        rows: list[str] = []
        for partition in range(len(slices)):
            placed = claim(node, "p", incarnation, partition, here, 10)
            with NodeClient(placed.endpoint) as there:
                rows += [text for part in there.read(placed.ticket) for text in part["message_id"].to_pylist()]
    assert sorted(rows) == sorted(sent)


def test_the_largest_plan_is_dealt(daemon: Daemon) -> None:
    slices = spread(MAX_SLICES)
    with NodeClient(daemon.endpoint) as node:
        opened(daemon, node)
        incarnation = assign(node, slices)
        assert claim(node, "p", incarnation, MAX_SLICES - 1, "n5", 10) == slices[5]
        with pytest.raises(InvalidRequest, match="4096 is none of them"):
            claim(node, "p", incarnation, MAX_SLICES, None, 10)
        with pytest.raises(InvalidRequest, match="1 to 4096 slices, not 4097"):
            assign(node, (*slices, slices[0]), "one more")


def test_a_host_that_was_restarted_deals_nothing_of_plans_before(daemon: Daemon) -> None:
    with NodeClient(daemon.endpoint) as node:
        opened(daemon, node)
        incarnation = assign(node, spread(8))
        first = claim(node, "p", incarnation, 0, "n3", 10)
        assert first.node == "n3"
        daemon.stop()
        daemon.start()
        with pytest.raises(PlanGone, match=r"restarted.*restart the query") as caught:
            claim(node, "p", incarnation, 0, "n3", 60)
        assert caught.value.node == daemon.reservoir.node
        opened(daemon, node)
        fresh = assign(node, spread(8))
        assert fresh != incarnation
        with pytest.raises(PlanGone):
            claim(node, "p", incarnation, 1, None, 60)
        assert claim(node, "p", fresh, 1, "n2", 10).node == "n2"


def test_an_exclusion_is_answered_to_the_next_reader(daemon: Daemon) -> None:
    with NodeClient(daemon.endpoint) as node:
        opened(daemon, node)
        exclude = ExcludeRequest(v=PROTOCOL_VERSION, consumer="c", reader=READER, epoch=1, batches=("b1", "b2"))
        for _ in range(2):
            node.call("exclude", exclude)
        assert sorted(opened(daemon, node, generation=2).excluded) == ["b1", "b2"]


# --- a host that is away ------------------------------------------------------------------------------------------


class Away:
    """A host that does not answer the first calls."""

    def __init__(self, calls: int, error: Exception | None = None) -> None:
        self.now = 0.0
        self.calls = calls
        self.error = error or NodeUnreachable("no penstock daemon answers at h:1", endpoint="h:1")
        self.placed = spread(1)[0]

    def call(self, action: str, request: Request) -> ClaimReply:
        assert action == "claim"
        self.calls -= 1
        if self.calls >= 0:
            raise self.error
        return ClaimReply(slice=self.placed)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def claim(self, wait_s: float) -> PlacedSlice:
        return claim(self, "p", "i", 0, None, wait_s, clock=lambda: self.now, sleep=self.sleep)


def test_a_task_waits_for_a_host_that_comes_back() -> None:
    host = Away(10)
    assert host.claim(60) == host.placed
    assert 0 < host.now < 10


def test_a_host_that_stays_away_fails_the_task_after_node_wait_and_says_so() -> None:
    host = Away(1000)
    with pytest.raises(
        NodeUnreachable, match=r"h:1 \(it deals the slices of this batch; waited 2\d s, option nodeWait"
    ):
        host.claim(20)
    assert 20 <= host.now < 22


def test_a_plan_that_is_gone_fails_the_task_at_once() -> None:
    host = Away(1, PlanGone("restarted"))
    with pytest.raises(PlanGone):
        host.claim(60)
    assert host.now == 0


# --- the node beside a task ---------------------------------------------------------------------------------------


def test_the_node_beside_a_task_is_the_one_of_the_environment(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.client.claiming._own", {})
    monkeypatch.setenv("PENSTOCK_ENDPOINT", daemon.endpoint)
    assert own_node() == daemon.reservoir.node
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "nowhere")
    assert own_node() == daemon.reservoir.node, "asked once"
    assert daemon.calls == ["status"]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "no address", "grpc://h:99999999"])
def test_a_task_without_a_node_is_no_failure(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", endpoint)
    assert ask_own_node() is None


def test_a_node_that_does_not_answer_in_time_is_none(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def stall(_action: str) -> None:
        answer.wait(30)

    daemon.before_call = stall
    monkeypatch.setenv("PENSTOCK_ENDPOINT", daemon.endpoint)
    monkeypatch.setattr("penstock.client.claiming.OWN_NODE_DEADLINE_S", 0.05)
    try:
        assert ask_own_node() is None
    finally:
        answer.set()


@pytest.mark.parametrize("answer", ["n1", None])
def test_an_answer_holds_for_a_while_and_so_does_none(answer: str | None) -> None:
    now, asked = [0.0], 0

    def ask() -> str | None:
        nonlocal asked
        asked += 1
        return answer if asked == 1 else "n2"

    own = OwnNode(ask, lambda: now[0])
    assert [own.get(), own.get()] == [answer, answer]
    now[0] = OWN_NODE_KNOWN_S - 1
    assert own.get() == answer
    now[0] = OWN_NODE_KNOWN_S
    assert own.get() == "n2"
    assert asked == 2
