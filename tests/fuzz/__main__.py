"""`make fuzz`: the tests of this folder with as many examples as there is time for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from tests.fuzz.examples import LONG

EXAMPLES = 5000
"""Some ten minutes on one core."""


def main() -> int:
    """Run; what pytest answers."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"of each test (default: {EXAMPLES})")
    given, rest = parser.parse_known_args()
    # Not derandomized, where CI is: a long run is for what was not seen yet.
    settings.register_profile(LONG, max_examples=given.examples, derandomize=False, print_blob=True, deadline=None)
    settings.load_profile(LONG)
    # The profile must be there before pytest imports the tests, so hypothesis is there before pytest can rewrite it.
    warned = "ignore::pytest.PytestAssertRewriteWarning"
    return int(pytest.main([str(Path(__file__).parent), "--timeout=0", "-W", warned, *rest]))


if __name__ == "__main__":
    sys.exit(main())
