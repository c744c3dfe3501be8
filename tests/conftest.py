"""What all tests share: the option `--wheel`, and the marker of tests that start a Spark."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--wheel",
        type=lambda text: Path(text).resolve(strict=True),
        help="a built wheel, to be installed and tried in fresh environments (needs a package index)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS / "spark"):
            item.add_marker("spark")
