"""The emulator as a process."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest
from tests.emulator.raw import connected

from penstock.emulator import Emulator

PROGRAM = "from penstock.emulator import EmulatorSettings, run; run(EmulatorSettings(port=0))"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_its_address_and_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            address = line.rsplit("=", 1)[-1].strip()
            async with connected(address) as client:
                await client.create()
                async with client.stream() as stream:
                    await stream.response()
                    process.send_signal(number)
                    await stream.failure()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    async with Emulator() as first:
        with pytest.raises(OSError, match=str(first.port)):
            async with Emulator(first.port):
                pass
