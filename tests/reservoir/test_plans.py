"""A slice goes to one partition, a partition gets one slice, and what is near a task is dealt to it while it lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.reservoir.making import CONSUMER, Bench

from penstock.contract import MAX_NAME_LENGTH, MAX_SLICES, PROTOCOL_VERSION, Reader
from penstock.contract.actions import PlacedSlice, Ticket
from penstock.errors import EpochPast, InvalidRequest, OpenAgain, PlanGone, ReaderFenced
from penstock.reservoir.plans import MAX_PLANS, Dealt, Plan, Plans

NODES = ("a", "b", "c")


def placed(node: str, number: int, of: int = MAX_SLICES, columns: tuple[str, ...] | None = None) -> PlacedSlice:
    ticket = Ticket(v=PROTOCOL_VERSION, batch=f"batch of {node}", slice=number, slices=of, rows=7, columns=columns)
    return PlacedSlice(node=node, endpoint=f"{node}:8815", ticket=ticket)


def spread(counts: Sequence[int]) -> list[PlacedSlice]:
    """So many slices on each node, the first node's first."""
    return [placed(node, number) for node, count in zip(NODES, counts, strict=True) for number in range(count)]


def plan(*counts: int) -> Plan:
    return Plan("p", 1, spread(counts))


# --- one plan -----------------------------------------------------------------------------------------------------


class PlanMachine(RuleBasedStateMachine):
    """Tasks of any partition, from anywhere, at any time and again."""

    @initialize(counts=st.tuples(*[st.integers(0, 6)] * 3).filter(any))
    def begin(self, counts: tuple[int, int, int]) -> None:
        self.plan, self.dealt = plan(*counts), Dealt()
        self.left = Counter(one.node for one in self.plan.slices)
        self.given: dict[int, PlacedSlice] = {}
        self.local = 0

    @rule(partition=st.integers(0, 17), near=st.sampled_from([*NODES, "elsewhere", None]))
    def claim(self, partition: int, near: str | None) -> None:
        if partition >= len(self.plan.slices):
            with pytest.raises(InvalidRequest, match=f"{partition} is none of them"):
                self.plan.claim(partition, near, self.dealt)
            return
        got = self.plan.claim(partition, near, self.dealt)
        if partition in self.given:
            assert got is self.given[partition], "a partition reads the same slice again"
            return
        assert got not in self.given.values(), "no slice is read by two partitions"
        if near is not None and self.left[near]:
            assert got.node == near, "what is near is dealt first"
        else:
            assert self.left[got.node] == max(self.left.values()), "whoever has most left misses it least"
        self.given[partition] = got
        self.left[got.node] -= 1
        self.local += got.node == near
        assert (self.dealt.claims, self.dealt.local) == (len(self.given), self.local), "each is counted once"

    def teardown(self) -> None:
        """Every slice has a partition in the end."""
        if hasattr(self, "plan"):
            slices = [self.plan.claim(partition, None, self.dealt) for partition in range(len(self.plan.slices))]
            assert sorted(map(repr, slices)) == sorted(map(repr, self.plan.slices))


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_slices_of_a_node_are_dealt_in_their_order() -> None:
    dealing = plan(3, 0, 0)
    assert [dealing.claim(partition, "a", Dealt()).ticket.slice for partition in (2, 0, 1)] == [0, 1, 2]


def test_a_task_without_a_node_leaves_the_others_theirs_for_as_long_as_possible() -> None:
    dealing, dealt = plan(2, 2, 8), Dealt()
    assert {dealing.claim(partition, None, dealt).node for partition in range(6)} == {"c"}
    assert [dealing.claim(partition, near, dealt).node for partition, near in enumerate("aabbcc", 6)] == list("aabbcc")
    assert (dealt.claims, dealt.local) == (12, 6)


def test_slices_that_came_as_json_share_their_texts() -> None:
    """Of 4,096 tickets of a few batches."""
    twice = [placed("node", number, columns=("data",)) for number in range(2)]
    first, second = Plan("p", 1, [PlacedSlice.from_json(one.to_json()) for one in twice]).slices
    assert first.node is second.node
    assert first.endpoint is second.endpoint
    assert first.ticket.batch is second.ticket.batch
    assert first.ticket.columns is second.ticket.columns
    assert [first, second] == twice


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        ([], "1 to 4096 slices, not 0"),
        ([placed("a", n % MAX_SLICES) for n in range(MAX_SLICES + 1)], "1 to 4096 slices, not 4097"),
        ([placed("a", 0), placed("a", 0, of=2)], "slice 0 of batch batch of a is in the list twice"),
        ([placed("a", 3, of=3)], "slice 3 of 3"),
        ([placed("a", -1, of=3)], "slice -1 of 3"),
        ([placed("a", 0, of=MAX_SLICES + 1)], "slice 0 of 4097"),
        ([placed("a", 0, columns=("colour",))], "colour"),
        ([placed("a" * (MAX_NAME_LENGTH - 8), 0)], "endpoint: 1 to 256|batch: 1 to 256"),
        ([placed("a" * (MAX_NAME_LENGTH + 1), 0)], "node: 1 to 256"),
        ([placed("", 0)], "node: 1 to 256 characters are allowed, not 0"),
    ],
)
def test_a_list_that_cannot_be_dealt_or_read_is_refused(slices: list[PlacedSlice], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        Plan("p", 1, slices)


def test_a_plan_id_is_short() -> None:
    with pytest.raises(InvalidRequest, match="plan: 1 to 256"):
        Plan("p" * 257, 1, spread([1, 0, 0]))


# --- the plans of a consumer --------------------------------------------------------------------------------------


def test_a_plan_that_is_assigned_again_keeps_its_claims_and_another_list_is_refused() -> None:
    plans, dealt = Plans(), Dealt()
    plans.assign("p", 1, spread([2, 2, 0]))
    known = plans.get("p")
    assert known is not None
    got = known.claim(0, "b", dealt)
    plans.assign("p", 1, spread([2, 2, 0]))
    assert plans.get("p") is known
    assert known.claim(0, "a", dealt) == got
    for epoch, slices in ((1, spread([2, 1, 0])), (2, spread([2, 2, 0]))):
        with pytest.raises(InvalidRequest, match="a plan ID of its own"):
            plans.assign("p", epoch, slices)
    assert known.claim(0, "a", dealt) == got


def test_plans_go_with_their_epoch() -> None:
    plans = Plans()
    for epoch in (3, 4, 5):
        plans.assign(f"p{epoch}", epoch, spread([1, 0, 0]))
    plans.finish(4)
    assert [plans.get(f"p{epoch}") is not None for epoch in (3, 4, 5)] == [False, False, True]
    plans.clear()
    assert len(plans) == 0


def test_a_consumer_has_so_many_plans_and_the_oldest_go() -> None:
    plans = Plans()
    for number in range(MAX_PLANS + 3):
        plans.assign(f"p{number}", 1, spread([1, 0, 0]))
        plans.assign("p0", 1, spread([1, 0, 0]))
    assert len(plans) == MAX_PLANS
    assert plans.get("p0") is not None, "it was assigned again all the while"
    assert plans.get("p1") is None
    assert plans.get(f"p{MAX_PLANS + 2}") is not None


def test_large_plans_make_room_sooner() -> None:
    plans = Plans()
    for number in range(5):
        plans.assign(f"p{number}", 1, spread([1500, 0, 0]))
    assert (len(plans), plans.slices) == (2, 3000)
    plans.assign("largest", 1, spread([MAX_SLICES, 0, 0]))
    assert (len(plans), plans.slices) == (1, MAX_SLICES)


# --- as calls reach them ------------------------------------------------------------------------------------------


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.open()
    yield bench
    assert bench.subscription.unaccounted() == 0


READER = Reader(1, "reader-1")


def assign(bench: Bench, plan_id: str = "p", epoch: int = 1, reader: Reader = READER) -> None:
    bench.reservoir.assign(CONSUMER, reader, epoch, plan_id, spread([2, 2, 0]))


def claim(bench: Bench, partition: int, near: str | None = None, plan_id: str = "p") -> PlacedSlice:
    return bench.reservoir.claim(plan_id, bench.reservoir.incarnation, partition, near)


def test_claims_are_answered_for_the_plan_and_counted_for_its_subscription(bench: Bench) -> None:
    assign(bench)
    assert [claim(bench, partition, near).node for partition, near in ((0, "b"), (3, "b"), (3, "a"), (2, None))] == [
        *("b", "b", "b", "a")
    ]
    figures = bench.subscription.statistics()
    assert (figures["claims"], figures["claims_local"]) == (3, 2)
    assert figures["consumers"][CONSUMER]["plans"] == 1  # type: ignore[index]


def test_another_incarnation_deals_nothing_and_says_what_to_do(bench: Bench) -> None:
    assign(bench)
    with pytest.raises(PlanGone, match=r"was restarted.*restart the query"):
        bench.reservoir.claim("p", "of the process before", 0, None)
    with pytest.raises(PlanGone, match="restart the query"):
        claim(bench, 0, plan_id="another")


def test_a_commit_ends_the_plans_of_its_epoch_only(bench: Bench) -> None:
    assign(bench, "p1", 1)
    assign(bench, "p2", 2)
    bench.commit(1, None)
    with pytest.raises(PlanGone):
        claim(bench, 0, plan_id="p1")
    assert claim(bench, 0, plan_id="p2")
    with pytest.raises(EpochPast):
        assign(bench, "p3", 1)


def test_plans_end_with_the_contact_of_their_consumer(bench: Bench) -> None:
    assign(bench)
    bench.pass_time(301)
    with pytest.raises(PlanGone):
        claim(bench, 0)


def test_plans_end_when_their_consumer_is_closed(bench: Bench) -> None:
    assign(bench)
    bench.subscription.close(bench.consumer)
    with pytest.raises(PlanGone):
        claim(bench, 0)


def test_tasks_go_on_claiming_of_a_reader_that_was_followed_by_another_or_said_bye(bench: Bench) -> None:
    assign(bench)
    first = claim(bench, 0)
    bench.open(2)
    bench.subscription.bye(bench.consumer)
    assert claim(bench, 0) == first


def test_neither_claims_nor_assigning_is_contact(bench: Bench) -> None:
    for _ in range(4):
        bench.pass_time(70)
        assign(bench)
        claim(bench, 0)
    bench.pass_time(30)
    with pytest.raises(OpenAgain):
        assign(bench)


def test_only_an_unfenced_reader_that_was_opened_assigns(bench: Bench) -> None:
    with pytest.raises(OpenAgain):
        assign(bench, reader=Reader(2, "not opened"))
    bench.open(2)
    with pytest.raises(ReaderFenced):
        assign(bench)


def test_a_plan_id_is_one_consumers(bench: Bench) -> None:
    bench.open(2, share=True)
    bench.open(1, consumer="another", share=True)
    bench.reservoir.assign("another", READER, 1, "p", spread([1, 0, 0]))
    with pytest.raises(InvalidRequest, match="another consumer's"):
        assign(bench, reader=Reader(2, "reader-2"))
    assert claim(bench, 0).ticket.batch == "batch of a"
