"""Every scenario twice: on Google's fake Pub/Sub, which nobody here wrote, and on Penstock's emulator.

The fake is built once, by the Go toolchain, into the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.pubsub_v1 import PublisherClient, SubscriberClient
from tests.peers.servers import Embedded, Peer, Pstest
from tests.processes import TOPIC

SOURCE = Path(__file__).parent / "pstest"

BUILD_S = 540.0
"""A cold build fetches and compiles gRPC: minutes on a loaded machine. Tests that need it may take as long."""


@pytest.fixture(scope="session")
def pstest_binary() -> Path:
    # Go's own installer puts it there and leaves the PATH to the user.
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/go/bin"]))
    if go is None:
        pytest.skip("pstest, Google's fake Pub/Sub, cannot be built: the Go toolchain is not installed")
    sources = b"".join((SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-tests"
    binary = cache / f"pstest-{hashlib.sha256(sources).hexdigest()[:16]}"
    if not binary.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = binary.with_suffix(f".{os.getpid()}")
        try:
            subprocess.run([go, "build", "-o", fresh, "."], cwd=SOURCE, check=True, timeout=BUILD_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            if os.environ.get("CI"):
                pytest.fail(f"pstest, Google's fake Pub/Sub, could not be built where Go is installed: {error}")
            pytest.skip(f"pstest, Google's fake Pub/Sub, could not be built: {error}")
        fresh.replace(binary)  # whole or not at all, also when two runs build at once
    return binary


@pytest.fixture(params=[pytest.param("pstest", marks=pytest.mark.timeout(BUILD_S + 60)), "emulator"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which server."""
    return str(request.param)


@pytest.fixture
def stream_close_after_s() -> float:
    """The age at which the server ends a pull stream, 0 for never; a test's own parameter overrides it."""
    return 0.0


@pytest.fixture
def peer(
    kind: str,
    stream_close_after_s: float,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Peer]:
    """A server with a topic and no subscription."""
    with (
        Pstest(request.getfixturevalue("pstest_binary"), stream_close_after_s)
        if kind == "pstest"
        else Embedded(tmp_path, stream_close_after_s) as server
    ):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server.address)
        with PublisherClient() as publisher, SubscriberClient() as subscriber:
            publisher.create_topic(name=TOPIC)
            with Peer(tmp_path, server.address, server, publisher, subscriber) as peer:
                yield peer
