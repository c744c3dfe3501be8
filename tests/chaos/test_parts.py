"""What a chaos run is made of does what it says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.disk import small_disk
from tests.chaos.outcome import Outcome, Sample, standstill_s
from tests.chaos.output import compared
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import EXHAUSTED_S, KINDS, schedule


@pytest.fixture
def echo() -> Iterator[int]:
    def answer(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=reply, args=(connection,), daemon=True).start()

    def reply(connection: socket.socket) -> None:
        with connection:
            while said := connection.recv(1024):
                connection.sendall(said)

    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer, args=(server,))
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


def closed(client: socket.socket) -> bool:
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_seed_is_a_schedule_and_a_long_run_has_every_fault() -> None:
    assert schedule(1, 600) == schedule(1, 600) != schedule(2, 600)
    assert {fault.kind for fault in schedule(1, 600)} == set(KINDS)


def test_a_long_run_uses_up_the_quota_for_as_long_as_promised_and_a_short_one_never() -> None:
    def lasted(run_s: float) -> set[float]:
        return {fault.seconds for fault in schedule(1, run_s) if fault.kind == "exhaust Publish"}

    assert lasted(600) == {EXHAUSTED_S}
    assert max(lasted(120), default=0.0) < EXHAUSTED_S


def test_copies_are_told_apart_by_their_names() -> None:
    first, again, anew = (("q", "1", "0-0"), 0), (("q", "1", "0-0"), 0), (("q", "2", "0-0"), 0)
    found = compared([first, again, anew, (("q", "3", "0-0"), 2), (("q", "3", "0-0"), 3)], published=4)
    assert (found.messages, found.lost, found.duplicates) == (5, 1, 2)
    assert (found.duplicates_after_dedupe, found.misnamed) == (1, 1)


def test_a_kind_that_cannot_be_done_is_never_in_a_schedule() -> None:
    assert "fill disk" not in {fault.kind for fault in schedule(1, 600, without=frozenset({"fill disk"}))}


def test_a_disk_that_is_filled_takes_nothing_more_until_it_is_emptied(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        if disk is None:
            pytest.skip("mounting needs a privilege")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(b"x")
        disk.empty()
        (disk.folder / "more").write_bytes(bytes(1 << 20))


def test_a_standstill_is_told_from_having_nothing_to_do() -> None:
    counts = [(0, 10, 0), (5, 10, 10), (20, 10, 10), (21, 30, 10), (28, 30, 10), (29, 30, 30)]
    samples = [Sample(at_s, published, delivered, 0, 0.0) for at_s, published, delivered in counts]
    assert standstill_s(samples) == 7


def test_only_acks_that_an_ordinary_subscription_forgot_excuse_duplicates() -> None:
    outcome = Outcome(1, 1.0, data_dir=True, exactly_once=False, duplicates=5, sunk_duplicates_after_dedupe=5)
    assert outcome.broken() == ["duplicates", "sunk_duplicates_after_dedupe"]
    outcome.dropped_ack_ids = 5
    assert outcome.broken() == []


def test_bytes_pass_and_a_stall_only_delays_them(echo: int) -> None:
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        proxy.stall()
        client.sendall(b"two")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(5)
        proxy.flow()
        assert client.recv(10) == b"two"


def test_a_stall_may_begin_after_some_more_bytes(echo: int) -> None:
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        proxy.stall(after_bytes=6)  # three there, and three back
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        client.sendall(b"two")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)


def test_a_cut_ends_connections_and_new_ones_pass(echo: int) -> None:
    with Proxy(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            proxy.cut()
            assert closed(client)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            client.sendall(b"two")
            assert client.recv(10) == b"two"


def test_nobody_behind_the_proxy_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Proxy(port) as proxy, socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        assert closed(client)
