"""Penstock: Google Cloud Pub/Sub to Apache Spark as sealed, replayable Arrow batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client import Consumer, Publisher

__all__ = ["Consumer", "Publisher"]


def __getattr__(name: str) -> Any:
    """`Consumer` and `Publisher` without making every import of a submodule load Arrow Flight."""
    if name in __all__:
        from penstock import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
