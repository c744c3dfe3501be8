"""Whatever became of the files in a data_dir: an error of ours, or what was sealed, row for row; nothing else."""

from __future__ import annotations

import asyncio
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.fuzz.examples import anything, as_json, examples
from tests.storage.making import Host, Node

from penstock.errors import BatchGone, EpochPast, InvalidOption, PenstockError

MAGIC = b"\xf1PJ1"
EPOCHS = 4
EPOCHS_COMMITTED = 1


@dataclass(frozen=True)
class Sealed:
    """A folder as a process left it, and what it had sealed: epoch → (batch ID, slices of message IDs)."""

    path: Path
    batches: dict[int, tuple[str, list[list[str]]]]
    acks: set[str]


async def _filled(path: Path) -> Sealed:
    host = Host(path)
    batches = {}
    async with host.process() as node:
        node.open(consumer="another")
        reader = node.open()
        for epoch in range(1, EPOCHS + 1):
            node.deliver(3 + epoch, keys=("red", None))
            node.deliver(2)
            batch = node.seal(reader, epoch)
            assert batch is not None
            batches[epoch] = (batch, node.slices(reader, epoch, batch, 2))
            if epoch <= EPOCHS_COMMITTED:
                node.commit(reader, epoch, batch)
            await node.reservoir.durable()
    return Sealed(path, batches, set(host.acks.acknowledged))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    folder = tmp_path_factory.mktemp("sealed")
    made = asyncio.run(_filled(folder / "data"))
    # Segments have their full size from the start; what matters is at their beginning.
    for path in (made.path / "segments").glob("*.seg"):
        raw = path.read_bytes().rstrip(b"\0")
        path.write_bytes(raw + bytes(64))
    journal = made.path / "journal"
    journal.write_bytes(journal.read_bytes().rstrip(b"\0") + bytes(64))
    return made


def records(raw: bytes) -> list[bytes]:
    """The journal's records, each with its header."""
    found, at = [], 0
    while raw[at : at + 4] == MAGIC:
        (length,) = struct.unpack_from("<I", raw, at + 4)
        found.append(raw[at : at + 20 + length])
        at += 20 + length
    return found


@st.composite
def shuffled(draw: st.DrawFn, parts: list[bytes]) -> bytes:
    """Whole parts lost, doubled or in another order."""
    numbers = range(len(parts))
    chosen = draw(st.lists(st.sampled_from(numbers), max_size=2 * len(parts)) | st.permutations(numbers))
    kept = draw(st.integers(0, len(parts)))
    return b"".join([*parts[:kept], *(parts[number] for number in chosen)])


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bits flipped, cut off, zeroed, moved, or put in; as disks and people do."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        size = draw(st.sampled_from([1, 4, 64, 512]))
        other = draw(st.integers(0, max(len(raw) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "zero", "swap", "insert", "drop", "repeat"])):
            case "flip":
                raw = raw[:at] + bytes(one ^ 1 << draw(st.integers(0, 7)) for one in raw[at : at + 1]) + raw[at + 1 :]
            case "cut":
                raw = raw[:at]
            case "zero":
                raw = raw[:at] + bytes(len(raw[at : at + size])) + raw[at + size :]
            case "swap":
                low, high = sorted((at, other))
                high = max(high, low + size)
                one, two = raw[low : low + size], raw[high : high + size]
                raw = raw[:low] + two + raw[low + size : high] + one + raw[high + size :]
            case "insert":
                raw = raw[:at] + draw(st.binary(min_size=1, max_size=64)) + raw[at:]
            case "drop":
                raw = raw[:at] + raw[at + size :]
            case "repeat":
                raw = raw[:at] + raw[at : at + size] * 2 + raw[at + size :]
    return raw


def check(node: Node, sealed: Sealed) -> None:
    """Nothing is served but what was sealed, and each message is in one place."""
    assert node.subscription.unaccounted() == 0
    known = {epoch: batch for epoch, (batch, _) in sealed.batches.items()}
    for consumer in node.subscription.consumers.values():
        assert {epoch: batch.id for epoch, batch in consumer.batches.items()}.items() <= known.items()
    reader = node.open(generation=9, after=EPOCHS)
    for epoch, (batch, slices) in sealed.batches.items():
        try:
            found = node.slices(reader, epoch, batch, 2)
        except (BatchGone, EpochPast):
            continue
        assert found == slices
    assert node.subscription.unaccounted() == 0
    assert set(node.host.acks.acknowledged) <= sealed.acks, "only what was committed is acknowledged"


async def reopened(path: Path, sealed: Sealed) -> PenstockError | None:
    """Open a folder twice, since the first time writes it anew; the error of ours that it was refused with."""
    try:
        for _ in range(2):
            host = Host(path)
            async with host.process() as node:
                check(node, sealed)
                await node.reservoir.durable()
    except InvalidOption as error:
        return error
    return None


def copied(sealed: Sealed, to: Path) -> Path:
    """The folder anew."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(sealed.path, to)
    return to


def test_an_untouched_folder_serves_all_that_was_not_committed(sealed: Sealed, tmp_path: Path) -> None:
    async def look() -> set[int]:
        async with Host(copied(sealed, tmp_path / "data")).process() as node:
            check(node, sealed)
            return {epoch for consumer in node.subscription.consumers.values() for epoch in consumer.batches}

    assert asyncio.run(look()) == set(range(EPOCHS_COMMITTED + 1, EPOCHS + 1))


@examples(20)
@given(data=st.data())
def test_a_damaged_journal_is_refused_or_tells_the_truth(sealed: Sealed, tmp_path: Path, data: st.DataObject) -> None:
    path = copied(sealed, tmp_path / "data")
    raw = (path / "journal").read_bytes()
    (path / "journal").write_bytes(data.draw(damaged(raw) | st.binary(max_size=40) | damaged(b"".join(records(raw)))))
    error = asyncio.run(reopened(path, sealed))
    assert error is None or str(path) in error.message


@examples(20)
@given(data=st.data())
def test_records_that_are_lost_doubled_or_out_of_order_make_no_batch(
    sealed: Sealed, tmp_path: Path, data: st.DataObject
) -> None:
    path = copied(sealed, tmp_path / "data")
    (path / "journal").write_bytes(data.draw(shuffled(records((path / "journal").read_bytes()))))
    error = asyncio.run(reopened(path, sealed))
    assert error is None or str(path) in error.message


@examples(20)
@given(data=st.data())
def test_damaged_rows_are_gone_and_never_served(sealed: Sealed, tmp_path: Path, data: st.DataObject) -> None:
    path = copied(sealed, tmp_path / "data")
    segments = sorted((path / "segments").glob("*.seg"))
    segment = segments[data.draw(st.integers(0, len(segments) - 1))]
    segment.write_bytes(data.draw(damaged(segment.read_bytes())))
    assert asyncio.run(reopened(path, sealed)) is None


@examples(20)
@given(value=anything)
def test_a_record_of_any_json_is_refused_or_changes_nothing(sealed: Sealed, tmp_path: Path, value: object) -> None:
    path = copied(sealed, tmp_path / "data")
    body = as_json(value)
    known = records((path / "journal").read_bytes())
    durable = sum(map(len, known))
    crc = zlib.crc32(body, zlib.crc32(durable.to_bytes(8, "little")))
    whole = struct.pack("<4sIIQ", MAGIC, len(body), crc, durable) + body
    (path / "journal").write_bytes(b"".join([*known, whole]))
    error = asyncio.run(reopened(path, sealed))
    assert error is None or str(path) in error.message
