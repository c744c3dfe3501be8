"""Settings of the daemon: frozen, one class per room, one reader of file, environment and flags (each above the last).

`load` is the only place that reads the environment. A TOML file has the keys of `Settings` at its top and one table
for each room; the environment has `PENSTOCK_LISTEN`, `PENSTOCK_PUBSUB__MAX_STREAMS` and so on. What leaves is a checked
`Settings`, or `InvalidOption` naming the key, the value, what is allowed, and where the value came from. The room must
not know what the settings do.
"""

from penstock.settings.address import is_loopback, split_address
from penstock.settings.loading import load
from penstock.settings.reference import as_toml
from penstock.settings.rooms import LogSettings, PublishSettings, PubSubSettings, ReservoirSettings, Settings

__all__ = [
    "LogSettings",
    "PubSubSettings",
    "PublishSettings",
    "ReservoirSettings",
    "Settings",
    "as_toml",
    "is_loopback",
    "load",
    "split_address",
]
