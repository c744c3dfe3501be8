"""Ack IDs: 188 characters that name an entry of a subscription and one of its deliveries, made and read by column."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.emulator.refusal import malformed_ack_id

ACK_ID_BYTES = 188
"""Length of the service's ack IDs as seen in the field; it decides how many fit in a request of 512 KiB."""

_WORDS = 3  # entry, attempt, checksum: 64 bits each, in hexadecimal
_HEX_BYTES = _WORDS * 16
_PREFIX_BYTES = ACK_ID_BYTES - _HEX_BYTES

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
# Both digits of a byte as one number, so that a lookup moves both.
_BYTE_TO_HEX = np.ascontiguousarray(np.stack([np.repeat(_DIGITS, 16), np.tile(_DIGITS, 16)], axis=1)).view(np.uint16)[
    :, 0
]
_HEX_TO_NIBBLE = np.full(256, 0xFF, np.uint8)
_HEX_TO_NIBBLE[_DIGITS] = np.arange(16, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Entries of one subscription, and of each the delivery (1 for the first) that an ack ID belongs to."""

    entries: NDArray[np.int64]
    attempts: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> Deliveries:
        """Some of them."""
        return Deliveries(self.entries[mask], self.attempts[mask])


class AckIds:
    """Makes and reads the ack IDs of one subscription. `identity` must differ for each subscription ever created."""

    def __init__(self, identity: str) -> None:
        digest = b"".join(hashlib.sha512(f"{part}:{identity}".encode()).digest() for part in range(2))
        self._prefix = np.frombuffer(base64.urlsafe_b64encode(digest)[:_PREFIX_BYTES], np.uint8)
        self._secret = np.uint64(int.from_bytes(digest[-8:]))

    def column(self, deliveries: Deliveries) -> pa.Array:
        """A string array with one ack ID for each delivery."""
        rows = len(deliveries.entries)
        words = np.empty((rows, _WORDS), ">u8")
        words[:, 0] = deliveries.entries
        words[:, 1] = deliveries.attempts
        words[:, 2] = self._checksum(deliveries)
        text = np.empty((rows, ACK_ID_BYTES), np.uint8)
        text[:, :_PREFIX_BYTES] = self._prefix
        text[:, _PREFIX_BYTES:] = _BYTE_TO_HEX[words.view(np.uint8)].view(np.uint8)
        offsets = np.arange(0, (rows + 1) * ACK_ID_BYTES, ACK_ID_BYTES, dtype=np.int32)
        return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))

    def read(self, ack_ids: pa.Array) -> Deliveries:
        """The deliveries that a string array names.

        Raises `Refused` (INVALID_ARGUMENT) if one is malformed or of another subscription, as the service does.
        """
        rows = len(ack_ids)
        if rows == 0:
            nothing = np.empty(0, np.int64)
            return Deliveries(nothing, nothing)
        _, offsets_buffer, data = ack_ids.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int32)[ack_ids.offset : ack_ids.offset + rows + 1]
        wrong = np.diff(offsets) != ACK_ID_BYTES
        if wrong.any():
            raise malformed_ack_id(ack_ids[int(np.argmax(wrong))].as_py())
        text = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].reshape(rows, ACK_ID_BYTES)
        nibbles = _HEX_TO_NIBBLE[text[:, _PREFIX_BYTES:]]
        words = ((nibbles[:, 0::2] << 4) | nibbles[:, 1::2]).view(">u8").astype(np.uint64)
        deliveries = Deliveries(words[:, 0].astype(np.int64), words[:, 1].astype(np.int64))
        wrong = (text[:, :_PREFIX_BYTES] != self._prefix).any(axis=1)
        wrong |= (nibbles > 0xF).any(axis=1)
        wrong |= words[:, 2] != self._checksum(deliveries)
        if wrong.any():
            raise malformed_ack_id(ack_ids[int(np.argmax(wrong))].as_py())
        return deliveries

    def _checksum(self, deliveries: Deliveries) -> NDArray[np.uint64]:
        """One to one in each of entry and attempt, so that a change of either alone is always seen."""
        return _mixed(
            _mixed(deliveries.attempts.astype(np.uint64) + self._secret) ^ deliveries.entries.astype(np.uint64)
        )


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: one to one, and every bit of the input moves about half of the output."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers ^= numbers >> np.uint64(31)
    return numbers
