"""The client's side of one `do_put`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.flight as fl

from penstock.client.pieces import pieces
from penstock.contract.publishing import PutEnd, PutProgress, PutReply, PutSaid
from penstock.errors import InvalidRequest

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

    def send(self, batches: Iterable[pa.RecordBatch]) -> None:
        """All rows, and then how many they were: without that word the daemon publishes nothing more.

        Errors of `batches` are raised, and the write ends.
        """
        reading = None
        if self._told is not None:
            reading = threading.Thread(target=self._listen, name="penstock: progress", daemon=True)
            reading.start()
        try:
            for batch in self._had(batches):
                for piece in pieces(batch):
                    self._writer.write_batch(piece)
                    self.rows += piece.num_rows
            nothing = pa.RecordBatch.from_pylist([], schema=self._schema)
            self._writer.write_with_metadata(nothing, PutEnd(rows=self.rows).to_json())
            self._writer.done_writing()
            if reading is None:
                self._listen()
            else:
                reading.join()
        except BaseException as error:
            if isinstance(error, (fl.FlightError, pa.ArrowException, OSError)) and not self.source_failed:
                self._writer.close()  # raises what the daemon said
            else:
                with contextlib.suppress(fl.FlightError, pa.ArrowException):
                    self._writer.close()
            raise
        self._writer.close()

    def _had(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What is raised while the flag is up comes from `batches`."""
        self.source_failed = True
        for batch in batches:
            self.source_failed = False
            yield batch
            self.source_failed = True
        self.source_failed = False

    def _listen(self) -> None:
        """Until the daemon has nothing more to say, or the call ends."""
        with contextlib.suppress(fl.FlightError, pa.ArrowException, OSError, InvalidRequest):
            while (buffer := self._reader.read()) is not None:
                said = PutSaid.from_json(buffer.to_pybytes())
                self.said = said.done or self.said
                if said.progress is not None and self._told is not None:
                    self._told(said.progress)
