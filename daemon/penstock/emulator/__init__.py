"""An embedded Google Cloud Pub/Sub: enough of the service for Google's own clients, and as fast as the daemon.

Requests enter over gRPC as bytes and leave as bytes; in between messages are Arrow segments, a subscription's state is
numpy columns, and Python decides once per request or response, never per message. Everything is in memory and gone when
the process ends. With faults asked for, tests can make it fail in the ways the service fails.

The room must not know the daemon: it has its own wire code, so that an error in either is seen by the other.
"""

from penstock.emulator.fault_client import FaultClient
from penstock.emulator.server import Emulator, run
from penstock.emulator.settings import EmulatorSettings

__all__ = ["Emulator", "EmulatorSettings", "FaultClient", "run"]
