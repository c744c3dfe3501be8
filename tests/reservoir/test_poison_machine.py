"""The random driver, service and time of `test_state_machine`, with poison among the messages."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, rule
from tests.reservoir.making import number_of
from tests.reservoir.test_poison import LIMIT, PoisonBench
from tests.reservoir.test_state_machine import ReservoirMachine


class PoisonMachine(ReservoirMachine):
    """The dead-letter topic confirms late, and now and then two letters at once."""

    bench: PoisonBench

    @initialize(ordered=st.booleans())
    def start(self, *, ordered: bool) -> None:
        self.bench = PoisonBench(ordered=ordered)
        self.bench.acks.at_once = False
        self.published: set[str] = set()
        self.restart_driver()

    @rule(attempts=st.lists(st.sampled_from([None, 1, LIMIT, LIMIT + 1, LIMIT + 9]), min_size=1, max_size=20))
    def deliver_attempts(self, attempts: list[int | None]) -> None:
        self.bench.deliver_attempts(attempts, self.bench.next_message)
        self.bench.next_message += len(attempts)

    @rule()
    def letters_are_confirmed(self) -> None:
        self.published = set(self.bench.letters.ids)
        self.bench.letters.confirm()

    @invariant()
    def acknowledged_messages_were_read(self) -> None:
        """Or published as dead letters; none was both."""
        if not hasattr(self, "bench"):
            return
        acks = self.bench.acks
        sent = {
            f"m{number_of(ack_id)}" for ack_id in [*acks.acknowledged, *(a for ids, _ in acks.pending for a in ids)]
        }
        assert sent <= self.read_by_finished | self.published, "acknowledged, neither read nor published"
        assert not self.read_by_finished & set(self.bench.letters.ids), "a dead letter was read"

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.letters.confirm()
        super().teardown()


TestPoison = PoisonMachine.TestCase
TestPoison.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
