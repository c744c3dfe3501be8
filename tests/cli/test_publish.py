"""`penstock publish` ends with 0 when every row of the file is confirmed, and with a readable line otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.processes import until
from tests.publish.site import TOPIC, Site, daemon

from penstock.cli import main
from penstock.cli.publishing import _batches


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with daemon(monkeypatch) as site:
        yield site


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    names = [f"n{number}" for number in range(12_345)]
    pq.write_table(pa.table({"payload": names, "ordering_key": ["k"] * len(names)}), path, row_group_size=5000)
    return path


def test_a_file_is_published_in_its_order(site: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.topic(ordering=True)
    assert main(["publish", "--parquet", str(file), "--topic", TOPIC, "--daemon", site.node.endpoint]) == 0
    assert "12,345 messages published in" in capsys.readouterr().err
    assert [message.data.decode() for message in site.read(12_345)] == [f"n{number}" for number in range(12_345)]


def test_any_columns_are_published_as_json(site: Site, tmp_path: Path) -> None:
    site.topic()
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": [1, 2], "name": ["a", None]}), path)
    arguments = ["--json", "--gzip", "--topic", "orders", "--project", "p", "--daemon", site.node.endpoint]
    assert main(["publish", "--parquet", str(path), *arguments]) == 0
    assert sorted(message.data for message in site.read(2)) == [b'{"id":1,"name":"a"}', b'{"id":2}']


def test_what_cannot_be_published_is_said_in_a_line(
    site: Site, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "rows.txt"
    text.write_text("no parquet")
    for arguments, code, words in (
        (["--parquet", str(file), "--topic", TOPIC], 1, "NOT_FOUND"),
        (["--parquet", str(text), "--topic", TOPIC], 2, "cannot be read"),
        (["--parquet", str(tmp_path / "none"), "--topic", TOPIC], 2, "Invalid value"),
        (["--parquet", str(file)], 2, "no topic"),
        (["--parquet", str(file), "--topic", TOPIC, "--on-invalid", "deadletter"], 2, "dead_letter_topic"),
    ):
        assert main(["publish", *arguments, "--daemon", site.node.endpoint]) == code, arguments
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said


def test_a_file_that_is_broken_in_the_middle_is_said_in_a_line(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.topic()
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"data": [os.urandom(1000) for _ in range(2000)]}), path, row_group_size=200)
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2 : len(octets) * 3 // 4] = os.urandom(len(octets) * 3 // 4 - len(octets) // 2)
    path.write_bytes(octets)
    assert main(["publish", "--parquet", str(path), "--topic", TOPIC, "--daemon", site.node.endpoint]) == 2
    said = capsys.readouterr().err
    assert f"--parquet {path}: cannot be read from row" in said
    assert len(said.splitlines()) == 1


def test_large_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.cli.publishing.BATCH_BYTES", 10_000)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"data": [os.urandom(1000) for _ in range(100)]}), path)
    with pq.ParquetFile(path) as rows:
        batches = list(_batches(rows, path))
    assert max(batch.num_rows for batch in batches) <= 10
    assert sum(batch.num_rows for batch in batches) == 100


def test_an_interrupt_ends_it_at_once_and_its_write_too_while_pubsub_does_not_answer(site: Site, file: Path) -> None:
    site.topic()
    site.on_loop(lambda: site.faults.delay("Publish", 60.0, 1000))
    arguments = ["publish", "--parquet", str(file), "--topic", TOPIC, "--daemon", site.node.endpoint]
    with subprocess.Popen([sys.executable, "-m", "penstock", *arguments], stderr=subprocess.PIPE, text=True) as process:
        until(lambda: site.outlet.figures()["requests"] > 0)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.strip() == "interrupted when 0 rows or more of 12,345 were published"
    until(lambda: len(site.outlet) == 0)
    assert site.published() == 0
