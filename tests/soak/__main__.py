"""Do leases hold beside a load, and through a pause? `python -m tests.soak --minutes 5 --held 2000000 --deadline 10`.

Exit code 1 when a promise did not hold; the folder with all logs is then kept and named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Setup, Soak


def main() -> int:
    """Run, print, and write what was asked for."""
    default = Setup()
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=default.minutes, help="of load, with the pause among them")
    parser.add_argument("--held", type=int, default=default.held, help="messages, half of them sealed")
    parser.add_argument("--deadline", type=int, default=default.deadline_s, help="ack deadline in seconds")
    parser.add_argument("--load-bytes", type=int, default=default.load_bytes, help="of a message of the load")
    parser.add_argument("--pause", type=float, default=default.pause_s, help="seconds; 0: none")
    parser.add_argument("--json", type=Path, help="write the outcome here")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all processes are ended
    setup = Setup(asked.minutes, asked.held, asked.deadline, asked.load_bytes, asked.pause)
    folder = Path(tempfile.mkdtemp(prefix="penstock-soak-"))
    outcome = Soak(setup, folder, lambda line: print(line, flush=True)).run()
    for name, value in outcome.figures().items():
        print(f"{name:>18}  {value:,}" if isinstance(value, int | float) else f"{name:>18}  {value}")
    broken = outcome.broken()
    if broken:
        print(f"BROKEN: {', '.join(broken)}; logs are in {folder}")
    else:
        shutil.rmtree(folder)
    text = json.dumps(outcome.figures())
    if asked.json:
        asked.json.write_text(text + "\n")
    print(text)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
