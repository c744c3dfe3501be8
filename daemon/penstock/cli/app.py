"""The commands and their flags. Each gathers its settings and calls one room."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, validators
from cyclopts.validators import Number

from penstock.cli import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from penstock.errors import CallerError, InvalidOption, PenstockError

app = App(
    name="penstock",
    help="Google Cloud Pub/Sub to Apache Spark as sealed, replayable Arrow batches.",
    version=lambda: installed_version("penstock"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `dispatch` decides on the exit code
    default_parameter=Parameter(negative=()),
)

Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command. Errors of ours become one readable line on standard error; anything else is a defect."""
    try:
        result = app(arguments, exit_on_error=False, print_error=True)
    except CycloptsError:
        return WRONG_USAGE  # cyclopts has said what is wrong
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, CallerError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `penstock tail | head`: the reader has what it wanted. The interpreter flushes standard output once more at
        # exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return result if isinstance(result, int) else DONE


@app.command
def serve(  # noqa: PLR0913 - flags
    *,
    config: Path | None = None,
    subscription: Annotated[tuple[str, ...], Parameter(name=("--subscription", "-s"), show_default=False)] = (),
    prefetch: bool | None = None,
    data_dir: str | None = None,
    listen: str | None = None,
    advertise: str | None = None,
    http: str | None = None,
    insecure_bind: bool | None = None,
    memory_limit_mb: int | None = None,
    drain_timeout_s: float | None = None,
    log_format: Literal["console", "json"] | None = None,
    log_level: Literal["debug", "info", "warning", "error"] | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = (),
) -> int:
    """Run the daemon until SIGTERM or Ctrl-C, which drain it; a second one ends it at once.

    Flags stand above PENSTOCK_… environment variables (PENSTOCK_LISTEN, PENSTOCK_PUBSUB__MAX_STREAMS), and those above
    the settings file. PUBSUB_EMULATOR_HOST is honoured.

    Parameters
    ----------
    config
        TOML file of settings.
    subscription
        Allow a subscription (projects/P/subscriptions/S) or a pattern; repeat for more. It is pulled from the first
        reader on.
    prefetch
        Pull subscriptions that are named in full from the start.
    data_dir
        Folder where sealed batches outlive the daemon; each daemon needs its own.
    listen
        Where Arrow Flight is served: grpc://127.0.0.1:8815.
    advertise
        The address that Spark's tasks are told: grpc://HOST:PORT.
    http
        Where /metrics, /healthz and /readyz are: 127.0.0.1:9464.
    insecure_bind
        Allow addresses beyond loopback. Nothing is encrypted and nobody is asked who he is.
    memory_limit_mb
        MiB of all buffers together.
    drain_timeout_s
        How long readers may finish after SIGTERM.
    log_format
        Look of the log on standard error.
    log_level
        Least level of log lines.
    settings
        Any other setting, as ROOM.KEY=VALUE: --set pubsub.max_streams=4. Repeat for more; `penstock settings`
        lists all.
    """
    from penstock.cli.flags import overrides  # noqa: PLC0415
    from penstock.settings import load  # noqa: PLC0415
    from penstock.telemetry import logs  # noqa: PLC0415

    given = {
        "subscriptions": subscription or None,
        "prefetch": prefetch,
        "data_dir": data_dir,
        "listen": listen,
        "advertise": advertise,
        "http": http,
        "insecure_bind": insecure_bind,
        "drain_timeout_s": drain_timeout_s,
        "reservoir": {"memory_limit_mb": memory_limit_mb},
        "log": {"format": log_format, "level": log_level},
    }
    loaded = load(config, overrides(given, settings))
    logs.configure(loaded.log)
    from penstock import service  # noqa: PLC0415 - grpc reads the environment that `logs` sets

    return service.run(loaded)


@app.command
def emulator(
    *,
    port: Port = 8085,
    host: str = "127.0.0.1",
    http_port: Port | None = None,
    faults: bool = False,
    stream_close_after_s: Seconds | None = None,
    insecure_bind: bool = False,
) -> int:
    """Run an embedded Pub/Sub, in memory, for Google's own clients: set PUBSUB_EMULATOR_HOST to its address.

    Parameters
    ----------
    port
        0 takes any free one; it is printed.
    host
        Address to listen on.
    http_port
        Serve figures over HTTP on this port.
    faults
        Let requests on the HTTP port make it fail, for tests.
    stream_close_after_s
        End each StreamingPull at this age, as the service does about every 30 minutes.
    insecure_bind
        Allow a host beyond loopback.
    """
    from penstock.emulator import EmulatorSettings, run  # noqa: PLC0415
    from penstock.settings import is_loopback  # noqa: PLC0415

    if not insecure_bind and not is_loopback(host):
        raise InvalidOption(f"--host {host} is reachable from other machines; use 127.0.0.1, or say --insecure-bind")
    if faults and http_port is None:
        raise InvalidOption("--faults are asked for over HTTP: say --http-port N as well (0 takes any free one)")

    settings = EmulatorSettings(
        port=port, host=host, http_port=http_port, faults=faults, stream_close_after_s=stream_close_after_s
    )
    try:
        run(settings)
    except OSError as error:
        raise PenstockError(str(error)) from error
    return DONE


@app.command
def demo(
    *,
    messages: Count = 300_000,
    data_bytes: Annotated[int, Parameter(validator=Number(gte=1, lte=9_000_000))] = 1024,
    rate: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    json: bool = False,
) -> int:
    """The first run: emulator, publisher, daemon and a local Spark query, ending in a summary that adds up.

    Parameters
    ----------
    messages
        How many to publish.
    data_bytes
        Size of each message's data.
    rate
        Messages per second; default: as fast as it goes.
    json
        Print the summary as one JSON object on the last line.
    """
    from penstock.demo.run import DemoSettings, run  # noqa: PLC0415

    return run(DemoSettings(messages=messages, data_bytes=data_bytes, rate=rate, json=json))


@app.command
def tail(
    subscription: str,
    /,
    *,
    daemon: str | None = None,
    limit: Annotated[Count | None, Parameter(name=("--limit", "-n"))] = None,
    wait_s: Seconds | None = None,
    ack: bool = False,
    share: bool = False,
) -> int:
    """Print messages of a subscription as JSON lines, and leave them on it: they are given back at the end.

    Parameters
    ----------
    subscription
        projects/P/subscriptions/S
    daemon
        host:port; default: PENSTOCK_ENDPOINT, or localhost:8815.
    limit
        End after this many messages.
    wait_s
        End when there was no message for this long; default: wait for ever.
    ack
        Acknowledge what was printed: then nobody else gets it.
    share
        Read although another consumer reads the subscription: each message goes to one of the two.
    """
    from penstock.cli.looking import tail  # noqa: PLC0415

    return tail(subscription, daemon=daemon, limit=limit, wait_s=wait_s, ack=ack, share=share)


@app.command
def publish(  # noqa: PLR0913 - flags
    *,
    parquet: Annotated[Path, Parameter(validator=validators.Path(exists=True, dir_okay=False))],
    topic: str | None = None,
    daemon: str | None = None,
    project: str | None = None,
    json: bool = False,
    create_topic: bool = False,
    on_invalid: Literal["fail", "skip", "deadletter"] = "fail",
    dead_letter_topic: str | None = None,
    gzip: bool = False,
    quiet: bool = False,
) -> int:
    """Publish the rows of a Parquet file, and end when Pub/Sub has confirmed every one.

    Columns: data (or payload), attributes, ordering_key, topic.

    Parameters
    ----------
    parquet
        The file.
    topic
        projects/P/topics/T, or T with --project; of rows whose column topic names none.
    daemon
        host:port; default: PENSTOCK_ENDPOINT, or localhost:8815.
    project
        Of topics that are named by their ID only.
    json
        Make the payload of all columns but attributes, ordering_key and topic.
    create_topic
        Create topics that do not exist.
    on_invalid
        What to do with rows that Pub/Sub would refuse.
    dead_letter_topic
        Where they go with --on-invalid deadletter.
    gzip
        Send requests compressed.
    quiet
        No progress bar.
    """
    from penstock.cli.publishing import publish_parquet  # noqa: PLC0415
    from penstock.client import Publisher  # noqa: PLC0415
    from penstock.client.writing import COMPRESS_ABOVE_BYTES  # noqa: PLC0415

    with Publisher(
        topic,
        project_id=project,
        endpoint=daemon,
        as_json=json,
        compress_above_bytes=COMPRESS_ABOVE_BYTES if gzip else None,
        create_topic=create_topic,
        on_invalid=on_invalid,
        dead_letter_topic=dead_letter_topic,
    ) as publisher:
        return publish_parquet(publisher, parquet, quiet=quiet)


@app.command
def status(*, daemon: str | None = None, json: bool = False) -> int:
    """Show what a daemon holds and does.

    Parameters
    ----------
    daemon
        host:port; default: PENSTOCK_ENDPOINT, or localhost:8815.
    json
        Everything as one JSON object.
    """
    from penstock.cli.looking import status  # noqa: PLC0415

    return status(daemon, as_json=json)


@app.command
def settings() -> int:
    """Print every setting of the daemon with its default, as a TOML file for `serve --config`."""
    from penstock.settings import as_toml  # noqa: PLC0415

    print(as_toml(), end="")
    return DONE


@app.command
def version() -> int:
    """Print the version."""
    print(installed_version("penstock"))
    return DONE
