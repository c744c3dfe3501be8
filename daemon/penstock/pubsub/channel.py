"""The gRPC channel: credentials, options, and calls whose messages stay bytes."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Self

import google.auth
import google.auth.impersonated_credentials
import google.auth.transport.grpc
import google.auth.transport.requests
import grpc
import grpc.aio
from google.oauth2 import service_account

from penstock.settings import PubSubSettings

GLOBAL_ENDPOINT = "pubsub.googleapis.com:443"
SCOPES = ("https://www.googleapis.com/auth/pubsub",)
STREAMS_PER_CHANNEL = 100
"""HTTP/2 streams that the service allows on one connection."""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Larger windows and frames cost memory per connection and give throughput: measured in benchmarks/ingest.
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Retries are ours: they must be seen and counted, and an ack that was given up must not be sent behind our back.
    ("grpc.enable_retries", 0),
]


class PubSubChannel:
    """An async context manager around one `grpc.aio` channel to the service, or to `PUBSUB_EMULATOR_HOST`.

    Raises `google.auth.exceptions.GoogleAuthError` on entry when there are no credentials.
    """

    def __init__(self, settings: PubSubSettings) -> None:
        self.settings = settings
        self.emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
        self.credentials: Any = None
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Find credentials, which may ask a metadata server, and connect lazily."""
        if self.emulator:
            self._channel = grpc.aio.insecure_channel(self.emulator, options=_OPTIONS)
        else:
            self.credentials = await asyncio.to_thread(_credentials, self.settings)
            # The plugin fetches a fresh token for every call whose last one is about to expire, so that reopened
            # streams never carry a stale one.
            plugin = google.auth.transport.grpc.AuthMetadataPlugin(
                self.credentials, google.auth.transport.requests.Request()
            )
            secure = grpc.composite_channel_credentials(
                grpc.ssl_channel_credentials(), grpc.metadata_call_credentials(plugin)
            )
            self._channel = grpc.aio.secure_channel(self.settings.endpoint or GLOBAL_ENDPOINT, secure, options=_OPTIONS)
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close; running calls are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    @property
    def raw(self) -> grpc.aio.Channel:
        """The channel itself, for generated clients."""
        assert self._channel is not None, "enter the channel first"
        return self._channel

    def unary(self, service: str, method: str) -> grpc.aio.UnaryUnaryMultiCallable:
        """A unary call of `google.pubsub.v1.{service}`, bytes to bytes."""
        return self.raw.unary_unary(f"/google.pubsub.v1.{service}/{method}")

    def streaming_pull(self) -> grpc.aio.StreamStreamMultiCallable:
        """StreamingPull, bytes to bytes."""
        return self.raw.stream_stream("/google.pubsub.v1.Subscriber/StreamingPull")


def _credentials(settings: PubSubSettings) -> Any:
    if settings.credentials_file:
        found = service_account.Credentials.from_service_account_file(settings.credentials_file, scopes=SCOPES)
    else:
        found, _project = google.auth.default(scopes=SCOPES)
    if settings.impersonate:
        found = google.auth.impersonated_credentials.Credentials(
            source_credentials=found, target_principal=settings.impersonate, target_scopes=list(SCOPES)
        )
    return found
