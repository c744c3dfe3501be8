"""Penstock: Google Cloud Pub/Sub to Apache Spark as sealed, replayable Arrow batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client import Consumer

__all__ = ["Consumer"]


def __getattr__(name: str) -> Any:
    """`penstock.Consumer` without making every import of a submodule load Arrow Flight."""
    if name == "Consumer":
        from penstock.client import Consumer  # noqa: PLC0415

        return Consumer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
