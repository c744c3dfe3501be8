"""Random use of a subscription beside a model that knows each message by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from google.pubsub_v1 import types
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.emulator import wire
from penstock.emulator.config import complete, read_config
from penstock.emulator.segment import segment
from penstock.emulator.stream import PullStream
from penstock.emulator.subscription import Subscription

DEADLINE_S = 10
KEYS = ("", "", "a", "b", "c")


def _config(**fields: Any) -> Any:
    proto = types.Subscription.pb()(name="projects/p/subscriptions/s", topic="projects/p/topics/t", **fields)
    complete(proto)
    return read_config(proto)


class SubscriptionMachine(RuleBasedStateMachine):
    """Nothing is lost, nothing acknowledged comes back, limits hold, keys stay in order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.published = 0
        self.opened = 0
        self.acked: set[str] = set()
        self.streams: list[PullStream] = []
        self.deliveries: list[tuple[str, str]] = []
        self.keys: dict[str, str] = {}

    @initialize(ordering=st.booleans(), exactly_once=st.booleans(), backoff=st.booleans())
    def create(self, *, ordering: bool, exactly_once: bool, backoff: bool) -> None:
        self.ordering, self.exactly_once = ordering, exactly_once
        policy = {"retry_policy": {"minimum_backoff": {"seconds": 5}}} if backoff else {}
        config = _config(enable_message_ordering=ordering, enable_exactly_once_delivery=exactly_once, **policy)
        self.subscription = Subscription("projects/p/subscriptions/s", config, lambda *_: True)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=20))
    def publish(self, keys: list[str]) -> None:
        raw = types.PublishRequest.pb()(topic="t", messages=[{"data": b"12345", "ordering_key": key} for key in keys])
        messages = wire.read_publish(raw.SerializeToString()).messages
        self.subscription.publish(segment(messages, self.published, int(self.now * 1e6)))
        for number, key in enumerate(keys, self.published):
            self.keys[str(number)] = key
        self.published += len(keys)

    @rule(rows=st.integers(0, 10), size_bytes=st.sampled_from((0, 23, 1000)))
    def open_stream(self, rows: int, size_bytes: int) -> None:
        self.opened += 1
        stream = PullStream(self.opened, DEADLINE_S, rows, size_bytes)
        self.streams.append(stream)
        self.subscription.attach(stream)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        before = set(self._acked_entries())
        taken = self.subscription.take(stream, self.now)
        self._forget_reopened(before)
        if taken is None:
            return
        ids = taken.messages.field("message_id").to_pylist()
        assert len(set(ids)) == len(ids) == len(taken.ack_ids)
        if self.exactly_once or not self.ordering:
            assert not self.acked & set(ids)
        for number, ack_id in zip(ids, taken.ack_ids.to_pylist(), strict=True):
            self.acked.discard(number)
            self.deliveries.append((number, ack_id))

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.deliveries), min_size=1, max_size=10))
        read = self.subscription.ack_ids.read(pa.array([ack_id for _, ack_id in chosen]))
        fine = self.subscription.acknowledge(read, self.now)
        self.acked |= {number for (number, _), good in zip(chosen, fine.tolist(), strict=True) if good}
        assert self.exactly_once or fine.all()

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), deadline_s=st.sampled_from((0, 0, 10, 60)))
    def modify(self, data: st.DataObject, deadline_s: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.deliveries), min_size=1, max_size=10))
        read = self.subscription.ack_ids.read(pa.array([ack_id for _, ack_id in chosen]))
        before = set(self._acked_entries())
        self.subscription.modify(read, np.full(len(chosen), deadline_s), self.now)
        self._forget_reopened(before)

    @rule(seconds=st.sampled_from((1.0, 4.0, 9.0, 30.0)), tick=st.booleans())
    def pass_time(self, *, seconds: float, tick: bool) -> None:
        self.now += seconds
        if not tick:
            return
        before = set(self._acked_entries())
        self.subscription.tick(self.now, int(self.now * 1e6))
        self._forget_reopened(before)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def close_stream(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        self.subscription.detach(stream)

    @invariant()
    def the_counts_add_up(self) -> None:
        if not hasattr(self, "subscription"):
            return
        statistics = self.subscription.statistics()
        parts = statistics["outstanding"] + statistics["waiting"] + statistics["delayed"]
        assert statistics["remaining"] == parts == self.published - len(self.acked)
        assert statistics["acked"] == len(self.acked)

    @invariant()
    def streams_stay_within_their_limits(self) -> None:
        for stream in self.streams:
            assert 0 <= stream.outstanding_rows <= (stream.max_rows or 1 << 62)
            assert stream.outstanding_bytes >= 0
            assert stream.outstanding_rows <= 1 or stream.outstanding_bytes <= (stream.max_bytes or 1 << 62)
            assert (stream.outstanding_rows == 0) == (stream.outstanding_bytes == 0)

    def teardown(self) -> None:
        """In the end a stream without limits gets everything that was not acknowledged, keys in order."""
        if not hasattr(self, "subscription"):
            return
        self.now += 10_000
        before = set(self._acked_entries())
        for _ in range(2):
            self.subscription.tick(self.now, int(self.now * 1e6))
            self.now += 10_000
        self._forget_reopened(before)
        stream = PullStream(10_000, DEADLINE_S)
        self.subscription.attach(stream)
        ids: list[str] = []
        while (taken := self.subscription.take(stream, self.now)) is not None:
            ids += taken.messages.field("message_id").to_pylist()
        assert sorted(ids, key=int) == [str(n) for n in range(self.published) if str(n) not in self.acked]
        if self.ordering:
            for key in set(KEYS) - {""}:
                numbers = [int(each) for each in ids if self.keys[each] == key]
                assert numbers == sorted(numbers)

    def _acked_entries(self) -> set[str]:
        return set(self.acked)

    def _forget_reopened(self, before: set[str]) -> None:
        """With ordering, acknowledged messages behind one that is given back come again: believe the ledger there."""
        if not self.ordering or self.exactly_once:
            return
        ledger = self.subscription.backlog.ledger
        for number in before:
            entry = int(number)
            if entry >= ledger.base and ledger.state[entry - ledger.base] == 0:
                assert self.keys[number]
                self.acked.discard(number)


TestSubscription = SubscriptionMachine.TestCase
TestSubscription.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
