"""`publish`: rows of a file into a topic, with a progress bar of what is confirmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from penstock.client import Publisher
from penstock.contract.publishing import PutProgress, PutReply
from penstock.errors import InvalidOption

BATCH_ROWS, BATCH_BYTES = 10_000, 32 << 20
"""Read from the file at a time, at most, where its rows are alike."""


def publish_parquet(publisher: Publisher, file: Path, *, quiet: bool) -> int:
    """Publish all rows. Raises `PenstockError`, `InvalidOption` for what is no Parquet file.

    Ctrl-C ends it at once, and the end of the process ends the write: what was not under way is not published.
    """
    try:
        rows = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InvalidOption(f"--parquet {file}: cannot be read: {error}") from error
    console = Console(stderr=True)
    began = time.perf_counter()
    confirmed = 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("confirmed", total=rows.metadata.num_rows)

        def told(progress: PutProgress) -> None:
            nonlocal confirmed
            confirmed = progress.confirmed
            bar.update(task, completed=confirmed)

        def publish() -> PutReply:
            with rows:
                reader = pa.RecordBatchReader.from_batches(rows.schema_arrow, _batches(rows, file))
                return publisher.publish(reader, told=told)

        try:
            reply = _in_a_thread(publish)
        except KeyboardInterrupt:
            bar.stop()
            _say(console, f"interrupted when {confirmed:,} rows or more of {rows.metadata.num_rows:,} were published")
            raise
    took_s = time.perf_counter() - began
    left_out = f", {reply.skipped + reply.dead_lettered:,} left out" if reply.rows > reply.messages else ""
    ids = f", message IDs {reply.first_message_id} to {reply.last_message_id}" if reply.messages else ""
    _say(console, f"{reply.messages:,} messages published in {took_s:.1f} s{left_out}{ids}")
    return 0


def _batches(rows: pq.ParquetFile, file: Path) -> Iterator[pa.RecordBatch]:
    read = 0
    try:
        for batch in rows.iter_batches(_rows_at_a_time(rows.metadata)):
            yield batch
            read += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InvalidOption(
            f"--parquet {file}: cannot be read from row {read:,} on: {error}. Rows before it may have been published"
        ) from error


def _rows_at_a_time(of: pq.FileMetaData) -> int:
    size_bytes = sum(of.row_group(group).total_byte_size for group in range(of.num_row_groups))
    rows: int = of.num_rows * BATCH_BYTES // max(size_bytes, 1)
    return max(min(BATCH_ROWS, rows), 1)


def _in_a_thread(publish: Callable[[], PutReply]) -> PutReply:
    """Flight waits where no signal is heard, for as long as the service does not answer: this thread hears Ctrl-C."""
    outcome: Future[PutReply] = Future()

    def run() -> None:
        try:
            outcome.set_result(publish())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            outcome.set_exception(error)

    threading.Thread(target=run, name="penstock: publish", daemon=True).start()
    return outcome.result()


def _say(console: Console, words: str) -> None:
    """One line, however long."""
    console.print(words, highlight=False, soft_wrap=True)
