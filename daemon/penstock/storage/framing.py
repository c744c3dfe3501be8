"""The bytes of a journal: records from and to bytes, without a file in sight.

A record is a magic number, the length and CRC-32 of what follows, how much of the file was durable when it was
written, and JSON.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from penstock.errors import InvalidOption

Record: TypeAlias = dict[str, Any]

_HEADER = struct.Struct("<4sIIQ")
_MAGIC = b"\xf1PJ1"
"""Its first byte is in no UTF-8 text, so none of our JSON looks like a record."""


@dataclass(frozen=True)
class Replay:
    """What a journal held: its records, where they end, and the bytes behind them that were cut off."""

    records: list[Record]
    end: int
    torn_bytes: int


def framed(records: Iterable[Record], durable: int) -> bytes:
    """The bytes of records that are written when `durable` bytes of the file are safe."""
    return b"".join(_framed(_body(record), durable) for record in records)


def framed_anew(records: Iterable[Record]) -> bytes:
    """The bytes of a whole file, which counts only once all of it is durable."""
    bodies = [_body(record) for record in records]
    size = sum(_HEADER.size + len(body) for body in bodies)
    return b"".join(_framed(body, size) for body in bodies)


def replayed(raw: bytes, path: str, boot: str | None = None) -> Replay:
    """Read a journal's bytes up to its first bad record.

    What is bad at the end was being written when the machine stopped: nobody was told of it. Raises `InvalidOption`
    when it was durable once, as another record tells: then decisions are missing, and whatever was made of the rest
    would be a guess. Not so where the first record says that nothing was synced, and on another boot than `boot`: there
    anything may be missing, and nobody goes on with it.
    """
    records: list[Record] = []
    at = safe = 0
    while (found := _record_at(raw, at)) is not None:
        record, at, durable = found
        records.append(record)
        safe = max(safe, durable)  # those of a file that was written anew know of what follows them
    tail = raw[at:].rstrip(b"\0")
    later = at
    while (later := raw.find(_MAGIC, later + 1)) >= 0:
        if (found := _record_at(raw, later)) is not None:
            safe = max(safe, found[2])
    if safe > at and _promised(records, boot):
        raise InvalidOption(
            f"the journal {path} is damaged at byte {at}: a decision that was safe on the disk cannot be read, and "
            "what follows must not be used without it. Move the data_dir away and start again: its messages come "
            "again from Pub/Sub"
        )
    return Replay(records, at, len(tail))


def _promised(records: list[Record], boot: str | None) -> bool:
    """Whether what was called durable is."""
    return not records or bool(records[0].get("fsync", True)) or records[0].get("boot") == boot


def _record_at(raw: bytes, at: int) -> tuple[Record, int, int] | None:
    """A whole record, where it ends, and how much was durable before it; None when there is none."""
    if len(raw) - at < _HEADER.size:
        return None
    magic, length, crc, durable = _HEADER.unpack_from(raw, at)
    start = at + _HEADER.size
    if magic != _MAGIC or start + length > len(raw):
        return None
    body = raw[start : start + length]
    if _crc(body, durable) != crc:
        return None
    return json.loads(body), start + length, durable


def _body(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _framed(body: bytes, durable: int) -> bytes:
    return _HEADER.pack(_MAGIC, len(body), _crc(body, durable), durable) + body


def _crc(body: bytes, durable: int) -> int:
    return zlib.crc32(body, zlib.crc32(durable.to_bytes(8, "little")))
