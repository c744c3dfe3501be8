"""Consumers that come once, take a batch, and are never heard of again, or say good-bye, or commit it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.daemon import SUBSCRIPTION
from tests.simulation.network import Address
from tests.simulation.schedule import Process

from penstock.client import Driver, Limits, Offset, ReaderSettings
from penstock.contract import new_id
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from tests.simulation.world import World


class Stranger:
    """One such consumer."""

    def __init__(self, world: World, address: Address) -> None:
        self._world = world
        self._address = address
        self._process = Process("stranger")
        world.scheduler.start(self._process, self._run)

    def _run(self) -> None:
        world, consumer = self._world, new_id()
        settings = ReaderSettings(subscription=SUBSCRIPTION, share=world.faults.shape.share, node_wait_s=1.0)
        driver = Driver(
            consumer,
            settings,
            [self._address],
            clock=lambda: world.now,
            wall=lambda: world.now,
            sleep=world.scheduler.sleep,
        )
        world.note("stranger %s comes", consumer)
        try:
            driver.latest(Offset.initial(consumer, SUBSCRIPTION), Limits(max_rows=2))
            leave = world.faults.rng.choice([driver.bye, driver.close, None])
            if leave is not None:
                leave()
        except PenstockError as error:
            world.note("stranger %s is refused: %s", consumer, error.code)
        world.at(0.0, lambda: world.scheduler.kill(self._process))
