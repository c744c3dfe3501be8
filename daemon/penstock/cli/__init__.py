"""The command `penstock`: arguments enter, an exit code leaves.

Exit codes: 0 all is well; 1 it failed (the last line on standard error says why); 2 arguments or settings are wrong;
130 ended by Ctrl-C. Rooms are imported when a command needs them, so that `penstock version` is quick and `tail` needs
no daemon beside it. The only room that imports `emulator` and `demo`; it must not know how anything works inside.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        from penstock.cli.app import dispatch  # noqa: PLC0415 - a base installation has the client only
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("penstock"):
            raise
        print(f"The command penstock needs {error.name}: pip install 'penstock[daemon]'", file=sys.stderr)
        return WRONG_USAGE
    return dispatch(sys.argv[1:] if arguments is None else list(arguments))
