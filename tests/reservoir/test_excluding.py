"""A batch that a plan left out is never acknowledged, and everybody who opens hears of it until its epoch is past."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.reservoir.making import CONSUMER, Bench

from penstock.contract import MAX_CONSUMERS, MAX_EXCLUDED, Reader
from penstock.contract.actions import CommitState, FinishedEpoch
from penstock.errors import BatchGone, EpochPast, InvalidRequest, OpenAgain, TooManyConsumers


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.open()
    yield bench
    assert bench.subscription.unaccounted() == 0
    assert not bench.acks.pending


def exclude(bench: Bench, epoch: int, *batches: str) -> int:
    return bench.subscription.exclude(bench.consumer, epoch, batches)


def sealed(bench: Bench, epoch: int = 1, rows: int = 10) -> str:
    bench.deliver(rows)
    return bench.seal(epoch).id


def test_a_held_batch_that_was_excluded_is_released_by_the_commit_that_names_it(bench: Bench) -> None:
    batch = sealed(bench)
    assert exclude(bench, 1, batch, "of a lost node") == 2
    assert exclude(bench, 1, batch) == 0
    assert bench.commit(1, batch) == {1: CommitState.RELEASED}
    assert len(bench.acks.released) == 10
    assert not bench.acks.acknowledged
    assert bench.commit(1, batch) == {1: CommitState.GONE}


def test_an_exclusion_is_kept_for_whoever_opens_until_its_epoch_is_committed(bench: Bench) -> None:
    exclude(bench, 1, "one")
    exclude(bench, 2, "two", "three")
    bench.pass_time(400)  # given up, since nobody spoke
    assert bench.subscription.consumers[CONSUMER].excluded == {"one": 1, "two": 2, "three": 2}
    bench.open(2)
    bench.commit(1, None)
    assert bench.consumer.excluded == {"two": 2, "three": 2}
    bench.commit(2, None)
    assert not bench.consumer.excluded


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_epochs_committed_together_release_what_was_excluded_in_whichever_order_they_are_told(
    bench: Bench, order: tuple[int, int]
) -> None:
    batches = {1: sealed(bench, 1), 2: sealed(bench, 2, 5)}
    exclude(bench, 1, batches[1])
    node = bench.reservoir.node
    finished = [FinishedEpoch(epoch=epoch, nodes={node: batches[epoch]}) for epoch in order]
    states = bench.subscription.commit(bench.consumer, finished, frozenset(), contact=True)
    assert states == {1: CommitState.RELEASED, 2: CommitState.ACKED}
    assert sorted(bench.acks.released) == sorted(f"a{n}" for n in range(10))
    assert not bench.consumer.excluded


def test_an_excluded_batch_whose_commit_never_came_is_released_by_a_later_one(bench: Bench) -> None:
    exclude(bench, 1, sealed(bench, 1))
    second = sealed(bench, 2, 5)
    assert bench.commit(2, second) == {2: CommitState.ACKED}
    assert len(bench.acks.released) == 10
    assert not bench.consumer.excluded


def test_an_epoch_that_is_past_cannot_be_left_out_of_any_more(bench: Bench) -> None:
    batch = sealed(bench)
    bench.commit(1, batch)
    with pytest.raises(EpochPast):
        exclude(bench, 1, batch)


def test_a_batch_is_excluded_from_its_own_epoch_only(bench: Bench) -> None:
    batch = sealed(bench, epoch=2)
    exclude(bench, 3, "elsewhere")
    for wrong in ((1, batch), (4, "elsewhere")):
        with pytest.raises(InvalidRequest, match=f"is of epoch {wrong[0] + 1 if wrong[1] == batch else 3}"):
            exclude(bench, *wrong)
    assert bench.consumer.excluded == {"elsewhere": 3}


def test_too_many_exclusions_or_too_long_names_are_refused_as_a_whole(bench: Bench) -> None:
    exclude(bench, 1, *(f"b{number}" for number in range(MAX_EXCLUDED - 1)))
    assert exclude(bench, 1, "b0", "b1") == 0
    with pytest.raises(InvalidRequest, match=f"2 batches more than the {MAX_EXCLUDED - 1}.*at most {MAX_EXCLUDED}"):
        exclude(bench, 1, "b0", "x", "y")
    for name in ("", "x" * 257):
        with pytest.raises(InvalidRequest, match="1 to 256 characters"):
            exclude(bench, 1, "x", name)
    assert "x" not in bench.consumer.excluded
    assert exclude(bench, 1, "x") == 1


def test_excluding_is_no_contact(bench: Bench) -> None:
    batch = sealed(bench)
    for number in range(4):
        bench.pass_time(70)
        subscription, consumer = bench.reservoir.enter(CONSUMER, Reader(1, "reader-1"))
        subscription.exclude(consumer, 1, (f"b{number}",))
    bench.pass_time(30)
    with pytest.raises(OpenAgain):
        bench.reservoir.enter(CONSUMER, Reader(1, "reader-1"))
    with pytest.raises(BatchGone, match="no contact"):
        bench.consumer.batch(1, batch)


def test_a_consumer_with_exclusions_makes_no_room_for_others(bench: Bench) -> None:
    exclude(bench, 1, "one")
    bench.subscription.bye(bench.consumer)
    for number in range(MAX_CONSUMERS - 1):
        bench.open(1, consumer=f"c{number}", share=True)
    with pytest.raises(TooManyConsumers):
        bench.open(1, consumer="one more", share=True)
    assert bench.consumer.excluded == {"one": 1}
    bench.commit(1, None)
    bench.open(1, consumer="one more", share=True)
    assert CONSUMER not in bench.subscription.consumers
