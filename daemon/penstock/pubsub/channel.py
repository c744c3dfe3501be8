"""The gRPC channel: credentials, options, and calls whose messages stay bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import google.auth
import google.auth.exceptions
import google.auth.impersonated_credentials
import google.auth.transport.grpc
import google.auth.transport.requests
import grpc
import grpc.aio
from google.oauth2 import service_account

from penstock.errors import InvalidOption
from penstock.pubsub.breaker import PROBE_LAST_S
from penstock.settings import PubSubSettings

GLOBAL_ENDPOINT = "pubsub.googleapis.com:443"
SCOPES = ("https://www.googleapis.com/auth/pubsub",)
STREAMS_PER_CHANNEL = 100
"""HTTP/2 streams that the service allows on one connection (https://cloud.google.com/pubsub/docs/pull)."""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Exactly-once subscriptions name every ID that they refuse in the trailing metadata: 0.5 MB for a request of acks.
    # gRPC refuses more than 16 KiB on its own; Google's clients allow as much as this.
    ("grpc.max_metadata_size", 4 << 20),
    # Larger windows and frames cost memory per connection and give throughput: measured in benchmarks/ingest.
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Between two tries of a connection gRPC waits up to two minutes, and calls fail meanwhile with the last error. Ours
    # must not be probes of nothing: the end of an outage would be noticed that late.
    ("grpc.max_reconnect_backoff_ms", int(PROBE_LAST_S * 1000)),
    # Retries are ours: they must be seen and counted, and an ack that was given up must not be sent behind our back.
    ("grpc.enable_retries", 0),
    # Each channel its own connection: otherwise gRPC gives channels to the same target the same one.
    ("grpc.use_local_subchannel_pool", 1),
]


class PubSubChannel:
    """An async context manager around the `grpc.aio` channels to the service, or to `PUBSUB_EMULATOR_HOST`.

    Raises `InvalidOption` on entry when there are no credentials.
    """

    def __init__(self, settings: PubSubSettings) -> None:
        self.settings = settings
        self.emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
        self.credentials: Any = None
        self._channel: grpc.aio.Channel | None = None
        self._publishing: grpc.aio.Channel | None = None
        self._lanes: list[_Lane] = []

    async def __aenter__(self) -> Self:
        """Find credentials, which may ask a metadata server, and connect lazily."""
        if not self.emulator:
            self.credentials = await asyncio.to_thread(_credentials, self.settings)
        self._channel = self._connect()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close; running calls are cancelled."""
        for channel in (self._channel, self._publishing, *(lane.channel for lane in self._lanes)):
            if channel is not None:
                await channel.close()

    @property
    def raw(self) -> grpc.aio.Channel:
        """The channel itself, for generated clients."""
        assert self._channel is not None, "enter the channel first"
        return self._channel

    def unary(self, service: str, method: str) -> grpc.aio.UnaryUnaryMultiCallable:
        """A unary call of `google.pubsub.v1.{service}`, bytes to bytes."""
        return self.raw.unary_unary(f"/google.pubsub.v1.{service}/{method}")

    def publish(self) -> grpc.aio.UnaryUnaryMultiCallable:
        """The call Publish, bytes to bytes, on a connection of its own: acks never wait behind megabytes of it."""
        if self._publishing is None:
            self._publishing = self._connect()
        return self._publishing.unary_unary("/google.pubsub.v1.Publisher/Publish")

    @contextlib.contextmanager
    def streaming_pull(self) -> Iterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
        """A StreamingPull call, bytes to bytes; cancelled at the end of the block.

        On a connection of its own kind: unary calls never wait behind the bytes of pull streams, and at most
        `STREAMS_PER_CHANNEL` of these share one. Beyond that number gRPC would queue a call without a word.
        """
        lane = next((lane for lane in self._lanes if lane.streams < STREAMS_PER_CHANNEL), None)
        if lane is None:
            lane = _Lane(self._connect())
            self._lanes.append(lane)
        lane.streams += 1
        call = lane.channel.stream_stream("/google.pubsub.v1.Subscriber/StreamingPull")()
        try:
            yield call
        finally:
            lane.streams -= 1
            call.cancel()

    def _connect(self) -> grpc.aio.Channel:
        if self.emulator:
            return grpc.aio.insecure_channel(self.emulator, options=_OPTIONS)
        return grpc.aio.secure_channel(
            self.settings.endpoint or GLOBAL_ENDPOINT, _channel_credentials(self.credentials), options=_OPTIONS
        )


@dataclass
class _Lane:
    """A connection for pull streams, and how many it carries."""

    channel: grpc.aio.Channel
    streams: int = 0


def _channel_credentials(credentials: Any) -> grpc.ChannelCredentials:
    """TLS, and a token for each call.

    The plugin refreshes one that is about to expire, so that a reopened stream never carries a stale one.
    """
    plugin = google.auth.transport.grpc.AuthMetadataPlugin(credentials, google.auth.transport.requests.Request())
    return grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), grpc.metadata_call_credentials(plugin))


def _credentials(settings: PubSubSettings) -> Any:
    """Raises `InvalidOption`."""
    if settings.credentials_file:
        from_file: Any = service_account.Credentials.from_service_account_file
        try:
            found = from_file(settings.credentials_file, scopes=SCOPES)
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise InvalidOption(
                f"pubsub.credentials_file = {settings.credentials_file!r} is no key file of a service account: {error}"
            ) from error
    else:
        try:
            found, _project = google.auth.default(scopes=SCOPES)
        except google.auth.exceptions.GoogleAuthError as error:
            raise InvalidOption(
                f"no credentials for Google Cloud: {error} Or name a service account's key file with "
                "pubsub.credentials_file, or set PUBSUB_EMULATOR_HOST to the address of an emulator"
            ) from error
    if settings.impersonate:
        found = google.auth.impersonated_credentials.Credentials(
            source_credentials=found, target_principal=settings.impersonate, target_scopes=list(SCOPES)
        )
    return found
