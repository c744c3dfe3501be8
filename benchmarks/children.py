"""Child processes with an owner: they end with the benchmark, and their CPU time is known.

A child speaks in lines of JSON on standard output: `{"ready": …}` when it serves, `{"begin": …}` and `{"end": …}`
around what it measures. What it writes to standard error goes to a file that is shown when it fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

END_WAIT_S = 10.0
READY_WAIT_S = 60.0
EVENT_WAIT_S = 180.0
"""Spark takes its time to start, the more so on two busy cores."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildFailed(RuntimeError):
    """A child ended early or said nothing; the message has its last words."""


class Child:
    """One running `python -m …`."""

    def __init__(self, name: str, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**_ordinary(os.environ), **environment},
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no benchmark has threads yet
            )
        self._ps = psutil.Process(self.process.pid)

    def expect(self, event: str, timeout_s: float = EVENT_WAIT_S) -> Any:
        """The value of the next line that has this key. Raises `ChildFailed`; a silent child is killed first."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(timeout_s, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict) and event in said:
                        return said[event]
        finally:
            watchdog.cancel()
        self.process.wait(END_WAIT_S)
        raise self._failed(f"ended ({self.process.returncode}) before it said {event!r}")

    def wait_listening(self, port: int, timeout_s: float = READY_WAIT_S) -> None:
        """For children that say nothing: wait until the port answers. Raises `ChildFailed`."""
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            if self.process.poll() is not None or time.monotonic() > end:
                raise self._failed(f"does not listen on port {port}")
            time.sleep(0.05)

    def _failed(self, what: str) -> ChildFailed:
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        return ChildFailed(f"{self.name} {what}:\n{tail}")

    def cpu_s(self) -> float:
        """CPU seconds so far of the process itself."""
        times = self._ps.cpu_times()
        return float(times.user + times.system)

    def tree_cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by kind of process below it: a Spark driver's, its JVM's, its Python workers'."""
        found = {"driver": self.cpu_s(), "jvm": 0.0, "python workers": 0.0}
        for process in self._ps.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                if process.name() == "java":
                    found["jvm"] += times.user + times.system
                else:  # ended workers are counted by the one that forked them
                    found["python workers"] += times.user + times.system + times.children_user + times.children_system
        return found

    def anonymous_bytes(self) -> int:
        """RssAnon: what the process has for itself, without files and shared memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii", errors="replace")
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) << 10

    def end(self) -> None:
        """SIGTERM to it and what it started, a wait, SIGKILL."""
        if self.process.poll() is not None:
            return
        below = self._ps.children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_WAIT_S)
        for process in [*below, *([self._ps] if self.process.poll() is None else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


class Children:
    """All children of a benchmark. Made by `children`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[Child] = []

    def start(self, name: str, *arguments: str, **environment: str) -> Child:
        """Run `python -m arguments…`."""
        child = Child(name, list(arguments), self.folder / f"{len(self._all)}-{name}.log", environment)
        self._all.append(child)
        return child

    def new_folder(self) -> str:
        """An empty folder that goes with the benchmark's own."""
        return tempfile.mkdtemp(dir=self.folder)

    @contextlib.contextmanager
    def running(self, name: str, *arguments: str, **environment: str) -> Iterator[Child]:
        """One that ends with the block."""
        child = self.start(name, *arguments, **environment)
        try:
            yield child
        finally:
            child.end()

    def end(self) -> None:
        """End all, the last first."""
        for child in reversed(self._all):
            child.end()


@contextlib.contextmanager
def children() -> Iterator[Children]:
    """Children that end with the block, however it ends; their logs go with it."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        owned = Children(Path(folder))
        try:
            yield owned
        finally:
            owned.end()


class Meter:
    """CPU seconds of named processes between its making and `stop`."""

    def __init__(self, **watched: Child) -> None:
        self._watched = watched
        self._before = {name: child.cpu_s() for name, child in watched.items()}
        self._own = time.process_time()
        self._start = time.perf_counter()

    def stop(self) -> tuple[float, dict[str, float]]:
        """Wall seconds, and name → cores used on average; `bench` is this process."""
        seconds = time.perf_counter() - self._start
        used = {name: child.cpu_s() - self._before[name] for name, child in self._watched.items()}
        used["bench"] = time.process_time() - self._own
        return seconds, {f"{name}_cores": round(cpu / seconds, 2) for name, cpu in used.items()}


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(**event: Any) -> None:
    """For children: one line to the parent."""
    print(json.dumps(event), flush=True)


def _ordinary(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the switch that makes every Python process, and so every Spark worker, compile all it imports anew."""
    return {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _end_with_parent() -> None:
    """Have the kernel end the child when its parent is killed outright."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
