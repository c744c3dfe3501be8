"""What people install: the wheel, without and with the daemon."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Self

import pytest
from tests.packaging.conftest import INSTALL_S, Environment

# Not numpy: pyarrow itself imports it where it is installed.
HEAVY = ("aiohttp", "google", "grpc", "pydantic", "pyspark", "structlog", "uvloop")
SUBSCRIPTION, TOPIC = "projects/wheel/subscriptions/readings", "projects/wheel/topics/readings"


def test_the_wheel_holds_both_packages_with_their_type_markers_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"penstock/py.typed", "pyspark_pubsub/py.typed", "penstock/cli/app.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"penstock", "pyspark_pubsub"}
    assert not [name for name in names if "test" in name.lower() or "__pycache__" in name]


@pytest.mark.parametrize("what", ["penstock", "penstock.client", "pyspark_pubsub", "penstock.errors"])
def test_what_spark_imports_is_light(what: str) -> None:
    """Spark imports every module called `pyspark_*`, without a try: it must be quick and must not fail."""
    code = f"import sys, {what}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE, timeout=60)
    assert set(done.stdout.split()) <= ({"pyspark"} if what == "pyspark_pubsub" else set())


@pytest.mark.timeout(INSTALL_S)
def test_the_base_install_reads_without_the_daemons_libraries(base_install: Environment) -> None:
    code = f"""
import importlib.util, penstock
from penstock import Consumer
from penstock.client import NodeClient
from penstock.contract.actions import StatusRequest
print([name for name in {HEAVY} if importlib.util.find_spec(name)])
try:
    NodeClient("127.0.0.1:9").call("status", StatusRequest(v=1))
except penstock.errors.NodeUnreachable as error:
    print("says", error.code)
"""
    assert base_install.python(code).splitlines() == ["[]", "says NODE_UNREACHABLE"]


@pytest.mark.timeout(INSTALL_S)
def test_the_command_of_a_base_install_says_what_to_install(base_install: Environment) -> None:
    done = subprocess.run([base_install.program("penstock"), "version"], text=True, capture_output=True, timeout=60)
    assert done.returncode != 0
    assert "pip install 'penstock[daemon]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(INSTALL_S)
def test_a_message_goes_through_the_installed_daemon_and_is_acknowledged(
    daemon_install: Environment, tmp_path: Path
) -> None:
    with Command(daemon_install, tmp_path, "emulator", "--port", "0", "--http-port", "0") as emulator:
        address = emulator.wait_for("PUBSUB_EMULATOR_HOST=").split("PUBSUB_EMULATOR_HOST=")[1].split()[0]
        there = {"PUBSUB_EMULATOR_HOST": address}
        _module(daemon_install, "penstock.demo.topology", TOPIC, SUBSCRIPTION, **there)
        listen = ("--listen", "grpc://127.0.0.1:0", "--http", "127.0.0.1:0", "--subscription", SUBSCRIPTION)
        with Command(daemon_install, tmp_path, "serve", *listen, "--log-format", "json", **there) as daemon:
            line = daemon.wait_for('"serving"')
            port = line.split('"port": ')[1].split(",")[0]
            _module(daemon_install, "penstock.demo.publisher", "--topic", TOPIC, "--messages", "3", **there)
            tail = ("tail", SUBSCRIPTION, "--daemon", f"127.0.0.1:{port}", "--limit", "3", "--wait-s", "30", "--ack")
            command = [daemon_install.program("penstock"), *tail]
            shown = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, timeout=60)
            assert shown.stdout.count("message_id") == 3
            assert daemon.end() == 0
        assert emulator.end() == 0


def _module(environment: Environment, module: str, *arguments: str, **variables: str) -> None:
    command = [environment.program("python"), "-m", module, *arguments]
    subprocess.run(command, check=True, env={**os.environ, **variables}, cwd=environment.folder, timeout=60)


class Command:
    """A running `penstock` of an environment, ended with the block."""

    def __init__(self, environment: Environment, folder: Path, *arguments: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [environment.program("penstock"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **variables},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def wait_for(self, words: str, timeout_s: float = 60) -> str:
        """The output up to the end of the line with these words."""
        assert self._process.stdout is not None
        output, end = b"", time.monotonic() + timeout_s
        while words.encode() not in output or not output.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(end - time.monotonic(), 0))
            part = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            assert part, f"no {words!r} in: {output.decode()}"
            output += part
        return output.decode()

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)
