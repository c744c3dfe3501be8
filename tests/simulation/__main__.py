"""Runs the simulation.

usage: python -m tests.simulation [--seeds N] [--first K] [--events M] [--stress KIND,...] [--history]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import fields

from tests.simulation.faults import Mix
from tests.simulation.seeds import EVENTS, run_seed, run_seeds


def main() -> int:
    """0 when every seed kept every promise, 1 at the first that did not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--events", type=int, default=EVENTS, help="events with faults in each")
    parser.add_argument("--stress", default="", help="kinds of faults to have many of, separated by commas")
    parser.add_argument("--history", action="store_true", help="print the whole history of the first seed, and end")
    asked = parser.parse_args()
    stress = tuple(kind for kind in asked.stress.split(",") if kind)
    known = [*(field.name for field in fields(Mix)), "spread"]
    if unknown := sorted(set(stress) - set(known)):
        parser.error(f"--stress: {unknown[0]!r} is unknown; known are {', '.join(known)}")
    if asked.history:
        result = run_seed(asked.first, asked.events, None, stress=stress)
        print(result.story)
        return 0 if result.failure is None else 1
    return _run(asked.first, asked.seeds, asked.events, stress)


def _run(first: int, seeds: int, events: int, stress: tuple[str, ...]) -> int:
    faults: Counter[str] = Counter()
    total = published = delivered = done = 0
    simulated_s = 0.0
    began = time.process_time()
    for result in run_seeds(first, seeds, events, stress=stress):
        done += 1
        total += result.events
        published += result.published
        delivered += result.delivered
        simulated_s += result.simulated_s
        faults.update(result.faults)
        if result.failure is not None:
            print(result.story)
            print(f"\nseed {result.seed} breaks a promise: {result.failure}")
            again = f"--seeds 1 --first {result.seed}" + (f" --events {events}" if events != EVENTS else "")
            again += f" --stress {','.join(stress)}" if stress else ""
            print(f'again: make simulate ARGS="{again}"; all of its history: add --history')
            return 1
    took_s = max(time.process_time() - began, 1e-9)
    print(f"{done} seeds kept every promise, {first} to {first + done - 1}")
    print(
        f"{total:,} events in {took_s:.1f} s of processor: {total / took_s:,.0f} events/s, {done / took_s:.1f} seeds/s"
    )
    print(f"{simulated_s / 3600:,.1f} simulated hours, {published:,} messages published, {delivered:,} deliveries")
    print(f"{faults.total():,} faults: " + ", ".join(f"{kind} {count:,}" for kind, count in faults.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
