"""An emulator for each test, its clock in the test's hands, and a raw client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.emulator.raw import ManualClock, RawClient, connected

from penstock.emulator import Emulator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def emulator(clock: ManualClock) -> AsyncIterator[Emulator]:
    async with Emulator(clock=clock) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[RawClient]:
    async with connected(emulator.address) as client:
        yield client
