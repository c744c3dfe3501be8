"""How an emulator is started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """`port` 0 takes any free one; `http_port` None serves no HTTP. `faults` opens the fault surface on that port.

    `stream_close_after_s`: the server ends each StreamingPull at this age, as the service does about every 30 minutes;
    None never.
    """

    port: int = 8085
    host: str = "127.0.0.1"
    http_port: int | None = None
    faults: bool = False
    stream_close_after_s: float | None = None
