"""The daemon's own figures as Prometheus metrics, read at the moment of the scrape: nothing is kept twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class BudgetFigures(Protocol):
    """What is read of the memory budget."""

    @property
    def limit_bytes(self) -> int:
        """The limit."""

    @property
    def used_bytes(self) -> int:
        """All that counts against it now."""


@dataclass(frozen=True)
class _Figure:
    """One metric per subscription: `path` leads to its value in the subscription's figures."""

    name: str
    help_text: str
    path: tuple[str, ...]
    counts: bool = False

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The value; None when there is none now. True and texts count as 1, collections by their length."""
        found: Any = figures
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, str):
            return float(bool(found))
        if isinstance(found, (Mapping, list, tuple)):
            return float(len(found))
        return None if found is None else float(found)


_FIGURES = (
    _Figure("received_messages", "Messages received", ("received",), counts=True),
    _Figure("received_bytes", "Bytes of responses received", ("pull", "bytes"), counts=True),
    _Figure("recovered_messages", "Messages in batches that data_dir had at the start", ("recovered",), counts=True),
    _Figure("acknowledged_messages", "Messages whose acknowledgement was confirmed", ("acknowledged",), counts=True),
    _Figure("acks_lost_messages", "Messages whose acknowledgement failed for good", ("acks_lost",), counts=True),
    _Figure("released_messages", "Messages given back at once", ("released",), counts=True),
    _Figure("lapsed_messages", "Unsealed messages whose lease ran out", ("lapsed",), counts=True),
    _Figure("known_messages", "Redeliveries of processed messages, acknowledged again", ("known",), counts=True),
    _Figure("duplicate_messages", "Messages that repeated a processed row (dedupe)", ("duplicates",), counts=True),
    _Figure("duplicates_pending", "Messages that repeat a row that is held", ("duplicates_pending",)),
    _Figure("dead_lettered_messages", "Messages published to the dead-letter topic", ("dead_lettered",), counts=True),
    _Figure("dead_letters_pending", "Dead letters that are not confirmed yet", ("dead_letters_pending",)),
    _Figure("unaccounted_messages", "Anything but 0 is a defect: see `status`", ("accounting", "unaccounted")),
    _Figure("renewed_messages", "Redeliveries of held messages, which got the new ack ID", ("renewed",), counts=True),
    _Figure("pull_responses", "Responses received", ("pull", "responses"), counts=True),
    _Figure("pull_reconnects", "Pull streams opened again", ("pull", "reconnects"), counts=True),
    _Figure("ack_requests", "Acknowledge and ModifyAckDeadline requests", ("acks", "requests"), counts=True),
    _Figure("ack_ids_extended", "Ack IDs whose lease was extended", ("acks", "extended"), counts=True),
    _Figure("pull_streams", "Pull streams now", ("pull", "streams")),
    _Figure("acks_pending", "Ack IDs not confirmed yet, of every kind", ("acks", "pending")),
    _Figure("buffered_rows", "Rows that no batch has taken", ("buffered",)),
    _Figure("buffered_bytes", "Bytes of rows that no batch has taken", ("buffered_bytes",)),
    _Figure("batch_rows", "Rows in batches, acks not confirmed yet included", ("in_batches",)),
    _Figure("batches_sealed", "Batches sealed and not committed", ("batches",)),
    _Figure("batches_pending", "Batches committed whose acks are not confirmed yet", ("batches_pending",)),
    _Figure("batches_spilled", "Batches that are in temporary files", ("batches_spilled",)),
    _Figure("spilled_bytes", "Bytes of batches that are in temporary files", ("spilled_bytes",)),
    _Figure("oldest_unsealed_age_seconds", "Age of the oldest row that no batch has taken", ("oldest_age_s",)),
    _Figure("used_bytes", "Bytes that count against the budget", ("used_bytes",)),
    _Figure("share_bytes", "Bytes of the budget that are guaranteed", ("share_bytes",)),
    _Figure("paused", "1 while pulling stands still", ("paused",)),
    _Figure("failed", "1 while the subscription cannot be pulled", ("failed",)),
    _Figure("consumers", "Consumers known", ("consumers",)),
    _Figure("claims", "Slices dealt to Spark's tasks as the host of a plan", ("claims",), counts=True),
    _Figure("claims_local", "Of these, slices on the node beside their task", ("claims_local",), counts=True),
    *(
        _Figure(f"{call}_breaker_open", f"1 while {what} fail and only probes are made", ("breakers", call, "open"))
        for call, what in (
            ("pull", "pull streams"),
            ("acknowledge", "acknowledgements"),
            ("modify", "lease extensions"),
            ("publish", "dead letters"),
        )
    ),
)

_STORAGE_FIGURES = (
    _Figure("storage_segments", "Files of rows in the data_dir", ("segments",)),
    _Figure("storage_segment_written_bytes", "Bytes of rows written", ("segment_bytes_written",), counts=True),
    _Figure("storage_journal_bytes", "Bytes of decisions in the journal", ("journal_bytes",)),
    _Figure("storage_journal_written_bytes", "Bytes of decisions written", ("journal_bytes_written",), counts=True),
    _Figure("storage_full", "1 while the data_dir cannot be written to", ("problem",)),
)

_SPILL_FIGURES = (
    _Figure("spill_batches", "Batches written to temporary files", ("batches",), counts=True),
    _Figure("spill_written_bytes", "Bytes of rows written to temporary files", ("bytes_written",), counts=True),
    _Figure("spill_files", "Temporary files of rows", ("files",)),
    _Figure("spill_full", "1 while the spill_dir cannot be written to", ("problem",)),
)

_TOPIC_FIGURES = (
    _Figure("published_messages", "Messages that were published, each confirmed", ("messages",), counts=True),
    _Figure("published_bytes", "Bytes of their requests, before compression", ("bytes",), counts=True),
    _Figure("publish_requests", "Publish requests that were confirmed", ("requests",), counts=True),
    _Figure("publish_in_flight_requests", "Publish requests not confirmed yet", ("in_flight_requests",)),
    _Figure("publish_in_flight_messages", "Messages in them", ("in_flight_messages",)),
    _Figure("topic_breaker_open", "1 while publishing fails and only probes are made", ("breaker", "open")),
)

_OUTLET_FIGURES = (
    _Figure("publish_writes", "Writes under way", ("writes",)),
    _Figure("publish_held_bytes", "Bytes of rows taken from writers and not confirmed yet", ("held_bytes",)),
)

_ABSENT_IS_ZERO = frozenset({"paused", "failed", "oldest_unsealed_age_seconds"})


class DaemonCollector(Collector):
    """Asks for the figures once per scrape."""

    def __init__(
        self,
        figures: Callable[[], Mapping[str, Mapping[str, Any]]],
        budget: Callable[[], BudgetFigures],
        storage: Callable[[], Mapping[str, Any] | None] = lambda: None,
        spill: Callable[[], Mapping[str, Any] | None] = lambda: None,
        publishing: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._publishing = publishing
        self._figures = figures
        self._budget = budget
        self._rooms = ((storage, _STORAGE_FIGURES), (spill, _SPILL_FIGURES))

    def collect(self) -> Iterable[Metric]:
        """All metrics, those of the budget first."""
        budget = self._budget()
        yield GaugeMetricFamily("penstock_budget_limit_bytes", "Bytes that all buffers may use", budget.limit_bytes)
        yield GaugeMetricFamily("penstock_budget_used_bytes", "Bytes that all buffers use", budget.used_bytes)
        for ask, known in self._rooms:
            if (said := ask()) is not None:
                for figure in known:
                    kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
                    yield kind(f"penstock_{figure.name}", figure.help_text, figure.value(said) or 0.0)
        yield from _labelled(_FIGURES, "subscription", self._figures())
        if publishing := self._publishing():
            for figure in _OUTLET_FIGURES:
                yield GaugeMetricFamily(f"penstock_{figure.name}", figure.help_text, figure.value(publishing) or 0.0)
            yield from _labelled(_TOPIC_FIGURES, "topic", publishing["topics"])
            yield _latency(publishing["topics"])


def _labelled(figures: Iterable[_Figure], label: str, found: Mapping[str, Mapping[str, Any]]) -> Iterable[Metric]:
    """One metric each, with a value for every subscription or topic."""
    for figure in figures:
        kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
        family = kind(f"penstock_{figure.name}", figure.help_text, labels=[label])
        for name, values in found.items():
            value = figure.value(values)
            if value is None and figure.name in _ABSENT_IS_ZERO:
                value = 0.0
            if value is not None:
                family.add_metric([name], value)
        yield family


def _latency(topics: Mapping[str, Mapping[str, Any]]) -> Metric:
    """How long confirmed calls took."""
    family = HistogramMetricFamily("penstock_publish_seconds", "From a Publish call to its answer", labels=["topic"])
    for name, figures in topics.items():
        family.add_metric([name], figures["latency"], figures["took_s"])
    return family
