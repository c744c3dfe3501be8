"""A blocking client of the emulator's HTTP port, for tests, demo and benchmarks; in process use `Emulator.faults`."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from penstock.errors import InvalidRequest, NodeUnreachable

_TIMEOUT_S = 10.0


class FaultClient:
    """Speaks for the `Faults` of an emulator at `address` (`host:port`).

    Every method raises `InvalidRequest` for what the emulator refuses (also when it runs without faults), and
    `NodeUnreachable`.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def fail(self, method: str, code: str, times: int = 1, topic: str | None = None) -> None:
        """The next `times` calls of `method` (such as "Acknowledge") end with the gRPC code of this name.

        `topic`: those of Publish to this one only.
        """
        self._act("fail", method=method, code=code, times=times, topic=topic)

    def delay(self, method: str, delay_s: float, times: int = 1, topic: str | None = None) -> None:
        """The next `times` calls of `method` (or of Publish to one topic) wait first."""
        self._act("delay", method=method, delay_s=delay_s, times=times, topic=topic)

    def cut_streams(self, subscription: str | None = None, code: str = "UNAVAILABLE") -> int:
        """End the open pull streams (of one subscription) with a gRPC code; says how many."""
        return int(self._act("cut_streams", subscription=subscription, code=code))

    def cut_connections(self) -> int:
        """Shut every TCP connection to the emulator's gRPC port without a word; says how many."""
        return int(self._act("cut_connections"))

    def drop_acks(self, subscription: str, times: int = 1) -> None:
        """The next `times` requests with acks or modacks are answered OK and do nothing."""
        self._act("drop_acks", subscription=subscription, times=times)

    def redeliver(self, subscription: str, messages: int = 1) -> int:
        """Deliver up to so many unacknowledged messages once more; says how many."""
        return int(self._act("redeliver", subscription=subscription, messages=messages))

    def garble(self, subscription: str, responses: int = 1) -> int:
        """Undecodable bytes as the next responses of each open stream; says on how many streams."""
        return int(self._act("garble", subscription=subscription, responses=responses))

    def clear(self, topic: str | None = None) -> None:
        """Forget what was asked for and has not happened yet; `topic`: for Publish to this one only."""
        self._act("clear", topic=topic)

    def statistics(self, subscription: str) -> dict[str, Any]:
        """Counts of a subscription; see `penstock.emulator.faults.Faults.statistics`."""
        found = self._ask("/statistics?" + urllib.parse.urlencode({"subscription": subscription}), None)
        return dict(found)

    def _act(self, name: str, **arguments: Any) -> Any:
        return self._ask(f"/faults/{name}", json.dumps(arguments).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        try:
            with urllib.request.urlopen(f"http://{self._address}{path}", body, _TIMEOUT_S) as reply:  # http only
                return json.load(reply)["result"]
        except urllib.error.HTTPError as error:
            raise InvalidRequest(f"the emulator at {self._address} refused {path}: {error.read().decode()}") from error
        except OSError as error:
            raise NodeUnreachable(f"no emulator answers at http://{self._address} ({error})") from error
