"""The settings of each room, and of the whole daemon: frozen, checked at construction, unknown keys refused."""

from __future__ import annotations

import fnmatch
import json
import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from penstock.settings.address import is_loopback, split_address


class _Room(BaseModel):
    # `validate_default`: the defaults depend on the machine and on each other, so they are checked like the rest.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _subscription_paths(names: tuple[str, ...]) -> tuple[str, ...]:
    """Full names, or patterns of them. Raises `ValueError`."""
    for name in names:
        parts = name.split("/")
        if not (len(parts) == 4 and parts[0] == "projects" and parts[2] == "subscriptions" and all(parts)):
            raise ValueError(f"{name!r} must look like projects/PROJECT/subscriptions/SUBSCRIPTION (* ? [] allowed)")
    return names


def _list_in_one_string(value: Any) -> Any:
    """An environment variable or a flag is one string: names separated by commas."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _table_in_one_string(value: Any) -> Any:
    """A flag is one string: a JSON object, as in an environment variable. Raises `ValueError`."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"on one line a JSON object is needed ({error})") from error


Weight = Annotated[float, Field(gt=0, le=1000)]


def _twice_the_cores() -> int:
    return min(2 * (os.cpu_count() or 1), 100)


class PubSubSettings(_Room):
    """The way to Google Cloud Pub/Sub, and how its pull streams and acks behave."""

    endpoint: str | None = Field(
        default=None, description="host:port of a regional or private endpoint; default: the global one"
    )
    credentials_file: str | None = Field(
        default=None, description="service-account key file; default: application credentials"
    )
    impersonate: str | None = Field(default=None, description="service account to impersonate")
    ack_deadline_s: int = Field(
        default=60, ge=10, le=600, description="lease asked for each message; extended at half-life"
    )
    min_streams: int = Field(default=1, ge=1, le=100, description="pull streams per subscription, at least")
    max_streams: int = Field(
        default_factory=_twice_the_cores,
        ge=1,
        le=100,
        description="pull streams per subscription, at most; default: twice the cores of the machine, 100 at most",
    )
    jitter_ms: int = Field(default=500, ge=0, le=60_000, description="pull streams start at random within this time")
    max_buffer_age_s: float = Field(
        default=60.0, gt=0, description="pulling pauses when the oldest unsealed row is older"
    )

    max_delivery_attempts: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="a message delivered more often is published to dead_letter_topic and not given to readers; "
        "counted by the service where the subscription has a dead-letter policy, else by this daemon since its start",
    )
    dead_letter_topic: str | None = Field(
        default=None,
        examples=["projects/p/topics/dead-letters"],
        description="projects/PROJECT/topics/TOPIC; {project} and {subscription} stand for those of the subscription",
    )

    @field_validator("dead_letter_topic")
    @classmethod
    def _topic_path(cls, value: str | None) -> str | None:
        parts = value.split("/") if value is not None else ["projects", "p", "topics", "t"]
        if not (len(parts) == 4 and parts[0] == "projects" and parts[2] == "topics" and all(parts)):
            raise ValueError(f"{value!r} must look like projects/PROJECT/topics/TOPIC")
        return value

    @model_validator(mode="after")
    def _dead_letters_have_a_topic(self) -> PubSubSettings:
        if (self.max_delivery_attempts is None) != (self.dead_letter_topic is None):
            raise ValueError("max_delivery_attempts and dead_letter_topic are set together or not at all")
        return self

    def dead_letters_of(self, subscription: str) -> str | None:
        """The dead-letter topic of a subscription (its full name)."""
        _, project, _, name = subscription.split("/")
        topic = self.dead_letter_topic
        return None if topic is None else topic.replace("{project}", project).replace("{subscription}", name)

    @model_validator(mode="after")
    def _streams_in_order(self) -> PubSubSettings:
        if self.min_streams > self.max_streams:
            raise ValueError(f"min_streams = {self.min_streams} must not exceed max_streams = {self.max_streams}")
        return self


class ReservoirSettings(_Room):
    """Memory, leases and contact."""

    memory_limit_mb: int = Field(default=1024, ge=16, description="bytes of all buffers together, in MiB")
    high: float = Field(default=0.9, gt=0, le=1, description="fraction of the share at which pulling pauses")
    low: float = Field(default=0.7, gt=0, le=1, description="fraction at which it resumes")
    spill_above: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="fraction of the share: sealed batches that take more wait in temporary files (see spill_dir) for "
        "their readers; one query has a third of the share sealed at a time; 1: never",
    )
    max_lease_s: float = Field(default=3600.0, ge=10, description="an unsealed chunk held longer lapses")
    consumer_timeout_s: float = Field(
        default=300.0, ge=1, description="a consumer without contact for this long is released"
    )
    remember_s: float = Field(
        default=600.0,
        ge=0,
        le=600,
        description="a committed message whose ack may not have held is dropped once if it comes again within this "
        "time; 0: never. It is dropped as well if it comes because of a seek: restart the daemon after one, or use 0",
    )
    dedupe_s: float = Field(
        default=600.0,
        ge=0,
        le=86_400,
        description="for queries with dedupe=true: a message that repeats a processed row of this daemon is dropped "
        "if it comes within this time; what repeats a row that is still held always is",
    )
    dedupe_rows: int = Field(
        default=200_000,
        ge=1,
        le=10_000_000,
        description="names of processed rows remembered for that, of each subscription; they take some 100 bytes each "
        "beside memory_limit_mb",
    )
    read_idle_s: float = Field(default=600.0, ge=1, description="a do_get without progress for this long is cancelled")

    weights: Annotated[dict[str, Weight], BeforeValidator(_table_in_one_string)] = Field(
        default={},
        examples=[{"projects/p/subscriptions/orders-*": 3}],
        description="how subscriptions divide the memory: full names or patterns with * ? [], each with a weight above "
        "0; a full name stands above patterns, a pattern above later ones; others weigh 1",
    )

    @field_validator("weights")
    @classmethod
    def _weighed_paths(cls, value: dict[str, float]) -> dict[str, float]:
        return dict(zip(_subscription_paths(tuple(value)), value.values(), strict=True))

    @model_validator(mode="after")
    def _marks_in_order(self) -> ReservoirSettings:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        return self

    @property
    def memory_limit_bytes(self) -> int:
        """The budget."""
        return self.memory_limit_mb << 20

    def weight(self, subscription: str) -> float:
        """What a subscription counts for when memory is divided."""
        fitting = (weight for pattern, weight in self.weights.items() if fnmatch.fnmatchcase(subscription, pattern))
        return self.weights.get(subscription) or next(fitting, 1.0)


class PublishSettings(_Room):
    """The way out: what Spark's sink and other writers publish through this daemon."""

    topics: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list_in_one_string)] = Field(
        default=("projects/*/topics/*",), description="full names, or patterns with * ? []; others are refused"
    )
    max_requests: int = Field(
        default=64, ge=1, le=100, description="Publish calls under way at a time; one connection carries 100"
    )
    memory_mb: int = Field(
        default=64,
        ge=1,
        description="rows taken and not confirmed yet, in MiB; writers wait beyond, on top of memory_limit_mb",
    )

    @field_validator("topics")
    @classmethod
    def _topic_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            parts = name.split("/")
            if not (len(parts) == 4 and parts[0] == "projects" and parts[2] == "topics" and all(parts)):
                raise ValueError(f"{name!r} must look like projects/PROJECT/topics/TOPIC (* ? [] allowed)")
        return value


class LogSettings(_Room):
    """Where log lines go is standard error; how they look is here."""

    format: Literal["console", "json"] = Field(default="console", description="for people, or for machines")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="the least that is logged")


class Settings(_Room):
    """All of the daemon. Built by `load`; a test may build it directly."""

    listen: str = Field(
        default="grpc://127.0.0.1:8815", description="where Arrow Flight is served; port 0 takes any free one"
    )
    advertise: str | None = Field(
        default=None,
        description="the address that tasks are told, grpc://host:port; default: the one their driver uses",
    )
    http: str = Field(default="127.0.0.1:9464", description="host:port of /metrics, /healthz and /readyz")
    insecure_bind: bool = Field(
        default=False, description="allow addresses beyond loopback: nothing is encrypted or checked"
    )
    subscriptions: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list_in_one_string)] = Field(
        default=(), description="full names, or patterns with * ? []; others are refused"
    )
    data_dir: str | None = Field(
        default=None,
        description="folder where sealed batches outlive the daemon, one daemon each: on tmpfs they survive the "
        "process, on a disk the machine; default: memory only",
    )
    fsync: bool = Field(
        default=True, description="sync data_dir at each decision; without, batches survive the process only"
    )
    spill_dir: str | None = Field(
        default=None,
        description="folder on a disk for temporary files of sealed batches, without data_dir (reservoir.spill_above); "
        "default: the system's temporary folder, if that is on a disk",
    )
    prefetch: bool = Field(default=False, description="pull subscriptions named in full before anybody opens them")
    drain_timeout_s: float = Field(default=20.0, ge=0, le=3600, description="time for readers to finish after SIGTERM")
    pubsub: PubSubSettings = PubSubSettings()
    reservoir: ReservoirSettings = ReservoirSettings()
    publish: PublishSettings = PublishSettings()
    log: LogSettings = LogSettings()

    @field_validator("listen", "advertise")
    @classmethod
    def _flight_address(cls, value: str | None) -> str | None:
        if value is not None:
            scheme, _, rest = value.partition("://")
            if scheme not in {"grpc", "grpc+tcp"}:
                raise ValueError(f"must look like grpc://host:port, not {value!r}")
            split_address(rest)
        return value

    @field_validator("http")
    @classmethod
    def _http_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("subscriptions")
    @classmethod
    def _served_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _subscription_paths(value)

    @model_validator(mode="after")
    def _spills_or_stores(self) -> Settings:
        if self.spill_dir is not None and self.data_dir is not None:
            raise ValueError("spill_dir and data_dir exclude each other: with data_dir all batches are in files there")
        return self

    @model_validator(mode="after")
    def _binds_to_loopback(self) -> Settings:
        if not self.insecure_bind:
            for key, value in (("listen", self.listen.partition("://")[2]), ("http", self.http)):
                host, _ = split_address(value)
                if not is_loopback(host):
                    raise ValueError(
                        f"{key} = {value!r} is reachable from other machines, and nothing is encrypted or checked; "
                        "use 127.0.0.1, or say insecure_bind = true (--insecure-bind)"
                    )
        return self
