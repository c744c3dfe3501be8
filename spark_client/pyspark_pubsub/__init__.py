"""The Spark data source `pubsub`: `spark.readStream.format("pubsub")` and its sink, found without registration.

Options and Spark's calls enter, offsets for the checkpoint and Arrow batches leave. Knows Spark's Python Data Source
API and `penstock.client`; must not know how daemons or Pub/Sub work.

Spark imports every top-level module named `pyspark_*` with no try/except whenever it looks a format up, so this import
stays light: what needs Arrow Flight is imported when a query starts.
"""

from pyspark_pubsub.keys import by_ordering_key
from pyspark_pubsub.source import DefaultSource

__all__ = ["DefaultSource", "by_ordering_key"]
