"""The breaker's decisions, without a loop: when it opens, who may ask, what closes it."""

from __future__ import annotations

import itertools
import math
import random

from penstock.pubsub.breaker import (
    FORGET_S,
    OPEN_AFTER,
    OPEN_AFTER_S,
    PROBE_LAST_S,
    PROBES_PER_DEADLINE,
    Breaker,
    State,
)


def breaker(deadline_s: float = math.inf) -> Breaker:
    return Breaker(random.Random(1), deadline_s=deadline_s)


def opened(deadline_s: float = math.inf, at: float = 100.0) -> Breaker:
    """One that opens at `at`."""
    found = breaker(deadline_s)
    for number in range(OPEN_AFTER):
        assert found.state is State.CLOSED
        found.failed(at - OPEN_AFTER_S * (1 - number / (OPEN_AFTER - 1)), "UNAVAILABLE", "away", probe=False)
    assert found.state is State.OPEN
    return found


def probes(found: Breaker, seconds: float, *, callers: int, code: str = "UNAVAILABLE") -> list[float]:
    """When calls are made while many want to, all of them failing, each taking 10 ms."""
    made, now, end = [], 100.0, 100.0 + seconds
    while now < end:
        going = [found.begin() for _ in range(callers) if found.wait_s(now) <= 0]
        now += 0.01
        for probe in going:
            made.append(now)
            found.failed(now, code, "away", probe=probe)
    return made


def test_a_burst_of_failures_is_no_outage() -> None:
    found = breaker()
    for _ in range(100):
        found.failed(100.0, "UNAVAILABLE", "a restart", probe=False)
    assert found.state is State.CLOSED
    assert found.wait_s(100.0) == 0


def test_two_failures_far_apart_are_no_outage() -> None:
    found = breaker()
    found.failed(100.0, "UNAVAILABLE", "once", probe=False)
    found.failed(500.0, "UNAVAILABLE", "twice", probe=False)
    assert found.state is State.CLOSED


def test_a_success_in_between_starts_the_count_again() -> None:
    found = breaker()
    for number in range(OPEN_AFTER - 1):
        found.failed(100.0 + number * 10, "UNAVAILABLE", "away", probe=False)
    assert not found.worked(), "it was not open"
    found.failed(200.0, "UNAVAILABLE", "away", probe=False)
    assert (found.state, found.outage and found.outage.failures) == (State.CLOSED, 1)


def test_failures_that_persist_open_it_once() -> None:
    found = opened()
    assert found.opened == 1
    assert found.wait_s(100.0) > 0
    assert not found.failed(100.0, "UNAVAILABLE", "a call from before", probe=False)
    assert found.outage is not None
    assert (found.outage.failures, found.outage.words) == (OPEN_AFTER, "away")


def test_one_probe_at_a_time_asks_for_all() -> None:
    found = opened()
    now = 100.0 + found.wait_s(100.0)
    assert found.begin()
    assert (found.state, found.wait_s(now)) == (State.HALF_OPEN, math.inf)
    assert not found.failed(now, "UNAVAILABLE", "still away", probe=True)
    assert found.state is State.OPEN
    assert 0 < found.wait_s(now) <= PROBE_LAST_S
    assert found.opened == 1, "it is the same outage"


def test_a_probe_that_works_lets_everybody_call() -> None:
    found = opened()
    found.begin()
    assert found.worked()
    assert (found.state, found.wait_s(100.0), found.begin()) == (State.CLOSED, 0.0, False)
    assert found.outage is None


def test_a_call_from_before_that_works_ends_the_outage_and_the_probe_changes_nothing() -> None:
    found = opened()
    probe = found.begin()
    assert found.worked()
    found.gave_up(100.0, probe=probe)
    assert found.state is State.CLOSED


def test_a_probe_that_is_given_up_is_made_up_for_by_the_next_caller() -> None:
    found = opened()
    now = 100.0 + found.wait_s(100.0)
    probe = found.begin()
    found.gave_up(now, probe=probe)
    assert (found.state, found.wait_s(now)) == (State.OPEN, 0.0)


def test_calls_in_an_outage_are_bounded_however_many_want_to_call() -> None:
    few, many = (len(probes(opened(), 60, callers=callers)) for callers in (1, 100))
    assert few == many
    assert 60 / PROBE_LAST_S <= many <= 2 * 60 / PROBE_LAST_S + 10


def test_an_exhausted_quota_is_asked_for_less_often() -> None:
    usual, patient = (
        len(probes(opened(), 300, callers=1, code=code)) for code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
    )
    assert patient < usual / 2


def test_probes_come_often_enough_for_short_leases() -> None:
    made = probes(opened(deadline_s=10), 60, callers=3)
    longest_s = max(later - earlier for earlier, later in itertools.pairwise(made))
    assert longest_s <= 10 / PROBES_PER_DEADLINE + 0.05


def test_an_outage_that_nobody_asks_about_is_forgotten() -> None:
    found = opened()
    asked_at = 100.0
    found.wait_s(asked_at)
    found.judge(asked_at + FORGET_S - 1)
    assert found.state is State.OPEN
    found.judge(asked_at + FORGET_S)
    assert (found.state, found.outage) == (State.CLOSED, None)
