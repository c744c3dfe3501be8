"""The daemon and the query under fire: started, killed, paused and started again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from tests.chaos import query
from tests.processes import Daemon, Site


class DaemonUnderFire:
    """`penstock serve`, started anew whenever it is gone; always on the same port."""

    def __init__(self, site: Site, flags: tuple[str, ...]) -> None:
        self._site = site
        self._flags = flags
        self._daemon: Daemon = site.serve(*flags)
        self.port = self._daemon.port
        self.starts = 1
        self.refused_starts = 0

    @property
    def anonymous_mb(self) -> float:
        """RssAnon; 0 while it is gone."""
        try:
            status = Path(f"/proc/{self._daemon.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return 0.0
        found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
        return int(found[0].split()[1]) / 1024 if found else 0.0

    @property
    def open_files(self) -> int:
        """Descriptors: files, connections, and what the event loop has; 0 while it is gone."""
        try:
            return len(list(Path(f"/proc/{self._daemon.process.pid}/fd").iterdir()))
        except OSError:
            return 0

    def ensure(self, *, may_refuse: bool = False) -> None:
        """Start it if it is gone. `may_refuse`: as on a full disk; then it is tried again, as a supervisor does."""
        if self._daemon.process.poll() is None:
            return
        self.starts += 1
        try:
            self._daemon = self._site.serve(*self._flags, port=self.port)
        except AssertionError:  # it ended by itself; its log says why
            if not may_refuse:
                raise
            self.refused_starts += 1

    def kill(self) -> None:
        """-9."""
        self._daemon.process.kill()
        self._daemon.process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._daemon.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._daemon.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """SIGTERM; its exit code after the drain."""
        return self._daemon.end()

    @property
    def daemon(self) -> Daemon:
        """The one that runs now."""
        return self._daemon


class QueryUnderFire:
    """The Spark driver of both queries with its JVM and its Python workers; started anew whenever it ended."""

    def __init__(self, folder: Path, endpoint: str, rng: random.Random) -> None:
        self.out = folder / "out"
        self.out.mkdir()
        self._at_work = folder / "at-work"
        self._arguments = [sys.executable, "-m", query.__name__, endpoint, str(folder)]
        self._log = folder / "query.log"
        self._rng = rng
        self._process = self._start()
        self.starts = 1

    @property
    def at_work(self) -> bool:
        """Whether both queries have had rows since it was started."""
        try:
            return int(self._at_work.read_text() or 0) == self._process.pid and self._process.poll() is None
        except FileNotFoundError:
            return False

    def ensure(self) -> None:
        """Start it if it has ended: some faults end a query, and its owner starts it again."""
        if self._process.poll() is not None:
            self._kill_all()
            self.starts += 1
            self._process = self._start()

    def kill(self) -> None:
        """-9 for the driver, its JVM and its workers at once."""
        self._kill_all()
        self._process.wait()

    def workers(self) -> list[psutil.Process]:
        """Python workers that run, and what they are forked from."""
        return [
            process
            for process in self._tree()
            if process.pid != self._process.pid and "python" in _name(process) and not _is_source(process)
        ]

    def kill_worker(self) -> None:
        """-9 for one Python worker."""
        if workers := self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                self._rng.choice(workers).kill()

    def pause(self) -> None:
        """SIGSTOP for all of them."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def go_on(self) -> None:
        """SIGCONT for all of them."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def numbers(self) -> list[list[int]]:
        """The numbers in each batch of the sink."""
        return [json.loads(path.read_text()) for path in sorted(self.out.glob("*.json"))]

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._arguments, stdout=log, stderr=log, start_new_session=True)

    def _kill_all(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


def _is_source(process: psutil.Process) -> bool:
    """The driver's own reader: killing it ends the query, which is another fault."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("python_streaming_source_runner" in argument for argument in process.cmdline())
    return True
