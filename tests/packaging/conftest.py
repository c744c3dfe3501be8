from __future__ import annotations

import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements-dev.lock"
INSTALL_S = 600


def pinned(text: str) -> list[str]:
    """The entries of a lock file, `name==version; marker` each, without hashes."""
    return [line.removesuffix("\\").strip() for line in text.splitlines() if re.match(r"\w", line)]


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    def python(self, code: str, timeout_s: float = 60) -> str:
        """What the code prints. It runs outside of the repository, so that only the installed packages are there."""
        return subprocess.run(
            [self.program("python"), "-I", "-W", "error", "-c", code],
            cwd=self.folder,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            timeout=timeout_s,
        ).stdout


@pytest.fixture(scope="session")
def given_wheel(request: pytest.FixtureRequest) -> Path:
    wheel: Path | None = request.config.getoption("--wheel")
    if wheel is None:
        pytest.skip("needs --wheel FILE, as in .ci/run")
    return wheel


@pytest.fixture(scope="session")
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The given wheel, or one built now."""
    given: Path | None = request.config.getoption("--wheel")
    if given is not None:
        return given
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=120, capture_output=True)
    return next(folder.glob("*.whl"))


def _installed(folder: Path, wanted: str) -> Environment:
    venv.create(folder, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pinned(LOCK.read_text())))
    environment = Environment(folder)
    pip = [environment.program("python"), "-m", "pip", "install", "--quiet", "-c", str(constraints), wanted]
    subprocess.run(pip, check=True, timeout=INSTALL_S, cwd=folder)
    return environment


@pytest.fixture(scope="session")
def base_install(given_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return _installed(tmp_path_factory.mktemp("base"), str(given_wheel))


@pytest.fixture(scope="session")
def daemon_install(given_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return _installed(tmp_path_factory.mktemp("daemon"), f"{given_wheel}[daemon]")
