"""What is sent next, and what an answer means for each ID: without a loop, a service or a wait."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from penstock.pubsub.breaker import OPEN_AFTER, OPEN_AFTER_S
from penstock.pubsub.errand import RELEASE_ATTEMPTS, Accounts, Call, Wait
from penstock.pubsub.refusal import Refusal, judged
from penstock.pubsub.settling import LEASE_SENDERS, Sender, Settling
from penstock.pubsub.turns import Turns
from penstock.reservoir import AckOutcome

NAME = "projects/p/subscriptions/s"
IDS = ["a", "b", "c", "d"]
DEADLINE_S = 60


class Site:
    """A settling with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        rng = random.Random(1)
        self.ack_turns = Turns("acknowledge", NAME, clock=lambda: self.now, rng=rng)
        self.lease_turns = Turns("modify", NAME, clock=lambda: self.now, rng=rng, deadline_s=DEADLINE_S)
        self.settling = Settling(
            Accounts(NAME, clock=lambda: self.now, rng=rng, base_backoff_s=0.1),
            deadline_s=DEADLINE_S,
            ack_turns=self.ack_turns,
            lease_turns=self.lease_turns,
        )
        self.lease_sender, self.ack_sender = self.settling.senders[0], self.settling.senders[LEASE_SENDERS]
        self.outcomes: list[AckOutcome] = []

    def acknowledge(self, ids: list[str]) -> None:
        self.settling.acknowledge([pa.array(ids, pa.string())], self.outcomes.append)

    def call(self, sender: Sender) -> Call:
        """The sender's next call, all waits before it waited for."""
        while not isinstance(move := sender.next(), Call):
            assert isinstance(move, Wait)
            self.now += move.seconds
        return move


@pytest.fixture
def site() -> Site:
    return Site()


def refused(call: Call, code: str = "UNAVAILABLE", failures: dict[str, str] | None = None) -> Refusal:
    return judged(code, "the words", failures or {}, call.ack_ids)


def test_an_id_that_failed_for_a_while_is_sent_again_alone_and_one_that_failed_for_good_is_told(site: Site) -> None:
    site.acknowledge(IDS)
    first = site.call(site.ack_sender)
    assert first.ack_ids.to_pylist() == IDS
    said = {"b": "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE", "d": "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE"}
    site.ack_sender.heard(refused(first, failures={**said, "a": "PERMANENT_FAILURE_INVALID_ACK_ID"}))
    assert isinstance(site.ack_sender.next(), Wait)
    second = site.call(site.ack_sender)
    assert second.ack_ids.to_pylist() == ["b", "d"]
    site.ack_sender.heard(refused(second, failures={"d": "PERMANENT_FAILURE_INVALID_ACK_ID"}))
    assert not site.outcomes
    assert site.ack_sender.next() is None
    assert site.outcomes == [AckOutcome(2, 2)]
    figures = site.settling.statistics()
    assert (figures.acknowledged, figures.lost, figures.retries, figures.pending) == (2, 2, 1, 0)


def test_acks_are_sent_until_they_are_confirmed(site: Site) -> None:
    site.acknowledge(IDS)
    for _ in range(100):
        call = site.call(site.ack_sender)
        assert call.ack_ids.to_pylist() == IDS
        site.ack_sender.heard(refused(call))
        assert site.settling.pending_ids == 4
    site.call(site.ack_sender)
    site.ack_sender.heard(None)
    assert site.ack_sender.next() is None
    assert site.outcomes == [AckOutcome(4, 0)]


def test_what_a_cancelled_call_was_about_waits_again_and_the_next_call_is_the_probe(site: Site) -> None:
    while site.ack_turns.figures()["state"] == "closed":
        turn = site.ack_turns.turn_now()
        assert turn is not None
        turn.failed("UNAVAILABLE", "away")
        site.now += OPEN_AFTER_S / (OPEN_AFTER - 1)
    site.acknowledge(IDS)
    site.call(site.ack_sender)
    assert site.ack_turns.figures()["state"] == "half open"
    assert site.settling.waiting_ids == 0
    site.ack_sender.put_back()
    assert site.settling.waiting_ids == site.settling.pending_ids == 4
    other = site.settling.senders[-1]
    assert isinstance(other.next(), Call), "it may ask at once"
    other.heard(None)
    assert other.next() is None
    assert site.outcomes == [AckOutcome(4, 0)]
    assert site.ack_turns.figures()["state"] == "closed"


def test_a_sender_for_leases_takes_no_acks(site: Site) -> None:
    site.acknowledge(IDS)
    assert site.lease_sender.next() is None
    site.settling.extend([pa.array(IDS)], lambda _: None)
    assert site.call(site.lease_sender).deadline_s == DEADLINE_S
    assert site.call(site.ack_sender).deadline_s is None


def test_an_extension_is_not_sent_while_such_calls_fail_anyway(site: Site) -> None:
    answers: list[bool] = []
    while site.lease_turns.figures()["state"] == "closed":
        site.settling.extend([pa.array(IDS)], answers.append)
        site.lease_sender.heard(refused(site.call(site.lease_sender)))
        assert site.lease_sender.next() is None
        site.now += 0.5
    requests = site.settling.statistics().requests
    site.now -= 0.5
    site.settling.extend([pa.array(IDS)], answers.append)
    assert site.lease_sender.next() == Wait(0.0)
    assert site.lease_sender.next() is None
    assert not any(answers)
    assert site.settling.statistics().requests == requests == len(answers) - 1


def test_an_id_that_is_over_for_good_does_not_fail_the_extension_of_the_others(site: Site) -> None:
    answers: list[bool] = []
    site.settling.extend([pa.array(IDS)], answers.append)
    call = site.call(site.lease_sender)
    site.lease_sender.heard(refused(call, failures={"a": "PERMANENT_FAILURE_INVALID_ACK_ID"}))
    assert site.lease_sender.next() is None
    assert answers == [True]


def test_a_release_is_tried_a_few_times_and_then_left_to_the_deadline(site: Site) -> None:
    ended: list[bool] = []
    site.settling.release([pa.array(IDS)], lambda: ended.append(True))
    for _ in range(RELEASE_ATTEMPTS):
        call = site.call(site.lease_sender)
        assert call.deadline_s == 0
        site.lease_sender.heard(refused(call))
        assert not ended
    assert isinstance(site.lease_sender.next(), Wait)
    assert site.lease_sender.next() is None
    assert ended == [True]
    assert site.settling.statistics().released == 0
