"""All benchmarks, one after another: `python -m benchmarks [--seconds S] [--json FOLDER] [NAME …]`.

Without `--seconds` each runs its own default. Exits with 1 when one failed to run; a missed goal is no failure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("decode", "ingest", "serve", "end_to_end", "memory", "latency", "durable", "publish")


def main() -> int:
    """Each as a process of its own, so that none inherits another's memory and threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--seconds", type=float, help="for each measurement")
    parser.add_argument("--json", type=Path, help="folder for one NAME.json each")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    failed: list[str] = []
    took: list[str] = []
    start = time.monotonic()
    for name in chosen.names or NAMES:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if chosen.seconds:
            command += ["--seconds", str(chosen.seconds)]
        if chosen.json:
            chosen.json.mkdir(parents=True, exist_ok=True)
            command += ["--json", str(chosen.json / f"{name}.json")]
        began = time.monotonic()
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        took.append(f"{name} {time.monotonic() - began:.0f}")
    print(f"{time.monotonic() - start:.0f} s: {', '.join(took)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
