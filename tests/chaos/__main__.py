"""Real processes under a seeded schedule of faults: `python -m tests.chaos --minutes 10 --seed 1 --json out.json`.

Exit code 1 when a promise did not hold; the folder with all logs is then kept and named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import Chaos, Setup
from tests.chaos.timeline import draw


def main() -> int:
    """Run, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--json", type=Path, help="write the outcome here")
    parser.add_argument("--picture", type=Path, help="draw the timeline here (PNG)")
    parser.add_argument("--per-second", type=int, default=500, help="messages published")
    parser.add_argument("--at-least-once", action="store_true", help="a subscription without exactly-once delivery")
    parser.add_argument("--in-memory", action="store_true", help="no data_dir: a killed daemon's rows come again")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all processes are ended
    setup = Setup(
        seed=asked.seed,
        minutes=asked.minutes,
        per_second=asked.per_second,
        exactly_once=not asked.at_least_once,
        data_dir=not asked.in_memory,
    )
    print(f"seed {setup.seed}, {setup.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
    outcome = Chaos(setup, folder, lambda line: print(line, flush=True)).run()
    if asked.picture:
        draw(outcome, asked.picture)
    broken = outcome.broken()
    if broken:
        print(f"BROKEN: {', '.join(broken)}; logs and sink are in {folder}")
    else:
        shutil.rmtree(folder)
    text = json.dumps(outcome.figures())
    if asked.json:
        asked.json.write_text(text + "\n")
    print(text)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
