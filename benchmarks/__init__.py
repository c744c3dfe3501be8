"""Benchmarks: one module per question, `python -m benchmarks.NAME [--seconds S] [--json PATH]`.

All of them, one after another: `python -m benchmarks`.

What they share: `harness` (arguments, table, JSON, medians), `children` (processes with an owner and their CPU),
`messages` and `firehose` (a Pub/Sub server whose responses are encoded beforehand, so that it is not the limit).
Both arms of a comparison get the same server, cores, message sizes and number of processes, and take turns, because
the machine's speed drifts. Nothing here is a test: figures differ by machine and hour, promises do not.
"""
