"""The command `penstock`: arguments enter, an exit code leaves.

Every command is a thin one: it turns arguments into the settings of a room, and calls that room. Rooms are imported by
the commands that need them, so that `penstock version` loads no gRPC and `penstock tail` no daemon. Nothing imports
this room.

Exit codes: 0 done; 1 a failure, said in one line on standard error; 2 arguments or settings that must change; 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

OK = 0
FAILURE = 1
USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        from penstock.cli.run import run  # noqa: PLC0415 - the base install has no cyclopts
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("penstock"):
            raise
        print(  # noqa: T201
            f"penstock: the command line needs {error.name}, which comes with: pip install 'penstock[daemon]'", file=sys.stderr
        )
        return FAILURE
    return run(sys.argv[1:] if arguments is None else arguments)
