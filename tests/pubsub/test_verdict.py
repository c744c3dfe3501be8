"""Decisions about pull streams, without a stream: what an end means, when silence means death, how many there are."""

from __future__ import annotations

import math
import random

import grpc
import pytest

from penstock.pubsub.backoff import Backoff
from penstock.pubsub.stream import LOOK_S
from penstock.pubsub.verdict import (
    HEALTHY_S,
    KEEP_ALIVE_S,
    SILENT_S,
    SILENT_WITHOUT_ANSWERS_S,
    STOOD_STILL_S,
    Ending,
    Pulse,
    Sign,
    Verdict,
    Vigil,
    autoscale,
    is_fatal,
    judge,
    rush,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def ending(
    code: grpc.StatusCode = UNAVAILABLE,
    *,
    details: str = "",
    lasted_s: float = 0.1,
    heard: bool = False,
    since_hasty_s: float = math.inf,
) -> Ending:
    return Ending(code, details, lasted_s, heard, since_hasty_s)


@pytest.mark.parametrize("code", ["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT"])
def test_some_codes_are_fatal_even_after_a_healthy_stream(code: str) -> None:
    assert judge(ending(grpc.StatusCode[code], lasted_s=1000, heard=True)) is Verdict.FATAL


def test_a_failed_precondition_is_fatal_only_for_a_detached_subscription() -> None:
    assert is_fatal(grpc.StatusCode.FAILED_PRECONDITION, "The subscription is detached")
    assert not is_fatal(grpc.StatusCode.FAILED_PRECONDITION, "something else")
    assert not is_fatal(grpc.StatusCode.RESOURCE_EXHAUSTED, "")


def test_an_exhausted_quota_backs_off_longer_however_healthy_the_stream_was() -> None:
    assert judge(ending(grpc.StatusCode.RESOURCE_EXHAUSTED, lasted_s=1000, heard=True)) is Verdict.BACK_OFF_LONG


def test_a_healthy_stream_is_reopened_at_once() -> None:
    assert judge(ending(lasted_s=HEALTHY_S)) is Verdict.NOW
    assert judge(ending(grpc.StatusCode.OK, lasted_s=1800, heard=True)) is Verdict.NOW


def test_a_stream_that_brought_nothing_backs_off() -> None:
    assert judge(ending()) is Verdict.BACK_OFF


def test_a_server_that_sends_and_hangs_up_again_and_again_is_not_called_in_a_tight_loop() -> None:
    assert judge(ending(heard=True)) is Verdict.NOW
    assert judge(ending(heard=True, since_hasty_s=0.1)) is Verdict.BACK_OFF
    assert judge(ending(heard=True, since_hasty_s=HEALTHY_S)) is Verdict.NOW


def idle(pulse: Pulse, seconds: float, *, answers: bool, paused: bool = False) -> tuple[int, float | None]:
    """Simulated time: keep-alives sent until the stream is given up, and when that was (None: never)."""
    said, now = 0, 0.0
    while now < seconds:
        now += LOOK_S
        sign = pulse.sign(now, paused=paused)
        if sign is Sign.GIVE_UP:
            return said, now
        if sign is Sign.KEEP_ALIVE:
            said += 1
            pulse.say(now)
            if answers:
                pulse.hear(now + 0.01, empty=True)
    return said, None


def test_an_hour_of_idling_keeps_the_stream_and_says_so_every_thirty_seconds() -> None:
    said, given_up = idle(Pulse(0.0), 3600, answers=True)
    assert given_up is None
    assert said == 3600 / KEEP_ALIVE_S


def test_a_server_that_answered_before_and_falls_silent_is_given_up_soon() -> None:
    pulse = Pulse(0.0)
    pulse.say(0.0)
    pulse.hear(0.0, empty=True)
    _said, given_up = idle(pulse, 3600, answers=False)
    assert given_up is not None
    assert SILENT_S <= given_up <= SILENT_S + LOOK_S


def test_a_server_that_never_answers_keep_alives_is_left_alone_for_long() -> None:
    _said, given_up = idle(Pulse(0.0), 3600, answers=False)
    assert given_up is not None
    assert given_up >= SILENT_WITHOUT_ANSWERS_S


def test_an_empty_response_before_any_keep_alive_is_no_answer() -> None:
    pulse = Pulse(0.0)
    pulse.hear(0.0, empty=True)  # the service's first response may have properties only
    assert not pulse.answers
    pulse.say(1.0)
    pulse.hear(1.1, empty=False)
    assert not pulse.answers
    pulse.hear(1.2, empty=True)
    assert pulse.answers


def test_a_paused_stream_is_kept_alive_and_never_given_up_for_a_silence_that_is_ours() -> None:
    pulse = Pulse(0.0)
    pulse.say(0.0)
    pulse.hear(0.0, empty=True)
    said, given_up = idle(pulse, 3600, answers=False, paused=True)
    assert (said, given_up) == (3600 / KEEP_ALIVE_S, None)
    pulse.resume(3600.0)
    assert pulse.sign(3600.0 + LOOK_S, paused=False) is not Sign.GIVE_UP


def test_a_stream_is_added_when_all_are_busy_and_taken_away_when_one_is_idle() -> None:
    busy, quiet, half = 9e6, 1e5, 4e6
    assert autoscale([busy, busy], least=1, most=3) == 1
    assert autoscale([busy, busy, busy], least=1, most=3) == 0
    assert autoscale([busy, half], least=1, most=3) == 0
    assert autoscale([busy, quiet], least=1, most=3) == -1
    assert autoscale([quiet], least=1, most=3) == 0


def test_streams_are_added_early_when_each_brought_all_that_the_service_sends_on_one() -> None:
    full, half = 50_000_000, 25_000_000
    assert rush([full], most=2, interval_s=5)
    assert rush([full, full], most=3, interval_s=5)
    assert not rush([full, half], most=3, interval_s=5)
    assert not rush([full, full], most=2, interval_s=5)


def test_delays_are_spread_from_nothing_to_a_cap_that_doubles() -> None:
    backoff = Backoff(random.Random(0), base_s=0.25, cap_s=30)
    for failures in range(40):
        ceiling = min(30, 0.25 * 2**failures)
        assert 0 <= backoff.next_s() <= ceiling
    highest = max(backoff.next_s() for _ in range(1000))
    assert 25 < highest <= 30
    assert max(backoff.next_s(scale=4) for _ in range(1000)) > 100
    backoff.reset()
    assert backoff.next_s() <= 0.25


def test_a_pause_of_the_process_is_noticed_once_with_its_beginning() -> None:
    vigil = Vigil(100.0)
    for now in (100.2, 100.4, 100.4 + STOOD_STILL_S):
        vigil.runs(now)
    assert vigil.pauses == 0
    ran_at = 100.4 + STOOD_STILL_S
    for now in (ran_at + 20.0, ran_at + 20.1):
        vigil.runs(now)
    assert (vigil.pauses, vigil.since) == (1, ran_at)


def test_time_without_any_stream_is_no_pause() -> None:
    vigil = Vigil(100.0)
    vigil.begin(5000.0)
    vigil.runs(5000.2)
    assert vigil.pauses == 0
