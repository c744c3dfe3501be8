"""What the process uses: memory, CPU, the garbage collector. Linux; elsewhere what there is."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATUS = Path("/proc/self/status")
_MEMORY = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}


class ProcessCollector(Collector):
    """Reads the figures when asked for."""

    def collect(self) -> Iterable[Metric]:
        """Memory by kind, CPU seconds, collections by generation."""
        memory = GaugeMetricFamily("penstock_process_memory_bytes", "Memory of the process", labels=["kind"])
        for kind, size_bytes in memory_bytes().items():
            memory.add_metric([kind], size_bytes)
        yield memory
        yield CounterMetricFamily("penstock_process_cpu_seconds", "CPU time of the process", time.process_time())
        collections = CounterMetricFamily("penstock_gc_collections", "Runs of the collector", labels=["generation"])
        for generation, figures in enumerate(gc.get_stats()):
            collections.add_metric([str(generation)], figures["collections"])
        yield collections


def memory_bytes() -> dict[str, int]:
    """Resident memory by kind: resident, anonymous, file, shared. Empty where `/proc` has no such file."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    return {kind: int(named[name].split()[0]) << 10 for name, kind in _MEMORY.items() if name in named}
