"""Hosts on a disk and on tmpfs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.storage.making import Host

from penstock.storage import folder


@pytest.fixture(params=["disk", "tmpfs"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """On what the test's folder is, and what it is taken for."""
    monkeypatch.setattr(folder, "_filesystem", lambda _path: "ext4" if request.param == "disk" else "tmpfs")
    return Host(tmp_path / "data")
