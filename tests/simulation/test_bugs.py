"""Bugs put back into the product, each of which the simulation must find within a bounded number of seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from tests.simulation.seeds import first_failure, run_seed
from tests.simulation.world import World

from penstock.client import planning, whole
from penstock.client.planning import Planner
from penstock.contract import Reader
from penstock.contract.actions import FinishedEpoch, PlacedSlice, PlannedSlice, SealReply, Ticket
from penstock.errors import BatchGone, NodeUnreachable, PlanGone
from penstock.pubsub.errand import Acknowledgement
from penstock.pubsub.pending import Line, Request
from penstock.pubsub.refusal import Refusal
from penstock.reservoir import AckOutcome, Reservoir, Subscription, reservoir
from penstock.reservoir.batch import State
from penstock.reservoir.budget import Share
from penstock.reservoir.chunk import Chunk
from penstock.reservoir.consumer import Consumer
from penstock.reservoir.evicted import Evicted
from penstock.reservoir.holdings import Holdings
from penstock.reservoir.lives import Lives
from penstock.reservoir.plans import Dealt, Plan
from penstock.reservoir.recovery import RecoveredBatch, RecoveredConsumer
from penstock.storage.pending import Job
from penstock.storage.records import encode
from penstock.storage.writing import Writing

SEEDS = 150
"""Found within so many, by far: the bound is for the day when the shapes of worlds change."""

EARLY = "acknowledges messages of no finished epoch"


def found(*stress: str, first: int = 0) -> str:
    """What the first failing seed says. `first`: where to begin, for what takes many seeds to meet."""
    result = first_failure(SEEDS, first=first, stress=stress)
    assert result is not None, f"{SEEDS} seeds did not find it"
    assert result.failure is not None
    assert result.story.count("\n") > 5, "a failure tells what happened"
    again = run_seed(result.seed, stress=stress)
    assert again.failure == result.failure, "a failing seed fails again"
    assert again.story == result.story, "and tells the same story"
    return result.failure


def test_a_batch_acknowledged_because_its_plan_was_merely_received_is_found() -> None:
    right = Subscription.plan

    def wrong(self: Subscription, consumer: Consumer, epoch: int, batch_id: str, *rest: Any) -> list[PlannedSlice]:
        planned = right(self, consumer, epoch, batch_id, *rest)
        chunks = consumer.batch(epoch, batch_id).chunks
        self._holdings._acks.acknowledge([chunk.ack_ids for chunk in chunks], lambda _outcome: None)
        return planned

    with mock.patch.object(Subscription, "plan", wrong):
        assert EARLY in found()


def test_a_batch_acknowledged_because_the_driver_that_planned_it_is_gone_is_found() -> None:
    plan, opened = Subscription.plan, Subscription.open

    def noted(self: Subscription, consumer: Consumer, epoch: int, batch_id: str, *rest: Any) -> list[PlannedSlice]:
        vars(consumer).setdefault("planned", set()).add(batch_id)
        return plan(self, consumer, epoch, batch_id, *rest)

    def wrong(self: Subscription, consumer_id: str, *rest: Any, **named: Any) -> Consumer:
        consumer = opened(self, consumer_id, *rest, **named)
        for batch in list(consumer.batches.values()):
            if batch.id in vars(consumer).get("planned", ()) and batch.state is State.SEALED:
                self._lives.acknowledge(consumer, batch)
        return consumer

    with mock.patch.object(Subscription, "plan", noted), mock.patch.object(Subscription, "open", wrong):
        assert EARLY in found()


def test_an_epoch_sealed_twice_with_other_content_under_one_batch_id_is_found() -> None:
    right = Subscription.seal

    def wrong(self: Subscription, consumer: Consumer, epoch: int, **limits: Any) -> SealReply:
        batch = consumer.batches.get(epoch)
        if batch is not None and batch.state is State.SEALED:
            more = self._holdings.take(1 << 30, 1 << 30)
            batch.chunks += tuple(more)
            batch.rows += sum(len(chunk) for chunk in more)
        return right(self, consumer, epoch, **limits)

    with mock.patch.object(Subscription, "seal", wrong):
        assert "rows and has" in found()


def test_an_epoch_sealed_twice_and_acknowledged_by_its_number_is_found() -> None:
    seal, finish = Subscription.seal, Lives.finish

    def wrong(self: Subscription, consumer: Consumer, epoch: int, **limits: Any) -> SealReply:
        batch = consumer.batches.get(epoch)
        if batch is not None and batch.state is State.SEALED:
            self._lives.requeue(consumer, batch)
        return seal(self, consumer, epoch, **limits)

    def by_number(self: Lives, consumer: Consumer, finished: FinishedEpoch, excluded: frozenset[str]) -> Any:
        batch = consumer.batches.get(finished.epoch)
        nodes = finished.nodes if batch is None else {self._node: batch.id}
        return finish(self, consumer, FinishedEpoch(epoch=finished.epoch, nodes=nodes), excluded)

    with mock.patch.object(Subscription, "seal", wrong), mock.patch.object(Lives, "finish", by_number):
        assert EARLY in found("repeated_request")


@pytest.mark.parametrize("error", [NodeUnreachable, BatchGone])
def test_a_read_that_failed_taken_as_empty_is_found(error: type[Exception]) -> None:
    def wrong(ticket: Ticket, parts: Iterable[whole.Part], endpoint: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from (part.data for part in parts if part.data is not None)
        except error:
            return

    with mock.patch.object(whole, "whole_slice", wrong):
        assert "and no error" in found(first=20)


def test_acks_counted_before_the_service_confirmed_them_are_found() -> None:
    right = Holdings.acknowledge

    def wrong(self: Holdings, chunks: Any, clock: Any, done: Any) -> None:
        sink, noted = self._acks, mock.Mock()
        self._acks = noted
        right(self, chunks, clock, done)
        self._acks = sink
        ack_ids, settled = noted.acknowledge.call_args.args
        sink.acknowledge(ack_ids, lambda _outcome: None)
        settled(AckOutcome(sum(len(ids) for ids in ack_ids), 0))

    with mock.patch.object(Holdings, "acknowledge", wrong):
        assert "the service confirmed" in found()


def test_ack_ids_dropped_before_the_service_confirmed_them_are_found() -> None:
    """In the product's own retries: what is to be sent again counts as done instead."""

    def wrong(self: Acknowledgement, _refused: Refusal) -> None:
        self._over = True

    with mock.patch.object(Acknowledgement, "_keep", wrong):
        assert "the service never answered" in found(first=15)


def test_lost_ack_ids_forgotten_while_others_of_their_request_are_sent_again_are_found() -> None:
    right = Acknowledgement.settle

    def wrong(self: Acknowledgement) -> None:
        self._lost = None
        right(self)

    with mock.patch.object(Acknowledgement, "settle", wrong):
        assert "the service confirmed" in found("refused_ack", first=100)


def test_ack_ids_dropped_when_a_defect_ended_their_request_are_found() -> None:
    with mock.patch.object(Line, "put_back", return_value=None):
        assert "not everything was processed and acknowledged" in found("refused_ack", first=96)


def test_ack_ids_settled_when_a_defect_ended_their_request_are_found() -> None:
    def wrong(self: Line, request: Request) -> None:
        request.settle()

    with mock.patch.object(Line, "put_back", wrong):
        assert "the service never answered" in found("refused_ack", first=38)


def test_a_time_out_that_releases_the_batch_of_a_live_slow_driver_is_found() -> None:
    with mock.patch.object(Subscription, "alive", lambda self, consumer: self._check_failed()):
        assert "gave consumer" in found()


def forgets_exclusions() -> contextlib.ExitStack:
    """No driver and no node remembers which batches a plan went without."""
    right = Subscription.commit

    def wrong(self: Subscription, consumer: Consumer, epochs: Any, excluded: Any, *, contact: bool) -> dict[int, str]:
        consumer.excluded.clear()
        return right(self, consumer, epochs, frozenset(), contact=contact)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(Subscription, "commit", wrong))
    return stack


def test_a_batch_left_out_since_its_address_leads_elsewhere_and_acknowledged_later_is_found() -> None:
    """Two daemons behind one address, one after the other."""
    with forgets_exclusions(), mock.patch.object(planning, "same_site", return_value=True):
        assert EARLY in found("move", "lost_node", first=20)


def test_a_batch_left_out_since_its_node_is_silent_and_acknowledged_later_is_found() -> None:
    def wrong(self: Planner, node: str) -> bool:
        return not any(peer.id == node and peer.up for peer in self._peers())

    with forgets_exclusions(), mock.patch.object(Planner, "_must_be_over", wrong):
        assert EARLY in found("spread", "lost_node")


def test_slices_dealt_twice_after_the_plan_host_restarted_are_found() -> None:
    """The list of slices outlives the host's process, and what it dealt does not."""
    start, assign, claim = World.__init__, Reservoir.assign, Reservoir.claim
    lists: dict[str, tuple[int, Any]] = {}
    again: dict[tuple[str, str], Plan] = {}

    def began(self: World, *rest: Any) -> None:
        lists.clear()
        again.clear()
        start(self, *rest)

    def noted(self: Reservoir, consumer: str, reader: Reader, epoch: int, plan: str, slices: Any) -> Dealt:
        dealt = assign(self, consumer, reader, epoch, plan, slices)
        lists[plan] = (epoch, slices)
        return dealt

    def wrong(self: Reservoir, plan: str, incarnation: str, partition: int, near: str | None) -> PlacedSlice:
        try:
            return claim(self, plan, incarnation, partition, near)
        except PlanGone:
            known = again.setdefault((self.incarnation, plan), Plan(plan, *lists[plan]))
            return known.claim(partition, near, Dealt())

    began_again = mock.patch.object(World, "__init__", began)
    with began_again, mock.patch.object(Reservoir, "assign", noted), mock.patch.object(Reservoir, "claim", wrong):
        assert "dealt" in found("spread", "daemon_crash", first=20)


def test_a_fence_forgotten_when_its_consumer_made_room_is_found() -> None:
    few = mock.patch.object(reservoir, "MAX_CONSUMERS", 3)
    with few, mock.patch.object(Evicted, "add", return_value=None):
        assert "forgot" in found("strangers", "zombie", "driver_pause")


def test_a_fence_forgotten_by_a_restart_is_found() -> None:
    right = RecoveredConsumer.consumer

    def wrong(self: RecoveredConsumer, timeout_s: float) -> Consumer:
        consumer = right(self, timeout_s)
        consumer.reader = Reader(0, "")
        return consumer

    gone = mock.patch.object(Reservoir, "recover_evicted", return_value=None)
    with gone, mock.patch.object(RecoveredConsumer, "consumer", wrong):
        assert "forgot a fence" in found("power_cut", "late_request", "driver_crash", first=120)


def test_a_batch_served_with_other_rows_after_a_restart_is_found() -> None:
    right = RecoveredBatch.chunks

    def wrong(self: RecoveredBatch, share: Share, now: float) -> list[Chunk]:
        return list(reversed(right(self, share, now)))

    with mock.patch.object(RecoveredBatch, "chunks", wrong):
        assert "had other rows before a restart" in found("daemon_crash", "slow_disk")


def test_an_answer_before_its_decision_is_durable_is_found() -> None:
    async def wrong(self: Reservoir) -> None:
        """Answer at once."""

    with mock.patch.object(Reservoir, "durable", wrong):
        assert "forgot" in found("daemon_crash", "slow_disk")


def test_decisions_that_outlive_the_rows_that_they_are_about_are_found() -> None:
    def wrong(self: Writing, job: Job) -> None:
        self._decisions.append([encode(entry.decision) for entry in job.entries])
        self._decisions.sync()
        job.entries = []

    with mock.patch.object(Writing, "_write_decisions", wrong):
        assert "lost the rows" in found("power_cut", "slow_disk")
