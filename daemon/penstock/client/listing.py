"""Which daemons a query is told of: addresses, or a name that stands for all that it resolves to."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock.client.node import NodeClient, host_and_port
from penstock.clock import Clock
from penstock.errors import InvalidOption, NodeUnreachable

_LOG = logging.getLogger("penstock.client")

DNS = "dns:///"
"""As gRPC writes it: https://github.com/grpc/grpc/blob/master/doc/naming.md."""

RESOLVE_AGAIN_S = 1.0
"""An idle query asks for its daemons twenty times a second, and a cluster has one name server for all of them."""


def daemon_address(text: str) -> str:
    """`host:port`, or `dns:///name:port`, checked. Raises `InvalidOption`."""
    if text.strip().startswith(DNS):
        return DNS + host_and_port(text.strip().removeprefix(DNS))
    if text.strip().startswith("dns:"):
        raise InvalidOption(f"daemon address {text!r}: write dns:///name:port, such as dns:///penstock.default:8815")
    return host_and_port(text)


class Listed:
    """The daemons at some addresses, asked anew for each epoch: names are resolved again, so that nodes come and go."""

    def __init__(
        self,
        addresses: Sequence[str],
        resolve: Callable[..., Sequence[Any]] = socket.getaddrinfo,
        clock: Clock = time.monotonic,
    ) -> None:
        self._addresses = [daemon_address(address) for address in addresses]
        self._resolve = resolve
        self._clock = clock
        self._again_at: dict[str, float] = {}
        self._clients: dict[str, NodeClient] = {}
        self._last: dict[str, list[str]] = {}

    def __call__(self) -> list[NodeClient]:
        """One client for each daemon. Raises `NodeUnreachable` when a name has never resolved."""
        endpoints = dict.fromkeys(endpoint for address in self._addresses for endpoint in self._endpoints(address))
        return [self.client(endpoint) for endpoint in endpoints]

    def client(self, endpoint: str) -> NodeClient:
        """The one to this daemon, listed or not: it may advertise another address than the one it is listed under."""
        endpoint = host_and_port(endpoint)
        if endpoint not in self._clients:
            self._clients[endpoint] = NodeClient(endpoint)
        return self._clients[endpoint]

    def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _endpoints(self, address: str) -> list[str]:
        if not address.startswith(DNS):
            return [address]
        if self._clock() < self._again_at.get(address, float("-inf")):
            return self._last[address]
        name, _, port = address.removeprefix(DNS).rpartition(":")
        try:
            found = self._resolve(name, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            if address not in self._last:
                raise NodeUnreachable(
                    f"{address} does not resolve ({error}): check the name in the option `daemons`"
                ) from error
            _LOG.warning("%s does not resolve now (%s): its daemons stay as they were", address, error)
            self._again_at[address] = self._clock() + RESOLVE_AGAIN_S
            return self._last[address]
        # A daemon that has addresses of both families must not be taken for two, of which one may never answer.
        family = socket.AF_INET if any(each[0] == socket.AF_INET for each in found) else socket.AF_INET6
        hosts = sorted({str(sockaddr[0]) for of, *_, sockaddr in found if of == family})
        self._last[address] = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
        self._again_at[address] = self._clock() + RESOLVE_AGAIN_S
        return self._last[address]
