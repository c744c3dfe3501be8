"""Child processes with an owner: they end with the demo, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from penstock.errors import PenstockError

END_WAIT_S = 30.0
"""After SIGTERM a child has this long (a daemon drains for 20 s) before it is killed."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class DemoFailed(PenstockError):
    """A part of the demo did not do its work; the message has its last words."""

    code = "DEMO_FAILED"


class Child:
    """One running command and the file that takes its output."""

    def __init__(self, name: str, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                # A session of its own, so that Ctrl-C reaches the demo alone, which ends its children in order.
                start_new_session=True,
                # The demo starts its children before it has any thread.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def check(self) -> None:
        """Raise `DemoFailed` if it has ended with an error."""
        if self.process.poll() not in (None, 0):
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise DemoFailed(f"{self.name} ended with exit code {self.process.returncode}; its last lines:\n{tail}")

    def end(self) -> None:
        """SIGTERM, a wait, and SIGKILL if that did not do."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_WAIT_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Children:
    """All children of the demo. Ended in reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    def start(self, name: str, *arguments: str, **environment: str) -> Child:
        """Run `python -m arguments…`."""
        child = Child(name, list(arguments), self.folder / f"{name}.log", environment)
        self._children.append(child)
        return child

    def wait(self, child: Child, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready`. Raises `DemoFailed` when the child ends or the time is up."""
        end = time.monotonic() + timeout_s
        while not ready():
            child.check()
            if time.monotonic() > end:
                raise DemoFailed(f"{child.name} was not ready within {timeout_s:g} s; its output is in {child.log}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise `DemoFailed` if any child has failed."""
        for child in self._children:
            child.check()

    def end(self) -> None:
        """End all."""
        for child in reversed(self._children):
            child.end()


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """Children that end with the block; their logs go with it."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        owned = Children(Path(folder))
        try:
            yield owned
        finally:
            owned.end()


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _end_with_parent() -> None:
    """Have the kernel end the child when its parent is killed outright."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
