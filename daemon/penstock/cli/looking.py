"""Looking at a running daemon: `tail` and `status`."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from penstock.client import Consumer, NodeClient
from penstock.contract import DEFAULT_ENDPOINT, PROTOCOL_VERSION
from penstock.contract.actions import StatusReply, StatusRequest

BATCH_ROWS = 1000
"""Rows that `tail` takes at a time: enough to be quick, few enough to give back quickly."""


def tail(
    subscription: str, *, daemon: str | None, limit: int | None, wait_s: float | None, ack: bool, share: bool
) -> int:
    """Print rows as JSON lines. Raises `PenstockError`; Ctrl-C and SIGTERM give back what was not acknowledged."""
    left = limit
    with _leaving_at_sigterm(), Consumer(subscription, endpoint=daemon, share=share) as consumer:
        while left is None or left > 0:
            batch = consumer.next(wait_s, max_rows=BATCH_ROWS if left is None else min(left, BATCH_ROWS))
            if batch is None:
                break
            for row in _first(batch.rows(), left):
                sys.stdout.write(json.dumps(_printable(row), ensure_ascii=False) + "\n")
            sys.stdout.flush()
            if left is not None:
                left -= batch.num_rows
            # Only whole batches are acknowledged: a cut one would lose rows that nobody saw.
            if ack and (left is None or left >= 0):
                batch.commit()
    return 0


def status(daemon: str | None, *, as_json: bool) -> int:
    """Print a daemon's figures. Raises `NodeUnreachable`."""
    with NodeClient(daemon or os.environ.get("PENSTOCK_ENDPOINT") or DEFAULT_ENDPOINT) as node:
        reply: StatusReply = node.call("status", StatusRequest(v=PROTOCOL_VERSION))
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(reply), indent=2) + "\n")
        return 0
    console = Console()
    used, most = (reply.memory[key] / (1 << 20) for key in ("used_bytes", "limit_bytes"))
    console.print(f"{reply.state}, penstock {reply.version}, node {reply.node}, buffers {used:,.0f} of {most:,.0f} MiB")
    if reply.storage is not None:
        said = reply.storage.get("problem") or f"{reply.storage.get('segments')} files of rows"
        console.print(f"data_dir {reply.storage.get('path')}: {said}")
    if reply.spill is not None and (reply.spill.get("batches") or reply.spill.get("problem")):
        said = reply.spill.get("problem") or f"{reply.spill.get('files')} temporary files of sealed batches"
        console.print(f"spill_dir {reply.spill.get('path')}: {said}")
    for name, figures in reply.subscriptions.items():
        console.print(_table(name, figures))
    publishing = reply.publishing or {}
    for topic, figures in publishing.get("topics", {}).items():
        trouble = f"; {figures['trouble']}" if figures["trouble"] else ""
        failed = f", {figures['failed_messages']:,} failed" if figures["failed_messages"] else ""
        console.print(
            f"{topic}: {figures['messages']:,} messages published{failed}, {figures['in_flight_messages']:,} in flight"
            + trouble
        )
    if not reply.subscriptions:
        console.print("No subscription is open: one is pulled from its first reader on.")
    return 0


@contextlib.contextmanager
def _leaving_at_sigterm() -> Iterator[None]:
    """Leave the block by an exception at SIGTERM, as `timeout` sends it, which else would tell no daemon."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first(rows: Iterator[dict[str, Any]], limit: int | None) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            return
        yield row


def _printable(row: dict[str, Any]) -> dict[str, Any]:
    """Data as text where it is UTF-8, else as `data_base64`; times in ISO form; without nulls."""
    shown: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, bytes):
            try:
                shown[key] = value.decode()
            except UnicodeDecodeError:
                shown[f"{key}_base64"] = base64.b64encode(value).decode()
        elif isinstance(value, datetime):
            shown[key] = value.isoformat()
        elif value is not None:
            shown[key] = value
    return shown


def _table(name: str, figures: dict[str, Any]) -> Table:
    """One subscription: where its messages are, as `contract.actions.Accounting` tells, and what it is doing."""
    table = Table(title=name, title_justify="left", title_style="bold", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("messages", justify="right", no_wrap=True)
    table.add_column("more", overflow="fold")
    accounting, oldest_s = figures["accounting"], figures["oldest_age_s"]
    more = {
        "received": f"by {figures['pull']['streams']} pull streams now, for {len(figures['consumers'])} consumers",
        "buffered": "" if oldest_s is None else f"the oldest for {oldest_s:.1f} s",
        "in_batches": f"{figures['batches']} sealed, {figures['batches_pending']} committed"
        + (f", {figures['batches_spilled']} in files" if figures.get("batches_spilled") else ""),
        "unaccounted": "a defect: please report it" if accounting["unaccounted"] else "",
    }
    came = {key: accounting[key] for key in ("received", "recovered")}
    places: dict[str, int] = accounting["places"]
    for group in (came, places, {"unaccounted": accounting["unaccounted"]}):
        for key, count in group.items():
            if count or key not in _SHOWN_IF_ANY:
                table.add_row(key.replace("_", " "), f"{count:,}", more.get(key, ""))
        table.add_section()
    for key in ("paused", "trouble", "failed"):
        if figures[key]:
            table.add_row(key, "", figures[key])
    if figures["pull"]["undecodable"]:
        table.add_row("undecodable", "", f"{figures['pull']['undecodable']:,} responses, left to the service")
    return table


_SHOWN_IF_ANY = frozenset(
    {
        "recovered",
        "dead_letters_pending",
        "duplicates_pending",
        "acks_lost",
        "lapsed",
        "known",
        "dead_lettered",
        "duplicates",
    }
)
