"""Commands that start something: the daemon, the emulator, the demo."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from penstock.errors import InvalidOption

Flag = Parameter(negative=())


def serve(  # noqa: PLR0913 - flags
    *,
    config: Path | None = None,
    listen: str | None = None,
    advertise: str | None = None,
    http: str | None = None,
    insecure_bind: Annotated[bool | None, Flag] = None,
    subscription: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    prefetch: Annotated[bool | None, Flag] = None,
    drain_timeout_s: float | None = None,
    memory_limit_mb: int | None = None,
    log_format: Literal["console", "json"] | None = None,
    log_level: Literal["debug", "info", "warning", "error"] | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = (),
) -> int:
    """Run the daemon until SIGTERM or Ctrl-C, which drain it; a second one ends it at once.

    Settings come from defaults, below the file, below PENSTOCK_… in the environment, below these flags.

    Parameters
    ----------
    config
        TOML file of settings.
    listen
        Where Arrow Flight is served: grpc://host:port.
    advertise
        The address that Spark is told, if it differs.
    http
        host:port of /metrics, /healthz and /readyz.
    insecure_bind
        Allow addresses that other machines reach, though nothing is encrypted or checked.
    subscription
        projects/P/subscriptions/S to serve; a pattern with * ? [] serves all that match. May be repeated.
    prefetch
        Pull subscriptions named in full before anybody opens them.
    drain_timeout_s
        Time for readers to finish after SIGTERM.
    memory_limit_mb
        Limit of all buffers together, in MiB.
    log_format
        console or json.
    log_level
        The least that is logged.
    set_
        Any other setting as KEY=VALUE, such as pubsub.max_streams=8. May be repeated.
    """
    from penstock import service  # noqa: PLC0415
    from penstock.settings import load  # noqa: PLC0415
    from penstock.telemetry import logs  # noqa: PLC0415

    overrides = _assigned(set_)
    flags: dict[str, Any] = {
        "listen": listen,
        "advertise": advertise,
        "http": http,
        "insecure_bind": insecure_bind,
        "subscriptions": subscription or None,
        "prefetch": prefetch,
        "drain_timeout_s": drain_timeout_s,
        "reservoir.memory_limit_mb": memory_limit_mb,
        "log.format": log_format,
        "log.level": log_level,
    }
    for key, value in flags.items():
        if value is not None:
            _put(overrides, key, value)
    settings = load(config, overrides)
    logs.configure(settings.log)
    return service.run(settings)


def emulator(  # noqa: PLR0913 - flags
    *,
    port: int = 8085,
    host: str = "127.0.0.1",
    http_port: int | None = None,
    faults: Annotated[bool, Flag] = False,
    stream_close_after_s: float | None = None,
    insecure_bind: Annotated[bool, Flag] = False,
) -> int:
    """Run an embedded Pub/Sub in memory, for Google's clients (PUBSUB_EMULATOR_HOST) and this daemon alike.

    Parameters
    ----------
    port
        gRPC port; 0 takes any free one.
    host
        Address to listen on.
    http_port
        Port for statistics, and for faults where they are allowed; none by default.
    faults
        Let tests make it fail over HTTP.
    stream_close_after_s
        End each StreamingPull at this age, as the service does.
    insecure_bind
        Allow an address that other machines reach.
    """
    from penstock.emulator import EmulatorSettings, run  # noqa: PLC0415
    from penstock.settings import is_loopback  # noqa: PLC0415

    if not insecure_bind and not is_loopback(host):
        raise InvalidOption(f"--host {host} is reachable from other machines; use 127.0.0.1, or say --insecure-bind")
    if faults and http_port is None:
        raise InvalidOption("--faults are asked for over HTTP: say --http-port N as well (0 takes any free one)")
    run(
        EmulatorSettings(
            port=port, host=host, http_port=http_port, faults=faults, stream_close_after_s=stream_close_after_s
        )
    )
    return 0


def demo(
    *,
    messages: int = 300_000,
    data_bytes: int = 1024,
    rate: float | None = None,
    json: Annotated[bool, Flag] = False,
) -> int:
    """See it work: emulator, publisher, daemon and a local Spark query, ending in a summary that adds up.

    Parameters
    ----------
    messages
        How many to publish.
    data_bytes
        Bytes of data in each.
    rate
        Messages per second; by default as fast as it goes.
    json
        Print the summary as one JSON object on the last line.
    """
    for option, value in (("--messages", messages), ("--data-bytes", data_bytes), ("--rate", rate)):
        if value is not None and value <= 0:
            raise InvalidOption(f"{option} {value}: must be more than 0")
    try:
        from penstock.demo.run import DemoSettings, run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("pyspark", "py4j")):
            raise
        raise InvalidOption("the demo needs Spark, which comes with: pip install 'penstock[daemon,spark]'") from error

    return run(DemoSettings(messages=messages, data_bytes=data_bytes, rate=rate, json=json))


def _assigned(assignments: tuple[str, ...]) -> dict[str, Any]:
    """The tree of `KEY=VALUE`s. A value is read as TOML; what is not TOML is text."""
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise InvalidOption(f"--set {assignment}: must look like KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        _put(tree, key.strip(), value)
    return tree


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *rooms, last = key.split(".")
    for room in rooms:
        tree = tree.setdefault(room, {})
        if not isinstance(tree, dict):
            raise InvalidOption(f"--set {key}: {room} was given a value of its own")
    tree[last] = value
