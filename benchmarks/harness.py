"""What every benchmark has around it: arguments, turns, medians with their spread, the table, the JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]

LONG_S = 4.0
"""With fewer seconds for each measurement, those that no ratio needs are left out: that is the short form."""


@dataclass(frozen=True)
class Goal:
    """What a ratio should reach, on a machine with two cores for everything."""

    bound: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether it is reached."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        """Such as `≥ 0.6`."""
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@dataclass
class Report:
    """What a benchmark found. `rows` have the same keys or leave some out; `ratios` are named for good."""

    name: str
    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    goals: Mapping[str, Goal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, **cells: Any) -> None:
        """One row of the table; said at once on standard error, since a benchmark takes a while."""
        self.rows.append(cells)
        print(f"{self.name}:", *(f"{key}={_cell(value)}" for key, value in cells.items()), file=sys.stderr, flush=True)

    def to_json(self) -> dict[str, Any]:
        """The file's contents."""
        ratios = {name: round(value, 3) for name, value in self.ratios.items()}
        return {"name": self.name, "machine": machine(), "rows": self.rows, "ratios": ratios, "notes": self.notes}

    def print(self, console: Console) -> None:
        """Rows as a table, then each ratio beside its goal."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        table = Table(title=self.name, title_justify="left")
        for column in columns:
            numeric = any(isinstance(row.get(column), int | float) for row in self.rows)
            table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
        for row in self.rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        console.print(table)
        for name, value in self.ratios.items():
            goal = self.goals.get(name)
            verdict = f"   goal {goal}: {'reached' if goal.met(value) else 'MISSED'}" if goal else ""
            console.print(f"  {name} = {value:.3g}{verdict}", highlight=False)
        for note in self.notes:
            console.print(f"  {note}", highlight=False)


@dataclass(frozen=True)
class Spread:
    """The median of some samples, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of at least one sample."""
        return cls(statistics.median(samples), min(samples), max(samples))

    @property
    def range(self) -> str:
        """Such as `90,812-93,400`."""
        return f"{_cell(float(self.lowest))}-{_cell(float(self.highest))}"


def take_turns(arms: Mapping[str, Callable[[], Row]], rounds: int) -> dict[str, list[Row]]:
    """Each arm once per round, in changing order: a machine that gets slower slows both."""
    found: dict[str, list[Row]] = {name: [] for name in arms}
    for number in range(rounds):
        names = list(arms) if number % 2 == 0 else list(arms)[::-1]
        for name in names:
            found[name].append(arms[name]())
    return found


def middle(samples: Sequence[Row], key: str) -> Row:
    """The row whose `key` is the (lower) median: a whole row, so that its figures belong together."""
    return sorted(samples, key=lambda row: row[key])[(len(samples) - 1) // 2]


def cpu_times(call: Callable[[], object], seconds: float) -> list[float]:
    """CPU seconds of each call, for about `seconds` and at least three times, after one that warms up.

    For calls that stay in this thread: its CPU time is what a free core would take, however busy the machine is.
    """
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return times


def machine() -> dict[str, Any]:
    """Enough to know whether two files may be compared."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def main(run: Callable[[float], Report], *, seconds: float) -> None:
    """The command line of one benchmark. `run` gets the seconds to spend on each measurement."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seconds", type=float, default=seconds, help="for each measurement (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write name, machine, rows and ratios to this file")
    chosen = parser.parse_args()
    # Asked to stop, it ends its children and removes its files.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    report = run(chosen.seconds)
    report.print(Console(width=None if sys.stdout.isatty() else 200))
    if chosen.json:
        chosen.json.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
