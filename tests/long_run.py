"""What `make chaos` and `make soak` have in common around their runs: a folder of logs, and the outcome told."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Protocol


class Outcome(Protocol):
    """What a run found."""

    def figures(self) -> dict[str, object]:
        """For JSON."""

    def broken(self) -> list[str]:
        """The names of figures that break a promise."""


def parser(module: str, description: str | None, *, minutes: float, what_minutes: str) -> argparse.ArgumentParser:
    """Options that both have: `--minutes`, `--json`."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--minutes", type=float, default=minutes, help=what_minutes)
    parser.add_argument("--json", type=Path, help="write the outcome here")
    return parser


def begin(name: str) -> Path:
    """A new folder for logs. From now on SIGTERM ends the run as an error does, with all of its processes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return Path(tempfile.mkdtemp(prefix=f"penstock-{name}-"))


def say(line: str) -> None:
    """A line while it runs."""
    print(line, flush=True)


def conclude(outcome: Outcome, folder: Path, json_path: Path | None) -> int:
    """Print and write the outcome; the exit code. The folder is kept, and named, when a promise did not hold."""
    figures = outcome.figures()
    width = max(map(len, figures))
    for name, value in figures.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        print(f"{name:>{width}}  {value:,}" if number else f"{name:>{width}}  {value}")
    broken = outcome.broken()
    if broken:
        print(f"BROKEN: {', '.join(broken)}; what is left of the run is in {folder}")
    else:
        shutil.rmtree(folder)
    text = json.dumps(figures)
    if json_path is not None:
        json_path.write_text(text + "\n")
    print(text)
    return 1 if broken else 0
