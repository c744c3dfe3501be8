"""The daemon over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts and routes.

GET requests enter; figures that the daemon already keeps leave, gathered when they are asked for. The room must not
know Pub/Sub, Flight or the reservoir: it sees the daemon through the Protocol `Daemon`, and changes nothing in it.
"""

from penstock.http.server import Daemon, HttpServer

__all__ = ["Daemon", "HttpServer"]
