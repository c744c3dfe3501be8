"""All commands in one application, and what becomes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from penstock.cli import FAILURE, INTERRUPTED, USAGE
from penstock.cli.look import status, tail, version
from penstock.cli.start import demo, emulator, serve
from penstock.errors import CallerError, PenstockError

app = App(
    name="penstock",
    help="Google Cloud Pub/Sub to Apache Spark as sealed, replayable Arrow batches.",
    help_epilogue="Exit codes: 0 done, 1 failed, 2 arguments or settings must change, 130 Ctrl-C.",
    version_flags=(),
    result_action="return_value",
)
for command in (serve, demo, emulator, tail, status, version):
    app.command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command; errors become one readable line and an exit code."""
    try:
        code = app(
            list(arguments),
            exit_on_error=False,
            print_error=True,
            error_console=Console(stderr=True),
        )
    except CycloptsError:
        return USAGE
    except CallerError as error:
        return _said(error, USAGE)
    except PenstockError as error:
        return _said(error, FAILURE)
    except OSError as error:
        return _said(error, FAILURE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _said(error: Exception, code: int) -> int:
    print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
    return code
