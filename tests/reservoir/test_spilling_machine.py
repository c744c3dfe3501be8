"""The random driver, service and time of `test_state_machine`, with every batch on its way to a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from tests.reservoir.making import Bench
from tests.reservoir.test_state_machine import ReservoirMachine

from penstock.reservoir.budget import Allocation
from penstock.reservoir.kept import Copy, Kept
from penstock.settings import ReservoirSettings

Done = Callable[[Sequence[Copy] | None], None]


@dataclass
class NotedSpill:
    """A `SpillSink` that writes when the test says so: Arrow IPC, as the real one, in bytes of its own."""

    pending: list[tuple[Sequence[tuple[Copy, Kept]], Done]] = field(default_factory=list)
    written: int = 0
    ended: bool = False

    @property
    def ready(self) -> bool:
        return not self.pending and not self.ended

    def spill(self, batch_id: str, chunks: Sequence[tuple[Copy, Kept]], done: Done) -> None:
        self.pending.append((chunks, done))

    def finish(self, *, works: bool) -> None:
        for chunks, done in self.pending:
            done([_copied(copy) for copy, _ in chunks] if works else None)
            self.written += works
        self.pending.clear()

    def statistics(self) -> dict[str, object]:
        return {"batches": self.written}


def _copied(copy: Copy) -> Copy:
    raw = pa.py_buffer(copy.rows.serialize().to_pybytes())
    return Copy(pa.ipc.read_record_batch(raw, copy.rows.schema), copy.ack_ids, None)


class SpillingMachine(ReservoirMachine):
    """A disk that is slow, and now and then full."""

    @initialize(ordered=st.booleans())
    def start(self, *, ordered: bool) -> None:
        self.spill = NotedSpill()
        every = ReservoirSettings(memory_limit_mb=64, spill_above=0)
        self.bench = Bench(ordered=ordered, settings=every, spill=self.spill)
        self.bench.acks.at_once = False
        self.restart_driver()

    @rule()
    def something_is_spilled(self) -> None:
        self.bench.reservoir.tick()

    @rule(works=st.booleans())
    def the_disk_answers(self, *, works: bool) -> None:
        self.spill.finish(works=works)

    def claims_elsewhere(self) -> set[Allocation]:
        """What is being written counts until it is."""
        parts = [part for _, done in self.spill.pending for part in getattr(done, "args", ())]
        return {claim for part in parts if isinstance(part, list) for claim in part if isinstance(claim, Allocation)}

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.spill.finish(works=True)
            self.spill.ended = True
        super().teardown()


TestSpilling = SpillingMachine.TestCase
TestSpilling.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
