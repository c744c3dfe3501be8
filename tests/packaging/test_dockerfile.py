"""What the Dockerfile runs, run here: its steps and what it starts. The image around them needs an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from tests.packaging.conftest import INSTALL_S, ROOT
from tests.processes import free_port, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(INSTALL_S)]


def stages() -> list[list[tuple[str, str]]]:
    """Instruction and arguments of each line, stage by stage; comments are left out and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.split(maxsplit=1) for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if line.strip()]
    found: list[list[tuple[str, str]]] = []
    for instruction, arguments in lines:
        if instruction == "FROM":
            found.append([])
        if found:
            found[-1].append((instruction, arguments))
    return found


def given(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [arguments for name, arguments in stage if name == instruction]


def run(command: str, source: Path, wheels: Path, path: str) -> None:
    """A `RUN`, with the folder of the build stage's wheels elsewhere, and no user added to this machine."""
    here = re.sub(r"--mount=\S+ |&& useradd .*", "", command).replace("/wheels", str(wheels))
    subprocess.run(["bash", "-ec", here], check=True, cwd=source, env={**os.environ, "PATH": path})


def test_its_steps_make_a_daemon_that_is_healthy_and_ends_at_sigterm(tmp_path: Path) -> None:
    build, final = stages()
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    wheels.mkdir()
    for arguments in given(build, "COPY"):
        *names, target = arguments.split()
        for name in names:
            path = source / target / name if target.endswith("/") else source / target
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, path)
    venv.create(tmp_path / "python", with_pip=True)
    programs = f"{tmp_path / 'python' / 'bin'}:{os.environ['PATH']}"
    for stage in (build, final):
        for command in given(stage, "RUN"):
            run(command, source, wheels, programs)

    (user,), (entry,), (arguments,) = (given(final, name) for name in ("USER", "ENTRYPOINT", "CMD"))
    assert int(user) > 0, "no root"
    settings = dict(setting.split("=", 1) for line in given(final, "ENV") for setting in line.split())
    http = free_port()
    here = {"PENSTOCK_LISTEN": "grpc://127.0.0.1:0", "PENSTOCK_HTTP": f"127.0.0.1:{http}"}
    nowhere = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:9"}
    (checked,) = given(final, "HEALTHCHECK")
    check = json.loads(checked.partition("CMD")[2].replace("9464", str(http)))
    environment = {"PATH": programs, **settings, **here, **nowhere}
    daemon = subprocess.Popen([*json.loads(entry), *json.loads(arguments)], cwd=tmp_path, env=environment)
    try:
        until(lambda: subprocess.run(check, check=False, capture_output=True, env=environment).returncode == 0, 60)
        daemon.terminate()
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()
