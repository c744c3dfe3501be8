"""The process's allocator, set up for megabyte buffers that come and go all the time.

glibc by default hands freed memory at the end of its heap back to the system at once, and gets it again page by page:
with a chunk of a megabyte decoded and freed a thousand times a second that was 700 page faults per megabyte and twice
the CPU time of everything else in the data path (measured with `resource.getrusage` around a pull stream). So the heap
keeps what it has while the daemon is busy, and `give_back` returns it when it is not.

Arrow's own pools are set to the same allocator: one heap that is reused, counted and trimmed as a whole. On systems
without glibc nothing is changed.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

KEEP_BYTES = 64 << 20
"""Free memory at the end of a heap that is kept. Free memory in its middle is kept anyway, and reused."""

MMAP_BYTES = 32 << 20
"""Buffers below this come from the heap; it is the most that glibc takes (DEFAULT_MMAP_THRESHOLD_MAX). A mapping of its
own for each buffer would be faulted in page by page each time."""

GROW_BYTES = 4 << 20
"""The heap grows in such steps, not by one buffer at a time."""

HEAPS = 2
"""glibc makes up to eight heaps for each core, so that threads need not wait for each other. Each keeps `KEEP_BYTES`
and its own gaps: after some hundred bodies of megabytes, on as many threads of the Flight server, a daemon that held
nothing had 520 MB of anonymous memory, and with two heaps 186 MB (`tests/service/test_leaks.py`)."""


def keep_heap() -> bool:
    """Set the allocator up; for the daemon's start, before memory is in use. False where there is no glibc."""
    pa.set_memory_pool(pa.system_memory_pool())
    libc = _libc()
    if libc is None:
        return False
    settings = (
        (_M_ARENA_MAX, HEAPS),
        (_M_MMAP_THRESHOLD, MMAP_BYTES),
        (_M_TRIM_THRESHOLD, KEEP_BYTES),
        (_M_TOP_PAD, GROW_BYTES),
    )
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def give_back() -> bool:
    """Return free memory to the system; whether there was any. Takes about 0.1 s a gigabyte: for idle times."""
    libc = _libc()
    return libc is not None and libc.malloc_trim(0) == 1


def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
