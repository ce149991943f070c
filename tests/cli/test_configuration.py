"""Where settings come from: variables of the environment that Kubernetes makes, lists with commas, and all faults at once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway import environment
from gateway.config import examine, load
from gateway.errors import ConfigurationError
from publishers import SyncPublisher

SERVICE = {
    "GATEWAY_SERVICE_HOST": "10.0.0.7",
    "GATEWAY_SERVICE_PORT": "80",
    "GATEWAY_SERVICE_PORT_HTTP": "80",
    "GATEWAY_PORT": "tcp://10.0.0.7:80",
    "GATEWAY_PORT_80_TCP": "tcp://10.0.0.7:80",
    "GATEWAY_PORT_80_TCP_PROTO": "tcp",
    "GATEWAY_PORT_80_TCP_PORT": "80",
    "GATEWAY_PORT_80_TCP_ADDR": "fd00::7",
    "GATEWAY_VALKEY_SERVICE_HOST": "10.0.0.8",  # of a Service named gateway-valkey
    "GATEWAY_VALKEY_PORT": "tcp://10.0.0.8:6379",
}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings, to be given some."""
    for name in environment.setting_variables() + environment.injected():
        monkeypatch.delenv(name)
    monkeypatch.setattr(environment, "_logged", set())
    return monkeypatch


def test_variables_that_kubernetes_makes_for_a_service_set_nothing(variables: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in SERVICE.items():
        variables.setenv(name, value)
    with caplog.at_level(logging.INFO, "gateway.config"):
        config = load()
        load()
    assert (config.port, config.valkey_port) == (8000, 0)
    (line,) = caplog.messages
    assert all(name in line for name in SERVICE), "each is named, and once"
    variables.setenv("GATEWAY_VALKEY_URL", "unix:///nowhere")
    SyncPublisher()


@pytest.mark.parametrize(
    "name, value",
    [
        ("GATEWAY_SERVICE_HOST", "not an address"),
        ("GATEWAY_SERVICE_PORT", "many"),
        ("GATEWAY_PORT", "http://10.0.0.7:80"),
        ("GATEWAY_PORT_80_TCP_PROTO", "yes"),
        ("GATEWAY_HOSTS", "10.0.0.7"),
    ],
)
def test_a_variable_of_any_other_form_is_still_an_error(variables: pytest.MonkeyPatch, name: str, value: str) -> None:
    variables.setenv(name, value)
    with pytest.raises(ConfigurationError):
        load()


def test_a_port_that_an_operator_sets_counts_beside_what_kubernetes_sets(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("GATEWAY_SERVICE_HOST", "10.0.0.7")
    variables.setenv("GATEWAY_PORT", "9000")
    assert load().port == 9000


@pytest.mark.parametrize(
    "text, items",
    [
        ("https://a.example", ["https://a.example"]),
        ("https://a.example, https://b.example,", ["https://a.example", "https://b.example"]),
        ('["https://a.example", "https://b.example"]', ["https://a.example", "https://b.example"]),
        ("[]", []),
    ],
)
def test_a_list_in_a_variable_is_json_or_has_commas(variables: pytest.MonkeyPatch, text: str, items: list[str]) -> None:
    variables.setenv("GATEWAY_ALLOWED_ORIGINS", text)
    variables.setenv("GATEWAY_TOKENS__ALGORITHMS", text)
    config = load()
    assert config.allowed_origins == config.tokens.algorithms == items


def test_all_faults_of_a_configuration_are_found_and_the_keys_that_were_meant(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables.setenv("GATEWAY_LOG_LEVLE", "debug")
    file = tmp_path / "gateway.toml"
    file.write_text(
        'prot = 1\nhmac_secret = "x"\n[channels]\nsubscribe = "friends"\n[limits]\nmessage_byte = 1\nport = 9\n'
        '[namespaces.x]\npublsh = "user"\nhistory_size = "all"\n'
    )
    config, faults = examine(file)
    assert config is None
    assert [fault.removeprefix(f"{file}: ") for fault in faults] == [
        "environment variable GATEWAY_LOG_LEVLE: there is no setting 'log_levle'; did you mean GATEWAY_LOG_LEVEL?",
        "there is no setting 'limits.message_byte'; did you mean 'limits.message_bytes'?",
        "there is no setting 'limits.port'; did you mean 'port'?",
        "channels.subscribe: Input should be 'anyone', 'user', 'owner', 'token' or 'nobody'",
        "namespaces.x.history_size: Input should be a valid integer, unable to parse string as an integer",
        "there is no setting 'namespaces.x.publsh'; did you mean 'namespaces.x.publish'?",
        "there is no setting 'prot'; did you mean 'port'?",
        "there is no setting 'hmac_secret'; did you mean 'tokens.hmac_secret'?",
    ]
    with pytest.raises(ConfigurationError, match=r"GATEWAY_LOG_LEVLE.*\(and 7 more"):
        load(file)


def test_a_fault_names_the_place_that_the_wrong_value_is_in(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A configuration file that is right is not to be searched."""
    (file := tmp_path / "gateway.toml").write_text("port = 8000\nworkers = 0\nalerts = 5\n[limits]\nconnections = 5\n")
    variables.setenv("GATEWAY_LIMITS__CONNECTIONS", "many")
    variables.setenv("GATEWAY_TOKENS", '{"leewy": 5}')
    _, faults = examine(file, port=99999)
    assert sorted(faults) == [
        f"{file}: alerts: Input should be a table",
        f"{file}: workers: Input should be greater than or equal to 1",
        "environment variable GATEWAY_LIMITS__CONNECTIONS: limits.connections: Input should be a valid integer, unable to parse string as an integer",
        "environment variable GATEWAY_TOKENS: there is no setting 'tokens.leewy'; did you mean 'tokens.leeway'?",
        "option --port: port: Input should be less than or equal to 65535",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('allowed_origins = "http://localhost:3000"', 'allowed_origins: Input should be a list, in brackets: ["…"]'),
        ('api_keys = "key"', 'api_keys: Input should be a list, in brackets: ["…"]'),
        (
            '[namespaces."chat:room"]\nsubscribe = "user"',
            'namespaces: \'chat:room\' is no name of 1 to 64 letters, digits, "_", "." and "-"; '
            "a namespace is the word before the colon of its channels",
        ),
    ],
)
def test_a_value_of_another_shape_is_refused_with_what_to_write(
    variables: pytest.MonkeyPatch, tmp_path: Path, text: str, fault: str
) -> None:
    """They were pydantic's words: "should be a valid list", and a regular expression for a key called [key]."""
    (file := tmp_path / "gateway.toml").write_text(text)
    _, faults = examine(file)
    assert faults == [f"{file}: {fault}"]


def test_metrics_on_the_port_of_the_clients_are_a_fault(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (file := tmp_path / "gateway.toml").write_text("port = 9000\nmetrics_port = 9000\n")
    _, (fault,) = examine(file)
    assert fault.startswith(f"{file}: metrics_port and port are both 9000")


@pytest.mark.parametrize("name", ["drain_seconds", "limits.slow_seconds"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_no_time_is_without_an_end(variables: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str) -> None:
    (file := tmp_path / "gateway.toml").write_text(f"{name} = {value}\n")
    with pytest.raises(ConfigurationError, match=f"{name}: Input should be a finite number"):
        load(file)


def test_a_home_of_nobody_is_a_fault_and_no_folder(variables: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="data_dir: there is no user 'nobody-is-called-so' whose home"):
        load(data_dir="~nobody-is-called-so/gateway")


def test_white_space_around_a_key_which_no_request_can_send_is_left_out(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As of a secret of Kubernetes that was made with ``echo``."""
    variables.setenv("GATEWAY_METRICS_KEY", "m1\n")
    (file := tmp_path / "gateway.toml").write_text('api_keys = ["k1\\n", "", " "]\n')
    config = load(file)
    assert (config.api_keys, config.metrics_key) == (["k1"], "m1")
