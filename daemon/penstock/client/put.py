"""The client's side of one `do_put`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.flight as fl

from penstock.client.pieces import pieces
from penstock.contract.publishing import MAX_PUT_BYTES, PutEnd, PutProgress, PutReply, PutSaid
from penstock.errors import InvalidMessage, InvalidRequest

Told = Callable[[PutProgress], None]


class Put:
    """Sends rows and reads what the daemon says of them. Raises the errors of Arrow and Flight as they are.

    An error of Flight while sending is rarely the true one: that comes with the end of the call, so it is asked for.
    """

    def __init__(
        self,
        writer: fl.FlightStreamWriter,
        reader: fl.FlightMetadataReader,
        schema: pa.Schema,
        told: Told | None,
    ) -> None:
        self.rows = 0
        self.said: PutReply | None = None
        self.source_failed = False
        """Whether the rows could not be had, so that an error is theirs and says nothing of the daemon."""
        self._writer = writer
        self._reader = reader
        self._schema = schema
        self._told = told
        self._told_raised: Exception | None = None

    def send(self, batches: Iterable[pa.RecordBatch]) -> None:
        """All rows, and then how many they were: without that word the daemon publishes nothing more.

        Errors of `batches` and of `told` are raised, and the write ends.
        """
        listening = threading.Thread(target=self._listen, name="penstock: progress", daemon=True)
        if self._told is not None:
            listening.start()
        try:
            for batch in self._had(batches):
                for piece in pieces(batch):
                    self._check(piece)
                    self._writer.write_batch(piece)
                    self.rows += piece.num_rows
            nothing = pa.RecordBatch.from_pylist([], schema=self._schema)
            self._writer.write_with_metadata(nothing, PutEnd(rows=self.rows).to_json())
            self._hear_all(listening)
            self._raise_what_told_raised()
        except BaseException as error:
            of_flight = isinstance(error, (fl.FlightError, pa.ArrowException, OSError)) and not self.source_failed
            with contextlib.suppress(fl.FlightError, pa.ArrowException, OSError):
                self._hear_all(listening)
            if of_flight:
                self._writer.close()  # raises what the daemon said
            else:
                with contextlib.suppress(fl.FlightError, pa.ArrowException):
                    self._writer.close()
            raise
        self._writer.close()

    def _hear_all(self, listening: threading.Thread) -> None:
        """Say that no more rows come, and take what the daemon says to that.

        Whoever closes the writer waits for whoever reads, so the thread must have ended before.
        """
        self._writer.done_writing()
        if listening.ident is None:
            self._listen()
        else:
            listening.join()

    def _had(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What is raised while the flag is up comes from `batches`."""
        self.source_failed = True
        for batch in batches:
            self.source_failed = False
            yield batch
            self.source_failed = True
        self.source_failed = False

    def _check(self, piece: pa.RecordBatch) -> None:
        if piece.nbytes > MAX_PUT_BYTES:
            raise InvalidMessage(
                f"row {self.rows} of this write (from 0) has {piece.nbytes:,} bytes: a daemon takes {MAX_PUT_BYTES:,}, "
                "and Pub/Sub 10,000,000 in a message. Leave it out, or publish where its data is kept",
                row=self.rows,
            )
        self._raise_what_told_raised()

    def _raise_what_told_raised(self) -> None:
        if self._told_raised is not None:
            raise self._told_raised

    def _listen(self) -> None:
        """Until the daemon has nothing more to say, or the call ends."""
        with contextlib.suppress(fl.FlightError, pa.ArrowException, OSError, InvalidRequest):
            while (buffer := self._reader.read()) is not None:
                said = PutSaid.from_json(buffer.to_pybytes())
                self.said = said.done or self.said
                if said.progress is not None:
                    self._tell(said.progress)

    def _tell(self, progress: PutProgress) -> None:
        """Once it has raised, `told` is not called again; what the daemon says is still read."""
        if self._told is None or self._told_raised is not None:
            return
        try:
            self._told(progress)
        except Exception as error:  # noqa: BLE001 - raised again by `send`, on the thread of whoever gave `told`
            self._told_raised = error
