"""A daemon for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.publish.site import Site, daemon


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with daemon(monkeypatch) as site:
        yield site
