"""`publish`: rows of a file into a topic, with a progress bar of what is confirmed."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from penstock.client import Publisher
from penstock.contract.publishing import PutProgress
from penstock.errors import InvalidOption

BATCH_ROWS = 10_000
"""Rows read from the file at a time."""


def publish_parquet(publisher: Publisher, file: Path, *, quiet: bool) -> int:
    """Publish all rows. Raises `PenstockError`, `InvalidOption` for what is no Parquet file."""
    try:
        rows = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InvalidOption(f"--parquet {file}: cannot be read: {error}") from error
    console = Console(stderr=True)
    began = time.perf_counter()
    with (
        rows,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        ) as bar,
    ):
        task = bar.add_task("confirmed", total=rows.metadata.num_rows)

        def told(progress: PutProgress) -> None:
            bar.update(task, completed=progress.confirmed)

        batches = rows.iter_batches(BATCH_ROWS)
        reader = pa.RecordBatchReader.from_batches(rows.schema_arrow, batches)
        reply = publisher.publish(reader, told=told)
    took_s = time.perf_counter() - began
    left_out = f", {reply.skipped + reply.dead_lettered:,} left out" if reply.rows > reply.messages else ""
    ids = f", message IDs {reply.first_message_id} to {reply.last_message_id}" if reply.messages else ""
    console.print(f"{reply.messages:,} messages published in {took_s:.1f} s{left_out}{ids}", highlight=False)
    return 0
