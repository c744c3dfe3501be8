"""Random faults in a simulated world: nothing is acknowledged early, nothing is lost, an idle hour costs little."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.simulated import Query, World, run_dry

from penstock.client import Limits

CRASHES = ["", "", "", "sealed", "logged", "read", "committed", "split"]
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 9)),
    st.tuples(st.just("trigger"), st.sampled_from(CRASHES)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 10.0, 320.0])),
    st.tuples(st.just("lose"), st.sampled_from(["request", "reply", "later", "many"])),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("haunt"), st.just(0)),
    st.tuples(st.just("acks"), st.booleans()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, max_size=40), max_rows=st.sampled_from([None, 3]), min_rows=st.sampled_from([None, 2]))
def test_whatever_happens_every_message_is_processed_before_it_is_acknowledged_and_none_is_lost(
    steps: list[tuple[str, object]], max_rows: int | None, min_rows: int | None
) -> None:
    world = World()
    query = Query(world, Limits(max_rows=max_rows, min_rows=min_rows, max_delay_s=5.0))
    for step, value in steps:
        match step, value:
            case "publish", int(messages):
                world.publish(messages)
            case "trigger", str(crash):
                query.trigger(crash)
            case "wait", float(seconds):
                world.advance(seconds)
            case "lose", str(what):
                world.faults += {"later": ["", "", "reply"], "many": ["request"] * 40}.get(what, [what])
            case "restart", _:
                world.restart()
            case "haunt", _:
                query.haunt()
            case "acks", bool(hold):
                world.hold_acks = hold
                if not hold:
                    world.confirm()
        world.advance(0.2)
    run_dry(query)
    assert world.held.unaccounted() == 0
    world.close()


def test_an_hour_of_idling_keeps_the_consumer_and_asks_for_little() -> None:
    world = World()
    query = Query(world, Limits())
    world.publish(5)
    run_dry(query)
    before = len(world.calls)
    for _ in range(36):
        query.trigger()
        world.advance(100.0)
    made = Counter(world.calls[before:])
    assert made["open"] == 0
    assert 3600 / 25 - 2 <= made["alive"] <= 3600 / 25 + 2
    assert set(made) <= {"alive", "seal", "commit"}
    assert made["commit"] <= 1
    world.publish(5)
    run_dry(query)
    world.close()


def test_a_batch_of_an_hour_is_kept_by_heartbeats_alone() -> None:
    world = World()
    query = Query(world, Limits())
    world.publish(5)
    query.trigger()
    world.advance(1.0)
    query.trigger("")
    assert world.reader is not None
    plan = world.reader.plan(query.offsets[0], query.offsets[1], 1)
    world.advance(3600.0)
    assert len(world.read(plan[0].ticket)) == 5
    run_dry(query)
    assert world.calls.count("open") == 1
    world.close()
