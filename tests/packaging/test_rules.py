"""Rules of the repository that no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.packaging.conftest import LOCK, ROOT, pinned

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def test_the_lock_file_has_names_versions_and_hashes_only() -> None:
    text = LOCK.read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links|@ ", text)
    entries = re.split(r"\n(?=\w)", text.strip())
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def test_the_lock_file_has_everything_that_the_project_names() -> None:
    named = {
        _name(requirement) for extra in PROJECT["project"]["optional-dependencies"].values() for requirement in extra
    }
    named |= {_name(requirement) for requirement in PROJECT["project"]["dependencies"]}
    locked = {_name(entry) for entry in pinned(LOCK.read_text())}
    assert named - {"penstock"} <= locked


def test_everything_imported_is_named_by_the_project() -> None:
    named = {_name(text) for texts in PROJECT["project"]["optional-dependencies"].values() for text in texts}
    named |= {"penstock", "pyspark-pubsub", "pyarrow", "tests", "benchmarks"} | sys.stdlib_module_names
    # Import names that are not the distribution's.
    other = {"google": "google-cloud-pubsub", "grpc": "grpcio", "pydantic_core": "pydantic"}
    imported = {
        module
        for folder in ("daemon", "spark_client", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in _modules(node)
    }
    assert {
        module for module in imported if module not in named and _name(other.get(module, module)) not in named
    } == set()


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module.split(".")[0]]
    return []


def test_the_changelog_speaks_of_the_version() -> None:
    assert f"## {PROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_source_roots_are_no_packages() -> None:
    """A top-level package called `daemon` would shadow python-daemon."""
    assert not (ROOT / "daemon" / "__init__.py").exists()
    assert not (ROOT / "spark_client" / "__init__.py").exists()


def test_every_room_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for root in ("daemon/penstock", "spark_client/pyspark_pubsub")
        for path in (ROOT / root).rglob("__init__.py")
        if not path.read_text().startswith('"""')
    ]
    assert silent == []


def test_only_the_rooms_that_carry_a_library_import_it() -> None:
    """import-linter cannot tell `pyarrow.flight` from `pyarrow`."""
    allowed = {
        r"pyarrow\.flight": ("client", "flight"),
        r"(import|from) (grpc|google)\b": ("pubsub", "emulator", "demo"),
        r"(import|from) ptars\b": ("pubsub", "emulator"),
        r"(import|from) aiohttp\b": ("http", "emulator"),
        r"(import|from) cyclopts\b": ("cli",),
    }
    package = ROOT / "daemon" / "penstock"
    for pattern, rooms in allowed.items():
        found = {
            path.relative_to(package).parts[0]
            for path in package.rglob("*.py")
            if re.search(rf"^\s*(import|from) .*{pattern}|^\s*{pattern}", path.read_text(), re.MULTILINE)
        }
        assert found <= set(rooms), pattern


def test_a_machine_without_java_is_told_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", str(ROOT / ".ci" / "machine"), sys.executable],
        env={"PATH": "/usr/bin:/bin", "JAVA_HOME": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "Java 17 or later" in done.stderr


def test_a_machine_with_an_old_java_is_told_what_to_install(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(ROOT / ".ci" / "machine"), sys.executable],
        env={"PATH": "/usr/bin:/bin", "JAVA_HOME": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "is version 11" in done.stderr
