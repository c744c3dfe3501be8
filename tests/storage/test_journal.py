"""The file of decisions: what was told survives, what was being written is cut off, and damage is never read over."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InvalidOption
from penstock.storage.framing import framed
from penstock.storage.journal import AHEAD_BYTES, Journal, replay
from penstock.storage.ports import StoreFailed

RECORDS: list[dict[str, Any]] = [{"k": "Node", "n": n, "text": "ä" * n} for n in range(6)]


def written(path: Path, *, synced: int = len(RECORDS)) -> bytes:
    """A journal of which the first `synced` records were made durable one by one; its bytes without the zeros ahead."""
    journal = Journal(path, fsync=True)
    for record in RECORDS[:synced]:
        journal.append([record])
        journal.sync()
    journal.append(RECORDS[synced:])
    journal.close()
    return path.read_bytes()[: journal.size]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    raw = written(tmp_path / "journal")
    found = replay(tmp_path / "journal")
    assert (found.records, found.end, found.torn_bytes) == (RECORDS, len(raw), 0)


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert replay(tmp_path / "journal").records == []


def test_a_tail_torn_at_any_byte_costs_the_torn_record_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    raw = written(path)
    ends = [replay(path).end]
    for end in range(len(raw)):
        path.write_bytes(raw[:end])
        found = replay(path)
        assert found.records == RECORDS[: len(found.records)]
        assert found.end + found.torn_bytes <= end
        ends.append(found.end)
    assert len(set(ends)) == len(RECORDS) + 1, "each record is there or not"


def test_a_torn_tail_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    raw = written(path)
    path.write_bytes(raw[:-3])
    found = replay(path)
    journal = Journal(path, found.end, fsync=True)
    journal.append([{"k": "late"}])
    journal.close()
    assert replay(path).records == [*RECORDS[:-1], {"k": "late"}]


def test_a_flipped_bit_in_what_was_durable_is_refused_with_file_and_place(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    raw = written(path)
    last = end_of(path, len(RECORDS) - 1)
    for at in range(last):
        path.write_bytes(flipped(raw, at))
        with pytest.raises(InvalidOption, match=f"{path} is damaged at byte"):
            replay(path)


def test_a_flipped_bit_in_the_last_record_passes_for_one_that_was_being_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    raw = written(path)
    for at in range(end_of(path, len(RECORDS) - 1), len(raw)):
        path.write_bytes(flipped(raw, at))
        assert replay(path).records == RECORDS[:-1]


def test_damage_anywhere_in_a_journal_that_was_written_anew_is_refused(tmp_path: Path) -> None:
    """It counts only once all of it is durable, so nothing of it was being written."""
    path = tmp_path / "journal"
    journal = Journal(path, fsync=True)
    journal.rewrite(RECORDS)
    journal.close()
    raw = path.read_bytes()[: journal.size]
    first = len(framed(RECORDS[:1], 0))
    for damaged in [flipped(raw, at) for at in range(len(raw))] + [raw[:end] for end in range(first, len(raw))]:
        path.write_bytes(damaged)
        with pytest.raises(InvalidOption, match=f"{path} is damaged at byte"):
            replay(path)


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def end_of(path: Path, records: int) -> int:
    """Where that many records end."""
    raw = path.read_bytes()
    for end in range(len(raw)):
        path.write_bytes(raw[:end])
        if len(replay(path).records) == records:
            path.write_bytes(raw)
            return end
    raise AssertionError


def test_records_behind_a_hole_that_was_never_durable_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    raw = written(path, synced=3)
    path.write_bytes(raw)
    at = end_of(path, 3)
    path.write_bytes(raw[: at + 2] + b"\0" * 8 + raw[at + 10 :])
    found = replay(path)
    assert found.records == RECORDS[:3]
    assert found.torn_bytes > 0


@given(garbage=st.binary(max_size=200))
@settings(deadline=None)
def test_garbage_is_no_record_and_ends_nothing(garbage: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    path.write_bytes(garbage)
    assert replay(path).records == []
    raw = written(path)
    path.write_bytes(raw + garbage)
    assert replay(path).records == RECORDS


def test_a_rewritten_journal_has_the_new_records_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, fsync=True)
    for _ in range(1000):
        journal.append(RECORDS)
    journal.rewrite(RECORDS[:2])
    journal.append(RECORDS[2:])
    journal.sync()
    journal.close()
    assert replay(path).records == RECORDS
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]


def test_a_journal_whose_new_name_is_not_safe_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else decisions would go on into the old file, which has no name any more."""
    journal = Journal(tmp_path / "journal", fsync=True)
    journal.append(RECORDS)
    journal.sync()
    really = os.open

    def no_more_files(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == tmp_path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really(path, flags, mode)

    monkeypatch.setattr(os, "open", no_more_files)
    with pytest.raises(StoreFailed, match="Too many open files"):
        journal.rewrite(RECORDS)
    journal.close()


def test_nothing_is_written_into_a_journal_that_was_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", fsync=True)
    journal.append(RECORDS[:1])
    (tmp_path / "journal").unlink()
    with pytest.raises(StoreFailed, match="journal was removed while it was in use"):
        journal.append(RECORDS[1:])
    journal.close()


def test_space_for_decisions_is_taken_ahead(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", fsync=True)
    journal.append(RECORDS)
    assert (tmp_path / "journal").stat().st_blocks * 512 >= AHEAD_BYTES
    journal.close()
