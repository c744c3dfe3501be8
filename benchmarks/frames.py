"""HTTP/2 as it comes, parted: DATA frames for us, the rest for h2, which would copy each of them several times."""

from __future__ import annotations

PREFACE_BYTES = 24
HEADER_BYTES = 9
_DATA, _PADDED = 0x0, 0x8


class Frames:
    """What one client sends. After each DATA frame h2 gets an empty one with its flags, which may end its stream."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._before = PREFACE_BYTES
        self._left = 0
        self._stream: int | None = None
        self._emptied = b""

    def part(self, received: bytes) -> tuple[bytes, list[tuple[int, memoryview]]]:
        """The bytes for h2, and the payload for each stream. Raises `ValueError` for padding, which gRPC never uses."""
        for_h2 = bytearray()
        payload: list[tuple[int, memoryview]] = []
        view, at = memoryview(received), 0
        if self._before:
            at = min(self._before, len(view))
            self._before -= at
            for_h2 += view[:at]
        while at < len(view):
            if self._left:
                taken = min(self._left, len(view) - at)
                self._left -= taken
                if self._stream is None:
                    for_h2 += view[at : at + taken]
                else:
                    payload.append((self._stream, view[at : at + taken]))
                    if not self._left:
                        for_h2 += self._emptied
            else:
                taken = min(HEADER_BYTES - len(self._header), len(view) - at)
                self._header += view[at : at + taken]
                if len(self._header) == HEADER_BYTES:
                    self._begin(for_h2)
            at += taken
        return bytes(for_h2), payload

    def _begin(self, for_h2: bytearray) -> None:
        """A whole header: what follows it is for whom?"""
        header, self._header = self._header, bytearray()
        self._left, self._stream = int.from_bytes(header[:3], "big"), None
        if header[3] == _DATA:
            if header[4] & _PADDED:
                raise ValueError("a padded DATA frame")
            header[:3] = bytes(3)
            if self._left:
                self._stream, self._emptied = int.from_bytes(header[5:9], "big"), bytes(header)
                return
        for_h2 += header
