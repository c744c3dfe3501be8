"""What a person at a terminal gets: help, one readable line for an error, an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from penstock.cli import main
from penstock.errors import InvalidOption, SubscriptionFailed
from penstock.settings import Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_ENDPOINT", raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `penstock serve` would run with."""
    from penstock import service
    from penstock.telemetry import logs

    runs: list[Settings] = []

    def run(settings: Settings) -> int:
        runs.append(settings)
        return 0

    monkeypatch.setattr(service, "run", run)
    monkeypatch.setattr(logs, "configure", lambda _settings: None)
    return runs


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == [version("penstock")] * 2


@pytest.mark.parametrize("command", ["serve", "emulator", "demo", "tail", "publish", "status", "settings", "version"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"penstock {command}" in said
    assert "default: ()" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"],
        ["serve", "--lisen", "x"],
        ["serve", "--log-format", "xml"],
        ["emulator", "--port", "99999"],
        ["demo", "--messages", "0"],
        ["tail"],
    ],
)
def test_wrong_usage_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


def test_flags_become_settings(served: list[Settings]) -> None:
    arguments = ["serve", "--subscription", "projects/p/subscriptions/a", "-s", "projects/p/subscriptions/b-*"]
    arguments += ["--listen", "grpc://127.0.0.1:0", "--http", "127.0.0.1:0", "--prefetch", "--memory-limit-mb", "64"]
    arguments += ["--drain-timeout-s", "1.5", "--log-format", "json", "--log-level", "debug"]
    arguments += ["--set", "pubsub.max_streams=4", "--set", "reservoir.high=0.8"]
    assert main(arguments) == 0
    (settings,) = served
    assert settings.subscriptions == ("projects/p/subscriptions/a", "projects/p/subscriptions/b-*")
    assert (settings.listen, settings.http, settings.prefetch) == ("grpc://127.0.0.1:0", "127.0.0.1:0", True)
    assert (settings.reservoir.memory_limit_mb, settings.reservoir.high, settings.pubsub.max_streams) == (64, 0.8, 4)
    assert (settings.drain_timeout_s, settings.log.format, settings.log.level) == (1.5, "json", "debug")


def test_without_flags_the_settings_below_stand(served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PREFETCH", "true")
    assert main(["serve"]) == 0
    assert served == [Settings(prefetch=True)]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("pubsub.max_streams", "ROOM.KEY=VALUE"),
        ("pubsub.max_streams=1000", "pubsub.max_streams = '1000'"),
        ("pubsub.max_stream=1", "did you mean max_streams"),
        ("listen.port=1", "listen"),
    ],
)
def test_a_wrong_setting_is_one_readable_line(
    served: list[Settings], capsys: pytest.CaptureFixture[str], flag: str, said: str
) -> None:
    assert main(["serve", "--set", flag]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("penstock: [INVALID_OPTION]")
    assert said in line
    assert not served


@pytest.mark.parametrize(
    ("error", "code"), [(SubscriptionFailed("gone"), 1), (InvalidOption("no"), 2), (KeyboardInterrupt(), 130)]
)
def test_the_exit_code_says_whose_fault_it_was(
    monkeypatch: pytest.MonkeyPatch, served: list[Settings], error: BaseException, code: int
) -> None:
    from penstock import service

    def fail(_settings: Settings) -> int:
        raise error

    monkeypatch.setattr(service, "run", fail)
    assert main(["serve"]) == code


def test_no_daemon_at_the_address_is_told_with_the_way_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 1 is privileged and taken by nobody.
    assert main(["status", "--daemon", "127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "127.0.0.1:1" in said
    assert "penstock serve" in said


def test_the_endpoint_of_the_environment_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_ENDPOINT", "127.0.0.1:1")
    assert main(["status"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_a_quick_command_loads_no_room() -> None:
    code = (
        "import sys; from penstock.cli import main; main(['version']);"
        "heavy = ('grpc', 'google.auth', 'pyspark', 'pydantic', 'pyarrow', 'penstock.emulator');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_base_installation_says_what_the_command_needs() -> None:
    code = "import sys; sys.modules['cyclopts'] = None; from penstock.cli import main; sys.exit(main(['version']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "penstock[daemon]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == version("penstock")


def test_status_is_json_for_machines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.contract.actions import StatusReply

    reply = StatusReply(
        node="n",
        incarnation="i",
        version="1",
        state="serving",
        generation=0,
        subscriptions={},
        memory={"used_bytes": 0, "limit_bytes": 1 << 20},
    )
    monkeypatch.setattr("penstock.client.NodeClient.call", lambda *_: reply)
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "serving"
    assert main(["status"]) == 0
    assert "serving" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "--insecure-bind"),
        (("--faults",), "--http-port"),
    ],
)
def test_the_emulator_is_not_open_by_accident(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["emulator", "--port", "0", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_settings_prints_a_file_for_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    assert "[reservoir]" in capsys.readouterr().out
