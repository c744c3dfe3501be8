"""Commands that look: at messages, at a daemon, at versions."""

from __future__ import annotations

import base64
import dataclasses
import json as json_text
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from penstock.contract import DEFAULT_ENDPOINT, PROTOCOL_VERSION

if TYPE_CHECKING:
    from penstock.contract.actions import StatusReply

Flag = Parameter(negative=())
Endpoint = Annotated[str | None, Parameter(env_var="PENSTOCK_ENDPOINT")]

WITH_VERSIONS = ("pyarrow", "pyspark", "grpcio", "google-cloud-pubsub", "ptars")


def tail(
    subscription: str,
    /,
    *,
    endpoint: Endpoint = None,
    max_messages: Annotated[int | None, Parameter(name=["--max-messages", "-n"])] = None,
    ack: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Show messages as they come, until Ctrl-C. They go back to the subscription at the end, unless --ack is given.

    Parameters
    ----------
    subscription
        projects/P/subscriptions/S.
    endpoint
        host:port of the daemon.
    max_messages
        Stop after so many.
    ack
        Acknowledge what was shown: it is gone from the subscription.
    json
        One JSON object per message; data that is not UTF-8 is in base64 under data_base64.
    """
    from penstock.client import Consumer  # noqa: PLC0415

    left = max_messages
    with Consumer(subscription, endpoint=endpoint, max_rows=max_messages) as consumer:
        for batch in consumer:
            # The limit of a batch is the consumer's for good: what a later batch has too much is not shown, nor acked.
            if left is not None and len(batch) > left:
                break
            for row in batch.rows():
                print(_as_json(row) if json else _as_line(row), flush=True)  # noqa: T201
            if ack:
                batch.commit()
            if left is not None:
                left -= len(batch)
                if left <= 0:
                    break
    return 0


def status(*, endpoint: Endpoint = None, json: Annotated[bool, Flag] = False) -> int:
    """Ask a daemon how it is.

    Parameters
    ----------
    endpoint
        host:port of the daemon.
    json
        Everything, as one JSON object.
    """
    from penstock.client import NodeClient  # noqa: PLC0415
    from penstock.contract.actions import StatusRequest  # noqa: PLC0415

    with NodeClient(endpoint or DEFAULT_ENDPOINT) as node:
        reply: StatusReply = node.call("status", StatusRequest(v=PROTOCOL_VERSION))
    if json:
        print(json_text.dumps(dataclasses.asdict(reply), default=str))  # noqa: T201
        return 0
    console = Console()
    console.print(f"node {reply.node}, version {reply.version}, {reply.state}")
    console.print(", ".join(f"{name} {_short(value)}" for name, value in reply.memory.items()))
    for name, figures in reply.subscriptions.items():
        console.print(_figures_table(name, figures))
    return 0


def version() -> int:
    """Print versions of this and of what it stands on."""
    print(f"penstock {metadata.version('penstock')} (protocol {PROTOCOL_VERSION})")  # noqa: T201
    print(f"python {sys.version.split()[0]}")  # noqa: T201
    for name in WITH_VERSIONS:
        try:
            print(f"{name} {metadata.version(name)}")  # noqa: T201
        except metadata.PackageNotFoundError:
            print(f"{name} not installed")  # noqa: T201
    return 0


def _as_json(row: dict[str, Any]) -> str:
    data: bytes = row.pop("data")
    try:
        row["data"] = data.decode()
    except UnicodeDecodeError:
        row["data_base64"] = base64.b64encode(data).decode()
    return json_text.dumps(row, default=str, ensure_ascii=False)


def _as_line(row: dict[str, Any]) -> str:
    data: bytes = row["data"]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = repr(data)
    # A message is one line, whatever it has in it.
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    attributes = " ".join(f"{key}={value}" for key, value in (row["attributes"] or {}).items())
    key = f" key={row['ordering_key']}" if row["ordering_key"] else ""
    return f"{row['publish_time']:%Y-%m-%dT%H:%M:%S.%f}Z {row['message_id']}{key} {{{attributes}}} {shown}"


def _figures_table(name: str, figures: Mapping[str, Any]) -> Table:
    table = Table(title=name, title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in _flat(figures):
        table.add_row(key, _short(value))
    return table


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
