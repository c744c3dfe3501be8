"""How much faster is decoding into columns than the loop over messages that everybody writes?

One thread, the same bytes. The peer is protobuf's own C implementation (upb), its values gathered into the same Arrow
record batch: what a Python connector does to hand rows to Spark.
"""

from __future__ import annotations

import math

import pyarrow as pa
from google.pubsub_v1.types import StreamingPullResponse

from benchmarks.harness import Goal, Report, Spread, cpu_times, main, take_turns
from benchmarks.messages import Shape, responses
from penstock import memory
from penstock.contract import ROWS_SCHEMA
from penstock.pubsub import wire

GOALS = {"columnar_vs_per_message_1kb": Goal(6), "columnar_vs_per_message_100b": Goal(10)}
SIZES = {"100b": 100, "1kb": 1024, "10kb": 10_240}
DECODE_BYTES = 2 << 20
"""The daemon decodes what came in as soon as it is this much."""

ROUNDS = 10

_PULL = StreamingPullResponse.pb()


def per_message(raws: list[bytes]) -> tuple[pa.RecordBatch, list[str]]:
    """The loop: one Python object and seven values for each message, then columns."""
    ids, data, attributes, times, keys, attempts, ack_ids = [], [], [], [], [], [], []
    for raw in raws:
        for received in _PULL.FromString(raw).received_messages:
            message = received.message
            ids.append(message.message_id)
            data.append(message.data)
            attributes.append(list(message.attributes.items()))
            times.append(message.publish_time.ToMicroseconds())
            keys.append(message.ordering_key or None)
            attempts.append(received.delivery_attempt or None)
            ack_ids.append(received.ack_id)
    columns = [
        pa.array(values, field.type)
        for values, field in zip((ids, data, attributes, times, keys, attempts), ROWS_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS_SCHEMA), ack_ids


def run(seconds: float) -> Report:
    """Both decoders at three sizes, `seconds` for each. Rates are per second of CPU time."""
    report = Report("decode", goals=GOALS)
    memory.keep_heap()  # as the daemon does; the loop gains by it as well
    for name, data_bytes in SIZES.items():
        shape = Shape(data_bytes, 1000 if data_bytes <= 1024 else 100)
        templates = responses(shape)
        size = len(templates[0])
        raws = templates[: math.ceil(DECODE_BYTES / size)]
        _check(raws)
        arms = {
            "columnar": lambda raws=raws: {"times": cpu_times(lambda: wire.decode(raws), seconds / ROUNDS)},
            "per message": lambda raws=raws: {"times": cpu_times(lambda: per_message(raws), seconds / ROUNDS)},
        }
        medians = {}
        for arm, samples in take_turns(arms, ROUNDS).items():
            spread = Spread.of([time for sample in samples for time in sample["times"]])
            medians[arm] = spread.median
            messages = shape.messages * len(raws)
            report.add(
                arm=arm,
                data_bytes=data_bytes,
                messages_per_s=round(messages / spread.median),
                fastest_messages_per_s=round(messages / spread.lowest),
                wire_mb_per_s=round(sum(map(len, raws)) / spread.median / 1e6),
                cpu_us_per_message=round(spread.median / messages * 1e6, 3),
            )
        report.ratios[f"columnar_vs_per_message_{name}"] = medians["per message"] / medians["columnar"]
    return report


def _check(raws: list[bytes]) -> None:
    """Both must have done the same work."""
    ours, (theirs, ack_ids) = wire.decode(raws), per_message(raws)
    # A map's entries have no order, so they are compared as dictionaries.
    rows, expected = ours.rows.to_pylist(maps_as_pydicts="strict"), theirs.to_pylist(maps_as_pydicts="strict")
    if rows != expected or ours.ack_ids.to_pylist() != ack_ids:
        raise AssertionError("the two decoders disagree")


if __name__ == "__main__":
    main(run, seconds=3)
