"""Real processes under a seeded schedule of faults: `python -m tests.chaos --minutes 10 --seed 1 --json out.json`.

Exit code 1 when a promise did not hold; the folder with all logs is then kept and named.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests import long_run
from tests.chaos.outcome import Setup
from tests.chaos.run import Chaos
from tests.chaos.timeline import draw


def main() -> int:
    """Run, print, and write what was asked for."""
    parser = long_run.parser("tests.chaos", __doc__, minutes=10.0, what_minutes="of publishing, most of it with faults")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--picture", type=Path, help="draw the timeline here (PNG)")
    parser.add_argument("--per-second", type=int, default=500, help="messages published")
    parser.add_argument("--at-least-once", action="store_true", help="subscriptions without exactly-once delivery")
    parser.add_argument("--in-memory", action="store_true", help="no data_dir: a killed daemon's rows come again")
    asked = parser.parse_args()
    setup = Setup(
        seed=asked.seed,
        minutes=asked.minutes,
        per_second=asked.per_second,
        exactly_once=not asked.at_least_once,
        data_dir=not asked.in_memory,
    )
    folder = long_run.begin("chaos")
    long_run.say(f"seed {setup.seed}, {setup.minutes:g} minutes")
    outcome = Chaos(setup, folder, long_run.say).run()
    if asked.picture:
        draw(outcome, asked.picture)
    return long_run.conclude(outcome, folder, asked.json)


if __name__ == "__main__":
    sys.exit(main())
