"""One line per event, in a form that people or machines read."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import structlog
from prometheus_client import CollectorRegistry

from penstock.settings import LogSettings
from penstock.telemetry import REGISTRY, Count, Event, ProcessCollector, logs
from penstock.telemetry.process import memory_bytes

_registry = CollectorRegistry()


@dataclass(frozen=True, kw_only=True)
class RowsMoved(Event):
    """For this test."""

    level = "warning"
    counter: ClassVar = Count("rows_moved", "Rows moved", ("place",), _registry)
    place: str
    rows: int
    error: str | None = None

    @property
    def amount(self) -> float:
        return self.rows


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, google = logging.getLogger(), logging.getLogger("google")
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in (root, google)]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
    structlog.reset_defaults()


def test_an_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"))
    RowsMoved(place="here", rows=3, error="first\nsecond").emit()
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said.pop("timestamp").endswith("Z")
    assert said == {"event": "rows moved", "level": "warning", "place": "here", "rows": 3, "error": "first\nsecond"}


def test_an_event_is_one_line_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="console"))
    RowsMoved(place="here", rows=3, error="first\nsecond").emit()
    (line,) = capsys.readouterr().err.splitlines()
    assert "rows moved" in line
    assert "rows=3" in line


def test_an_event_counts_what_it_says_even_below_the_log_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(level="error"))
    before = _registry.get_sample_value("penstock_rows_moved_total", {"place": "there"}) or 0
    RowsMoved(place="there", rows=4).emit()
    assert _registry.get_sample_value("penstock_rows_moved_total", {"place": "there"}) == before + 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_libraries_speak_through_the_same_lines_when_something_is_wrong(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    logs.configure(LogSettings.model_validate({"format": form}))
    logging.getLogger("aiohttp.server").info("a request")
    logging.getLogger("google.auth").warning("no %s", "credentials")
    (line,) = capsys.readouterr().err.splitlines()
    assert "no credentials" in line
    if form == "json":
        assert json.loads(line)["level"] == "warning"


def test_a_traceback_of_a_library_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="json"))
    try:
        raise ValueError("deep")
    except ValueError:
        logging.getLogger("asyncio").exception("a task failed")
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["event"] == "a task failed"
    assert said["exception"][0]["exc_value"] == "deep"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables_which_may_be_messages(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    logs.configure(LogSettings.model_validate({"format": form}))
    message = "etavirp"[::-1]  # the traceback shows this line
    try:
        raise ValueError(len(message))
    except ValueError:
        logging.getLogger("asyncio").exception("a task failed")
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert "private" not in said


def test_every_event_of_the_daemon_has_a_level_that_the_log_knows() -> None:
    from penstock.telemetry import events

    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    assert len(kinds) > 5
    assert {kind.level for kind in kinds} <= {"debug", "info", "warning", "error"}
    assert all(kind.__doc__ for kind in kinds)


def test_every_counter_takes_its_labels_from_fields_of_its_event() -> None:
    from penstock.telemetry import events

    for kind in vars(events).values():
        if isinstance(kind, type) and issubclass(kind, Event) and kind.counter is not None:
            assert set(kind.counter.labels) <= set(kind.__dataclass_fields__), kind.__name__


def test_all_metrics_carry_the_name_of_the_project() -> None:
    names = [metric.name for metric in (*REGISTRY.collect(), *ProcessCollector().collect())]
    assert names
    assert all(name.startswith("penstock_") for name in names)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_told_by_kind() -> None:
    sizes = memory_bytes()
    assert set(sizes) == {"resident", "anonymous", "file", "shared"}
    assert sizes["resident"] == pytest.approx(sum(sizes[kind] for kind in ("anonymous", "file", "shared")), rel=0.05)


def test_the_log_quietens_grpc_unless_the_environment_says_otherwise() -> None:
    code = (
        "import os; from penstock.settings import LogSettings; from penstock.telemetry import logs;"
        "logs.configure(LogSettings()); print(os.environ['GRPC_VERBOSITY'])"
    )
    for environment, expected in (({}, "ERROR"), ({"GRPC_VERBOSITY": "DEBUG"}, "DEBUG")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip() == expected
