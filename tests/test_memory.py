"""The allocator's settings are taken, and what was freed can be given back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import re, pyarrow as pa
from penstock import memory

def anonymous_bytes():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

assert memory.keep_heap()
assert pa.default_memory_pool().backend_name == "system"
before = anonymous_bytes()
held = [pa.py_buffer(bytes(1 << 20)) for _ in range(200)]
last = held[-1]
del held
assert memory.give_back()
assert anonymous_bytes() - before < 20 << 20
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_given_back_when_asked() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
