"""The run as a picture: what was published, delivered and left, the daemon's memory, and each fault."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from tests.chaos.run import Outcome

mpl.use("Agg")

import matplotlib.pyplot as plt


def draw(outcome: Outcome, path: Path) -> None:
    """A PNG."""
    at = [sample.at_s for sample in outcome.samples]
    figure, (counts, left, memory) = plt.subplots(3, 1, sharex=True, figsize=(14, 9), height_ratios=[3, 2, 1])
    counts.plot(at, [sample.published for sample in outcome.samples], label="published", color="#777777")
    counts.plot(at, [sample.delivered for sample in outcome.samples], label="in the sink", color="#1f77b4")
    left.plot(at, [sample.remaining for sample in outcome.samples], label="not acknowledged", color="#d62728")
    memory.plot(at, [sample.daemon_mb for sample in outcome.samples], label="daemon RssAnon", color="#2ca02c")
    for axis, label in ((counts, "messages"), (left, "messages"), (memory, "MB")):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
        axis.grid(alpha=0.3)
        for fault in outcome.played:
            axis.axvspan(fault.at_s, fault.at_s + _width_s(fault.kind, fault.seconds), color="#ff7f0e", alpha=0.25)
    top = counts.get_ylim()[1]
    for number, fault in enumerate(outcome.played):
        counts.text(fault.at_s, top * (0.98 - 0.09 * (number % 6)), fault.kind, fontsize=7, rotation=20, va="top")
    memory.set_xlabel("seconds")
    figure.suptitle(
        f"seed {outcome.seed}: {outcome.published} published, {outcome.delivered} delivered, {outcome.lost} lost, "
        f"{outcome.duplicates} duplicates, {outcome.remaining} left; {outcome.daemon_starts} daemons, "
        f"{outcome.query_starts} queries"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _width_s(kind: str, seconds: float) -> float:
    return seconds if kind.startswith(("pause", "stall")) else 0.3
