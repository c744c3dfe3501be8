"""How log lines look and where they go: standard error, one line per event."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from penstock.settings import LogSettings

FOREIGN_LEVEL = logging.WARNING
"""Libraries (aiohttp, google.auth, grpc) speak through our lines, and only when something is wrong."""

_TRACEBACK = ExceptionDictTransformer(show_locals=False)
"""Local variables would be messages and credentials."""


def configure(settings: LogSettings) -> None:
    """Send our events and the standard library's logging to standard error. To be called once, by the CLI.

    Before grpc is imported: its native part writes lines of its own shape, which only the environment can quieten.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor]
    if settings.format == "json":
        last = [structlog.processors.ExceptionRenderer(_TRACEBACK), structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        last = [_on_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[shared[0], *shared[2:], *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        # Events bind to the logger at import, before this runs.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, FOREIGN_LEVEL))
    # Google's libraries cut their logger off from the root when they are imported; this way it ends here all the same.
    google = logging.getLogger("google")
    google.handlers, google.propagate = [handler], False


def _on_one_line(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    """Errors of other programs have line breaks; a line of ours has none (tracebacks apart, which follow it)."""
    return {
        key: value.replace("\n", "\\n") if isinstance(value, str) and key != "exception" else value
        for key, value in fields.items()
    }
