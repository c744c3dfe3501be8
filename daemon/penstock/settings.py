"""Settings of the daemon: frozen, one class per room, one reader of file, environment and flags (in that order upwards).

`load` is the only place that reads the environment. A TOML file has the keys of `Settings` at its top and one table
for each room; the environment has `PENSTOCK_LISTEN`, `PENSTOCK_PUBSUB__MAX_STREAMS` and so on.
"""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_CORES = os.cpu_count() or 1


class _Room(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PubSubSettings(_Room):
    """The way to Google Cloud Pub/Sub, and how its pull streams and acks behave."""

    endpoint: str | None = Field(None, description="host:port of a regional or private endpoint; default: the global one")
    credentials_file: str | None = Field(None, description="service-account key file; default: application credentials")
    impersonate: str | None = Field(None, description="service account to impersonate")
    ack_deadline_s: int = Field(60, ge=10, le=600, description="lease asked for each message; extended at half-life")
    min_streams: int = Field(1, ge=1, le=100)
    max_streams: int = Field(2 * _CORES, ge=1, le=100, description="pull streams per subscription")
    jitter_ms: int = Field(500, ge=0, le=60_000, description="pull streams start at random within this time")
    max_buffer_age_s: float = Field(60.0, gt=0, description="pulling pauses when the oldest unsealed row is older")


class ReservoirSettings(_Room):
    """Memory, leases and contact."""

    memory_limit_mb: int = Field(1024, ge=16, description="bytes of all buffers together, in MiB")
    high: float = Field(0.9, gt=0, le=1, description="fraction of the share at which pulling pauses")
    low: float = Field(0.7, gt=0, le=1, description="fraction at which it resumes")
    max_lease_s: float = Field(3600.0, ge=10, description="an unsealed chunk held longer lapses")
    consumer_timeout_s: float = Field(300.0, ge=1, description="a consumer without contact for this long is released")
    read_idle_s: float = Field(60.0, ge=1, description="a do_get without progress for this long is cancelled")

    @property
    def memory_limit_bytes(self) -> int:
        """The budget."""
        return self.memory_limit_mb << 20


class LogSettings(_Room):
    """Where log lines go is standard error; how they look is here."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"
