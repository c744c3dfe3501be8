"""Pub/Sub is away for a while: no query fails, its progress tells why nothing comes, and then everything goes on."""

from __future__ import annotations

import logging

import pytest
from tests.service.conftest import NAME, Site, until

from penstock.client import Driver, Limits, NodeClient, Offset, ReaderSettings

FOR_EVER = 1_000_000


def test_an_outage_fails_no_query_and_its_report_says_why_nothing_comes(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = site.serve("--set", "pubsub.jitter_ms=0")
    start = Offset.initial("c", NAME)
    with NodeClient(daemon.endpoint) as node, caplog.at_level(logging.WARNING, "penstock.client"):
        driver = Driver("c", ReaderSettings(subscription=NAME), [node])
        assert driver.latest(start, Limits()) is None
        assert driver.report()["trouble"] is None
        until(lambda: daemon.figures()["pull"]["streams"])
        site.faults.fail("StreamingPull", "UNAVAILABLE", FOR_EVER)
        site.faults.cut_streams()
        site.publish(1000)

        def trouble() -> str | None:
            assert driver.latest(start, Limits()) is None
            said: str | None = driver.report()["trouble"]
            return said

        said = until(trouble, 30)
        assert "messages cannot be pulled for" in said
        assert "UNAVAILABLE" in said
        figures = daemon.figures()
        assert figures["breakers"]["pull"]["open"]
        assert figures["failed"] is None
        assert f'penstock_pull_breaker_open{{subscription="{NAME}"}} 1.0' in daemon.http("/metrics")[1]
        assert daemon.http("/readyz")[0] == 200, "a restart of the daemon would mend nothing"

        site.faults.clear()
        sealed = until(lambda: driver.latest(start, Limits()), 30)
        assert sealed.rows > 0
        assert driver.report()["trouble"] is None
        driver.close()
    assert "breaker opened" in daemon.log()
    assert "breaker closed" in daemon.log()
    assert [said for said in caplog.messages if "has trouble with Pub/Sub, the query waits" in said]
    assert [said for said in caplog.messages if "has no trouble with Pub/Sub any more" in said]
