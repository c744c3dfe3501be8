"""The run as a picture: which fault when, throughput, what was left, and the daemon's memory."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from tests.chaos.outcome import Outcome
from tests.chaos.schedule import LASTING

mpl.use("Agg")

import matplotlib.pyplot as plt

WINDOW_S = 5.0
"""Throughput is a mean over this: a batch reaches the sink as a whole."""

SHORTEST_S = 0.6
"""How wide a fault without length is drawn."""

COLOURS = {
    "kill": "#d62728",
    "pause": "#9467bd",
    "cut": "#ff7f0e",
    "stall": "#e6ab02",
    "fill": "#8c564b",
    "exhaust": "#17becf",
}
"""By the first word of a kind; what the service does wrong is blue."""


def draw(outcome: Outcome, path: Path) -> None:
    """A PNG."""
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(14, 11), height_ratios=[3, 2, 2, 1])
    kinds = sorted({fault.kind for fault in outcome.played}, key=lambda kind: (kind.split()[0], kind), reverse=True)
    for fault in outcome.played:
        width_s = max(fault.seconds if fault.kind in LASTING else 0.0, SHORTEST_S)
        colour = COLOURS.get(fault.kind.split()[0], "#1f77b4")
        axes[0].barh(kinds.index(fault.kind), width_s, left=fault.at_s, height=0.7, color=colour)
        for axis in axes[1:]:
            axis.axvspan(fault.at_s, fault.at_s + width_s, color=colour, alpha=0.15, linewidth=0)
    axes[0].set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes[0].set_title("faults", loc="left", fontsize=10)
    at = np.array([sample.at_s for sample in outcome.samples])
    _plot_rate(axes[1], at, [sample.published for sample in outcome.samples], "published", "#777777")
    _plot_rate(axes[1], at, [sample.delivered for sample in outcome.samples], "in the sink", "#1f77b4")
    _plot_rate(axes[1], at, [sample.sunk for sample in outcome.samples], "on the output topic", "#2ca02c")
    axes[2].plot(at, [sample.remaining for sample in outcome.samples], label="not acknowledged", color="#d62728")
    behind = [sample.published - sample.delivered for sample in outcome.samples]
    axes[2].plot(at, behind, label="not in the sink", color="#1f77b4", linestyle="--")
    # A daemon that is gone has no memory, which is not the same as 0.
    memory = [sample.daemon_mb or np.nan for sample in outcome.samples]
    axes[3].plot(at, memory, label="daemon RssAnon", color="#2ca02c")
    titles = (f"throughput, messages/s (mean of {WINDOW_S:g} s)", "backlog, messages", "memory, MB")
    for axis, title in zip(axes[1:], titles, strict=True):
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left", fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.axvline(outcome.minutes * 60, color="black", linestyle=":", linewidth=1)
    axes[-1].set_xlabel("seconds since the first batch; publishing stops at the dotted line")
    figure.suptitle(
        f"seed {outcome.seed}: {outcome.published:,} published, {outcome.delivered:,} delivered in {outcome.batches} "
        f"batches, {outcome.lost} lost, {outcome.duplicates} duplicates, {outcome.remaining} left; "
        f"{outcome.sunk:,} copies, {outcome.sunk_lost} lost; "
        f"{outcome.daemon_starts} daemons, {outcome.query_starts} queries"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_rate(axis: Axes, at_s: np.ndarray, counts: list[int], label: str, colour: str) -> None:
    """Messages per second over the window that ends at each sample."""
    before = np.interp(at_s - WINDOW_S, at_s, counts)
    axis.plot(at_s, (np.array(counts) - before) / WINDOW_S, label=label, color=colour)
