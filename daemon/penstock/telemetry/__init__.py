"""Named operational events: each is one log line and, where it counts something, one metric.

Events enter through `Event.emit`; log lines leave on standard error, figures through the Prometheus registry
`REGISTRY`. The room must not know who emits or who scrapes, and nothing here is called once per message.
"""

from penstock.telemetry.event import REGISTRY, Count, Event
from penstock.telemetry.process import ProcessCollector

__all__ = ["REGISTRY", "Count", "Event", "ProcessCollector"]
