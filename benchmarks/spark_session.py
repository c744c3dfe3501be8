"""The local Spark of the benchmarks: two task threads, quiet, Spark's defaults otherwise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

TASK_THREADS = 2
KEPT_PROGRESS = 10_000
"""Every batch's progress is kept; by default Spark forgets all but the last 100."""


def session(warehouse: Path) -> SparkSession:
    """Start it."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    return (
        SparkSession.builder.master(f"local[{TASK_THREADS}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", str(TASK_THREADS))
        .config("spark.sql.streaming.numRecentProgressUpdates", str(KEPT_PROGRESS))
        .config("spark.sql.warehouse.dir", str(warehouse))
        .config("spark.log.level", "OFF")
        .getOrCreate()
    )
