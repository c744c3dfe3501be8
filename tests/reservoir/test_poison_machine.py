"""The random driver, service and time of `test_state_machine`, with poison among the messages."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, rule
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
    def acknowledged_messages_are_of_finished_epochs(self) -> None:
        """Or published as dead letters."""
        if hasattr(self, "bench"):
            assert self.sent_acks() <= self.finished_rows | self.published, "acknowledged, neither read nor published"

    @invariant()
    def no_reader_gets_what_is_about_to_be_published(self) -> None:
        """It may have been read before, when it had come less often and no commit followed in time."""
        if not hasattr(self, "bench"):
            return
        holdings = self.bench.subscription._holdings
        letters = {id(chunk) for chunk in holdings.dead_letters._pending}
        chunks = [chunk for batch in self.bench.subscription.batches for chunk in batch.chunks] + list(holdings.queue)
        assert not letters & {id(chunk) for chunk in chunks}
        waiting = [text for c in holdings.dead_letters._pending for text in c.rows.column("message_id").to_pylist()]
        held = {text for chunk in chunks for text in chunk.rows.column("message_id").to_pylist()}
        assert not held & set(waiting)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.letters.confirm()
        super().teardown()


TestPoison = PoisonMachine.TestCase
TestPoison.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
