"""File below environment below flags, and nothing that is not understood."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import InvalidOption
from penstock.settings import LogSettings, PubSubSettings, ReservoirSettings, Settings, as_toml, load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.upper().startswith("PENSTOCK"):
            monkeypatch.delenv(variable)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "penstock.toml"
    path.write_text(
        """
        listen = "grpc://127.0.0.1:1001"
        subscriptions = ["projects/p/subscriptions/from-file"]

        [pubsub]
        min_streams = 2
        max_streams = 20
        jitter_ms = 100
        """
    )
    return path


def test_without_anything_the_defaults_bind_to_loopback() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.listen == "grpc://127.0.0.1:8815"
    assert settings.http == "127.0.0.1:9464"
    assert settings.subscriptions == ()


def test_the_file_stands_below_the_environment_and_that_below_the_flags(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_LISTEN", "grpc://127.0.0.1:1002")
    monkeypatch.setenv("PENSTOCK_PUBSUB__MAX_STREAMS", "30")
    monkeypatch.setenv("PENSTOCK_PUBSUB__JITTER_MS", "200")
    settings = load(file, {"pubsub": {"jitter_ms": 300}, "http": None})
    assert settings.listen == "grpc://127.0.0.1:1002"
    assert (settings.pubsub.min_streams, settings.pubsub.max_streams, settings.pubsub.jitter_ms) == (2, 30, 300)
    assert settings.subscriptions == ("projects/p/subscriptions/from-file",)
    assert settings.http == "127.0.0.1:9464"


def test_one_variable_holds_several_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SUBSCRIPTIONS", "projects/p/subscriptions/a, projects/p/subscriptions/b-*")
    assert load().subscriptions == ("projects/p/subscriptions/a", "projects/p/subscriptions/b-*")


def test_settings_cannot_be_changed_once_built() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().listen = "grpc://127.0.0.1:1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen = 'x'", "unknown setting lisen .*did you mean listen"),
        ("[pubsub]\nmax_stream = 3", "unknown setting pubsub.max_stream .*did you mean max_streams"),
        ("[pubsup]\nmax_streams = 3", "unknown setting pubsup .*did you mean pubsub"),
    ],
)
def test_an_unknown_key_of_the_file_is_refused_with_a_suggestion(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InvalidOption, match=said) as raised:
        load(path)
    assert "wrong.toml" in str(raised.value)


@pytest.mark.parametrize("variable", ["PENSTOCK_LISTN", "PENSTOCK_PUBSUB__MAX_STREAM", "PENSTOCK_MAX_STREAMS"])
def test_an_unknown_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "3")
    with pytest.raises(InvalidOption, match=f"{variable}|pubsub.max_stream "):
        load()


@pytest.mark.parametrize(
    "variable",
    [
        "PENSTOCK_ENDPOINT",
        "PENSTOCK_SERVICE_HOST",
        "PENSTOCK_PORT",
        "PENSTOCK_PORT_8815_TCP",
        "PENSTOCK_EU_SERVICE_PORT_FLIGHT",
    ],
)
def test_variables_of_clients_and_of_kubernetes_are_let_pass(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:8815")
    assert load() == Settings()


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"pubsub": {"ack_deadline_s": 5}}, r"pubsub.ack_deadline_s = 5 \(from the command line\).*10.*600"),
        ({"pubsub": {"max_streams": 101}}, "pubsub.max_streams = 101 .*1.*100"),
        ({"reservoir": {"memory_limit_mb": "much"}}, "reservoir.memory_limit_mb = 'much' .*16"),
        ({"drain_timeout_s": -1}, "drain_timeout_s = -1 .*0"),
        ({"data_dir": "/a", "spill_dir": "/b"}, "spill_dir and data_dir exclude each other"),
        ({"reservoir": {"spill_above": 1.5}}, "reservoir.spill_above = 1.5 .*0.*1"),
        ({"log": {"format": "xml"}}, "log.format = 'xml' .*'console' or 'json'"),
        ({"pubsub": {"max_delivery_attempts": 5}}, "dead_letter_topic are set together"),
        ({"pubsub": {"max_delivery_attempts": 0, "dead_letter_topic": "projects/p/topics/t"}}, "attempts = 0 .*1"),
        ({"pubsub": {"max_delivery_attempts": 5, "dead_letter_topic": "dead"}}, "projects/PROJECT/topics/TOPIC"),
        ({"listen": "127.0.0.1:8815"}, "listen = '127.0.0.1:8815' .*grpc://host:port"),
        ({"http": "9464"}, "http = '9464' .*host:port"),
        ({"http": "127.0.0.1:65536"}, "http = .*65535"),
        ({"subscriptions": ["orders"]}, "projects/PROJECT/subscriptions/SUBSCRIPTION"),
        ({"reservoir": {"weights": {"orders": 2}}}, "reservoir.weights .*projects/PROJECT/subscriptions/SUBSCRIPTION"),
        (
            {"reservoir": {"weights": {"projects/p/subscriptions/a": 0}}},
            r"reservoir.weights.projects/p/subscriptions/a = 0 \(from the command line\).*greater than 0",
        ),
        ({"reservoir": {"weights": {"projects/p/subscriptions/a": "much"}}}, "projects/p/subscriptions/a = 'much' "),
        ({"reservoir": {"weights": 3}}, "reservoir.weights = 3 "),
        ({"reservoir": {"weights": "orders=3"}}, "reservoir.weights = 'orders=3' .*a JSON object is needed"),
        ({"pubsub": "4"}, r"pubsub = '4' \(from the command line\): it is a table of settings: ack_deadline_s, "),
    ],
)
def test_a_wrong_value_is_named_with_its_key_its_origin_and_what_is_allowed(tree: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        load(None, tree)


def test_a_subscription_weighs_what_its_name_says_else_its_first_pattern_else_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "penstock.toml"
    path.write_text(
        """
        [reservoir.weights]
        "projects/p/subscriptions/orders-*" = 3
        "projects/p/subscriptions/*" = 0.5
        "projects/p/subscriptions/orders-eu" = 7
        """
    )
    monkeypatch.setenv("PENSTOCK_RESERVOIR__WEIGHTS", '{"projects/q/subscriptions/a": 2}')
    settings = load(path).reservoir
    assert settings.weight("projects/p/subscriptions/orders-eu") == 7
    assert settings.weight("projects/p/subscriptions/orders-us") == 3
    assert settings.weight("projects/p/subscriptions/returns") == 0.5
    assert settings.weight("projects/q/subscriptions/a") == 2
    assert settings.weight("projects/r/subscriptions/a") == 1


def test_lists_and_tables_fit_into_one_flag_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"reservoir": {"weights": '{"projects/p/subscriptions/a": 3}'}}
    monkeypatch.setenv("PENSTOCK_PUBLISH__TOPICS", "projects/p/topics/a, projects/q/topics/*")
    assert load(None, flags).reservoir.weight("projects/p/subscriptions/a") == 3
    assert load().publish.topics == ("projects/p/topics/a", "projects/q/topics/*")
    flags = {"publish": {"topics": "projects/p/topics/b"}}
    assert load(None, flags).publish.topics == ("projects/p/topics/b",)


def test_a_variable_that_is_no_table_is_told_how_to_write_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_RESERVOIR__WEIGHTS", "orders=3")
    with pytest.raises(InvalidOption, match="JSON object"):
        load()


def test_a_wrong_variable_is_named_as_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_PUBSUB__ACK_DEADLINE_S", "1")
    with pytest.raises(InvalidOption, match="PENSTOCK_PUBSUB__ACK_DEADLINE_S"):
        load()


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"pubsub": {"min_streams": 5, "max_streams": 4}}, "min_streams = 5 .*max_streams = 4"),
        ({"reservoir": {"low": 0.9, "high": 0.9}}, "low = 0.9 .*high = 0.9"),
        ({"reservoir": {"low": 0.95}}, "low = 0.95 .*high = 0.9"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_together(tree: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        load(None, tree)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidOption) as raised:
        load(None, {"drain_timeout_s": -1, "pubsub": {"jitter_ms": -1}})
    assert "drain_timeout_s" in str(raised.value)
    assert "pubsub.jitter_ms" in str(raised.value)


@pytest.mark.parametrize(
    "tree", [{"listen": "grpc://0.0.0.0:8815"}, {"listen": "grpc://[::]:8815"}, {"http": "10.1.2.3:9464"}]
)
def test_an_address_beyond_loopback_needs_insecure_bind_in_so_many_words(tree: dict[str, str]) -> None:
    with pytest.raises(InvalidOption, match="insecure-bind"):
        load(None, tree)
    assert load(None, {**tree, "insecure_bind": True}).insecure_bind


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_every_form_of_loopback_is_loopback(host: str) -> None:
    assert load(None, {"listen": f"grpc://{host}:0", "http": f"{host}:0"})


@pytest.mark.parametrize("text", ["listen = ", "\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidOption, match=r"broken\.toml"):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"none\.toml.*No such file"):
        load(tmp_path / "none.toml")


def test_the_printed_settings_are_a_file_that_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"
    path.write_text(as_toml())
    assert load(path) == load()


def test_the_printed_settings_are_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert PubSubSettings().max_streams == 6
    here = as_toml()
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert PubSubSettings().max_streams == 100
    assert as_toml() == here
    assert "\n# max_streams =\n" in here
    assert "twice the cores" in here


def test_the_printed_settings_name_every_setting_with_its_range() -> None:
    text = as_toml()
    for room in (Settings, LogSettings, PubSubSettings, ReservoirSettings):
        for key, field in room.model_fields.items():
            if field.description:
                assert f"{key} =" in text, key
    assert "lease asked for each message; extended at half-life (>= 10, <= 600)" in text


def test_the_dead_letter_topic_may_name_the_subscription() -> None:
    orders = "projects/p/subscriptions/orders"
    one = PubSubSettings(max_delivery_attempts=5, dead_letter_topic="projects/q/topics/dead")
    each = PubSubSettings(max_delivery_attempts=5, dead_letter_topic="projects/{project}/topics/{subscription}-dead")
    assert one.dead_letters_of(orders) == "projects/q/topics/dead"
    assert each.dead_letters_of(orders) == "projects/p/topics/orders-dead"
    assert PubSubSettings().dead_letters_of(orders) is None
