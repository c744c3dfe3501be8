"""The bare Flight peer of `serve`: the same batches from memory, handed to C++ as they are.

Prints `{"ready": port}`. Every ticket gets the same rows.
"""

from __future__ import annotations

import argparse
import math

import pyarrow as pa
import pyarrow.flight as fl

from benchmarks.children import say
from benchmarks.messages import Shape, responses
from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire

DECODE_BYTES = 2 << 20


class Server(fl.FlightServerBase):  # type: ignore[misc]
    """Serves one table for every ticket."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._batches = batches

    def do_get(self, _context: fl.ServerCallContext, _ticket: fl.Ticket) -> fl.RecordBatchStream:
        """The rows; a stream that needs no Python while it runs."""
        return fl.RecordBatchStream(pa.RecordBatchReader.from_batches(ROWS_SCHEMA, self._batches))

    def do_action(self, _context: fl.ServerCallContext, _action: fl.Action) -> list[fl.Result]:
        """An action that does nothing: the floor of all actions."""
        return [fl.Result(pa.py_buffer(b"{}"))]


def batches(shape: Shape, size_bytes: int) -> list[pa.RecordBatch]:
    """Decoded as the daemon decodes, until the data columns have `size_bytes`."""
    templates = responses(shape)
    found: list[pa.RecordBatch] = []
    together = math.ceil(DECODE_BYTES / len(templates[0]))
    rows, position = 0, 0
    while rows * shape.data_bytes < size_bytes:
        raws = [templates[(position + i) % len(templates)] for i in range(together)]
        position += together
        found.append(wire.decode(raws).rows)
        rows += found[-1].num_rows
    return found


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscription", required=True)
    parser.add_argument("--size-bytes", type=int, required=True)
    chosen = parser.parse_args()
    with Server(batches(Shape.of(chosen.subscription), chosen.size_bytes)) as server:
        say(ready=server.port)
        server.serve()


if __name__ == "__main__":
    main()
