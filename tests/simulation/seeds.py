"""Runs seeds: the same seed is the same history, on any machine, in any process."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import traceback
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

from tests.simulation.history import Violation
from tests.simulation.spark import seeded_ids
from tests.simulation.story import story
from tests.simulation.world import World

EVENTS = 500
"""Events with faults in one seed; many short histories find more than few long ones, and are easier to read."""

LINES = 120
"""Of the history of a seed that fails."""

COLLECT_EVERY = 25
"""Seeds between two garbage collections. None runs within a seed: when it does depends on what came before, and memory
that only a collection gives back would show as budget that does not return."""


@dataclass(frozen=True)
class Result:
    """What one seed came to. `failure` is None when every promise held; `story` tells of one that did not."""

    seed: int
    events: int
    simulated_s: float
    published: int
    delivered: int
    faults: Counter[str]
    failure: str | None
    story: str


def run_seed(seed: int, events: int = EVENTS, lines: int | None = LINES, *, stress: tuple[str, ...] = ()) -> Result:
    """One seed, from the beginning to the end. With `lines` None the whole history is kept, failed or not.

    `stress`: kinds of faults (fields of `faults.Mix`) that there shall be many of, whatever the seed says.
    """
    with _determined(seed):
        world = World(seed, lines, stress)
        failure: Violation | None = None
        try:
            world.run(events)
        except Exception as defect:  # noqa: BLE001 - what the product raises and nobody expected is a finding as well
            failure = _violation(defect)
        told = story(world, failure) if failure is not None else "\n".join(world.history.text()) if not lines else ""
        world.close()
    return Result(
        seed=seed,
        events=world.scheduler.events,
        simulated_s=world.now,
        published=len(world.service.messages),
        delivered=sum(message.delivered for message in world.service.messages),
        faults=world.faults.counts,
        failure=None if failure is None else failure.text,
        story=told,
    )


def run_seeds(first: int, count: int, events: int = EVENTS, *, stress: tuple[str, ...] = ()) -> Iterator[Result]:
    """Seed after seed."""
    for seed in range(first, first + count):
        if (seed - first) % COLLECT_EVERY == 0:
            gc.collect()
        yield run_seed(seed, events, stress=stress)


def first_failure(seeds: int, *, first: int = 0, stress: tuple[str, ...] = ()) -> Result | None:
    """The first of so many seeds, from `first` on, that breaks a promise."""
    return next((result for result in run_seeds(first, seeds, stress=stress) if result.failure is not None), None)


def _violation(defect: Exception) -> Violation:
    """The broken promise itself; the product may have put it into groups."""
    inner = defect
    while isinstance(inner, ExceptionGroup):
        inner = inner.exceptions[0]
    return inner if isinstance(inner, Violation) else Violation("".join(traceback.format_exception(defect)))


@contextlib.contextmanager
def _determined(seed: int) -> Iterator[None]:
    """Nothing by chance but the seed, and limits so small that their edges are met."""
    ids = seeded_ids(random.Random(~seed))
    source = types.SimpleNamespace(uuid4=lambda: types.SimpleNamespace(hex=ids()))
    log = logging.getLogger("penstock.client")
    level, collecting = log.level, gc.isenabled()
    log.setLevel(logging.CRITICAL)
    gc.disable()
    try:
        with (
            mock.patch("penstock.contract.names.uuid", source),
            mock.patch("penstock.reservoir.reservoir.MAX_CONSUMERS", 4),
            mock.patch("penstock.flight.reads.SMALL_BYTES", 1),
            mock.patch("penstock.storage.pending.JOB_BYTES", 200),
            mock.patch("penstock.telemetry.event._log", mock.Mock()),
        ):
            yield
    finally:
        log.setLevel(level)
        if collecting:
            gc.enable()
