"""The other recipes: the unit of systemd, the image, the manifests, the scrape, and what is the same for all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, load
from gateway.environment import PREFIX
from gateway.errors import ConfigurationError
from gateway.recipes import RECIPES, Installation, recipe
from gateway.recipes.facts import CONTAINERS
from gateway.recipes.filling import filled

from ..kit.programs import run
from ..kit.prometheus import needs_prometheus, promtool
from ..kit.web_proxies import needs_program

PROGRAM = str(Path(sys.executable).with_name("gateway"))
INSTALLATION = Installation("live.example.org", "/", "", PROGRAM)
UNDER_A_PATH = INSTALLATION._replace(path="/live/")
WITH_A_FILE = INSTALLATION._replace(file="/etc/gateway/gateway.toml")
SECRETS = ("first-secret", "older-secret", "api-key", "metrics-key", "of-valkey", "of-database")
IN_ENVIRONMENT = {
    "TOKENS__HMAC_SECRET": SECRETS[0],
    "TOKENS__PREVIOUS_HMAC_SECRETS": SECRETS[1],
    "API_KEYS": SECRETS[2],
    "METRICS_KEY": SECRETS[3],
    "VALKEY_URL": f"valkeys://gateway:{SECRETS[4]}@valkey.example.org",
    "DATABASE_URL": f"postgresql://gateway:{SECRETS[5]}@db.example.org/gateway",
    "LIMITS__CONNECTIONS": "100000",
    "ALERTS": '{"queues": {"$(x)%d": {"ready": 1}}}',
}
PROXIES = ("nginx", "caddy", "haproxy")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration from the environment, with secrets and without."""
    for name, value in IN_ENVIRONMENT.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    return load()


def documents(config: Config, installation: Installation = INSTALLATION, kind: str = "kubernetes") -> dict[str, Any]:
    """The documents of a manifest, by their kinds."""
    return {each["kind"]: each for each in yaml.safe_load_all(recipe(kind, config, installation)) if each}


def container(config: Config, installation: Installation = INSTALLATION) -> Any:
    return documents(config, installation)["Deployment"]["spec"]["template"]["spec"]["containers"][0]


# All of them.


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_is_printed_and_holds_no_secret(kind: str, environment: Config) -> None:
    text = recipe(kind, environment, WITH_A_FILE)
    assert text.endswith("\n") and "\n%" not in text
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize("kind", ["systemd", "docker", "compose", "kubernetes"])
def test_a_recipe_names_the_variables_of_secrets_and_has_the_others(kind: str, environment: Config) -> None:
    text = recipe(kind, environment, INSTALLATION)
    assert "should hold: GATEWAY_API_KEYS, GATEWAY_DATABASE_URL, GATEWAY_METRICS_KEY, GATEWAY_TOKENS__HMAC_SECRET, " in text
    assert kind == "docker" or "GATEWAY_LIMITS__CONNECTIONS" in text


@pytest.mark.parametrize("kind", ["docker", "compose", "kubernetes"])
def test_a_recipe_names_the_secrets_that_nothing_configures(kind: str) -> None:
    assert "GATEWAY_API_KEYS, GATEWAY_TOKENS__HMAC_SECRET" in recipe(kind, Config(), INSTALLATION)


def test_values_are_quoted_as_each_program_takes_them(environment: Config) -> None:
    alerts = IN_ENVIRONMENT["ALERTS"]
    values = {each["name"]: each.get("value") for each in container(environment)["env"]}
    assert values["GATEWAY_ALERTS"] == alerts.replace("$(", "$$(")
    compose = yaml.safe_load(recipe("compose", environment, INSTALLATION))
    assert compose["services"]["gateway"]["environment"]["GATEWAY_ALERTS"] == alerts.replace("$", "$$")
    assert r'"GATEWAY_ALERTS={\"queues\": {\"$(x)%%d\": {\"ready\": 1}}}"' in recipe("systemd", environment, INSTALLATION)


@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy_calls_a_gateway_with_tls_by_tls_and_one_on_every_address_by_loopback(kind: str) -> None:
    config = Config(host="0.0.0.0", port=9443, tls_cert="cert.pem", tls_key="key.pem")
    text = recipe(kind, config, INSTALLATION)
    assert "127.0.0.1:9443" in text
    assert {"nginx": "https://gateway;", "caddy": "https://127.0.0.1:9443", "haproxy": "9443 ssl "}[kind] in text


@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy_that_the_gateway_does_not_trust_is_named(kind: str) -> None:
    assert "does not name 127.0.0.1 now" in recipe(kind, Config(), INSTALLATION)
    assert "does not name 127.0.0.1 now" not in recipe(kind, Config(trusted_proxies=["10.0.0.0/8", "127.0.0.0/8"]), INSTALLATION)


@pytest.mark.parametrize(
    ("host", "caller"), [("::", "::1"), ("::1", "::1"), ("10.0.0.5", "10.0.0.5"), ("", "127.0.0.1"), ("localhost", "127.0.0.1")]
)
@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy_is_trusted_by_the_address_from_which_it_calls_this_gateway(kind: str, host: str, caller: str) -> None:
    text = recipe(kind, Config(host=host), INSTALLATION)
    assert f'as in trusted_proxies = ["{caller}"]' in text and f"does not name {caller} now" in text
    assert "now, so all clients" not in recipe(kind, Config(host=host, trusted_proxies=[caller]), INSTALLATION)


@pytest.mark.parametrize("kind", ["systemd", "compose", "kubernetes"])
def test_a_path_that_would_end_a_line_of_a_recipe_is_refused(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        recipe(kind, Config(), INSTALLATION._replace(file="/etc/a\nExecStartPre=/bin/evil/g.toml"))
    with pytest.raises(ConfigurationError, match="control character"):
        recipe(kind, Config(data_dir="/tmp/a\nb"), INSTALLATION)


def test_a_host_that_would_end_a_line_of_a_recipe_is_no_host() -> None:
    for host in ("a\nb", "a b", "a;b", 'a"b'):
        with pytest.raises(ValueError, match="host"):
            Config(host=host)


def test_systemd_starts_a_gateway_again_for_as_long_as_its_valkey_is_away() -> None:
    """A start without Valkey fails within a second: five of them within ten seconds would be the last, by systemd's default."""
    unit, _, service = recipe("systemd", Config(), INSTALLATION).partition("\n[Service]\n")
    assert "\nStartLimitIntervalSec=0\n" in unit and "\nRestart=always\n" in service


def test_systemd_starts_a_program_whose_path_has_spaces_and_none_with_quotes() -> None:
    assert 'ExecStart="/opt/my %%gateway/bin/gateway" serve' in recipe(
        "systemd", Config(), INSTALLATION._replace(program="/opt/my %gateway/bin/gateway")
    )
    with pytest.raises(ConfigurationError, match="quote"):
        recipe("systemd", Config(), INSTALLATION._replace(program='/opt/"/gateway'))


def test_a_program_or_a_python_in_a_home_directory_is_not_hidden_from_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    program = INSTALLATION._replace(program="/opt/gateway/bin/gateway")
    for prefix, protection in (("/usr", "yes"), ("/home/u/.local/share/uv/python/3.13", "read-only"), ("/root/.pyenv", "read-only")):
        monkeypatch.setattr("sys.base_prefix", prefix)
        assert f"ProtectHome={protection}\n" in recipe("systemd", Config(), program)


def test_a_setting_of_several_lines_is_one_line_of_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}ALERTS", '{\n "queues": {}\t}')
    assert 'Environment="GATEWAY_ALERTS={\\n \\"queues\\": {}\\t}"\n' in recipe("systemd", load(), INSTALLATION)


def test_compose_mounts_a_file_whose_path_has_a_colon_or_a_dollar_sign() -> None:
    def mounted(file: str) -> Any:
        return yaml.safe_load(recipe("compose", Config(), INSTALLATION._replace(file=file)))["services"]["gateway"]["volumes"]

    assert mounted("/etc/a:$b.toml") == [
        {"type": "bind", "source": "/etc/a:$$b.toml", "target": "/etc/gateway/gateway.toml", "read_only": True}
    ]
    assert mounted("/etc/$b.toml") == ["/etc/$$b.toml:/etc/gateway/gateway.toml:ro"]


@pytest.mark.parametrize("name", ["no", "123", "1e3"])
def test_a_name_is_a_text_in_a_manifest(name: str) -> None:
    ingress = documents(Config(), INSTALLATION._replace(name=name))["Ingress"]["spec"]
    assert ingress["rules"][0]["host"] == name and ingress["tls"][0]["hosts"] == [name]


def test_a_template_that_names_no_fact_is_an_error() -> None:
    assert filled("a {{x}}\n%if not x\nb\n%end\n%if x\nc\n%end", {"x": "1"}) == "a 1\nc\n"
    with pytest.raises(KeyError):
        filled("{{other}}", {"x": "1"})


# The command.


def test_the_command_prints_a_recipe_for_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('port = 9000\n[tokens]\nhmac_secret = "a-secret"\n')
    text = run("recipe", "systemd", "--config", str(file)).succeeds()
    assert f"LoadCredential=gateway.toml:{file}" in text and f"ExecStart={PROGRAM} serve --config %d/gateway.toml" in text
    assert "location /live/ {" in run("recipe", "nginx", "--path", "live", "--config", str(file)).succeeds()


@pytest.mark.parametrize("option", [("--path", "/a b/"), ("--path", "/a;/"), ("--name", "a{b")])
def test_a_name_or_a_path_that_would_end_a_line_of_a_recipe_is_refused(option: tuple[str, str]) -> None:
    run("recipe", "nginx", *option).fails(2, option[0])


# The programs that Debian has.


@pytest.mark.parametrize("config", [Config(port=443, valkey_url="valkey://v"), Config(tls_cert="/c.pem", tls_key="/k.pem")])
def test_systemd_takes_the_unit_and_finds_little_exposed(config: Config, tmp_path: Path) -> None:
    unit = tmp_path / "gateway.service"
    unit.write_text(recipe("systemd", config, WITH_A_FILE))
    sockets = re.findall(r"^#   (.*)$", unit.read_text(), re.MULTILINE)
    (tmp_path / "gateway.socket").write_text("\n".join(sockets) + "\n")
    analyze = needs_program("systemd-analyze")
    for file in (unit, tmp_path / "gateway.socket"):
        verified = subprocess.run([analyze, "verify", file], capture_output=True, text=True)
        assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    security = [analyze, "security", "--offline=yes", "--threshold=20", unit]
    assert subprocess.run(security, capture_output=True).returncode == 0, "an exposure above 2.0"


@needs_prometheus
def test_prometheus_takes_the_scrape(tmp_path: Path) -> None:
    (tmp_path / "prometheus_alerts.yml").write_text(recipe("alerts", Config(), INSTALLATION))
    for number, config in enumerate((Config(metrics_port=9100), Config(tls_cert="c", tls_key="k"))):
        file = tmp_path / f"{number}.yml"
        file.write_text(recipe("prometheus", config, INSTALLATION))
        promtool("check", "config", "--syntax-only", file)


# The image and the manifests.


def test_the_image_runs_as_nobody_from_named_versions_and_has_no_secret() -> None:
    lines = recipe("docker", Config(), INSTALLATION).splitlines()
    words = [line.split(" ", 1) for line in lines if line[:1].isupper()]
    assert [rest for word, rest in words if word == "ARG"] == ["BASE=python:3.13-slim-bookworm"]
    assert [rest for word, rest in words if word == "USER"] == ["65534:65534"]
    final = [word for word, _ in words][max(number for number, (word, _) in enumerate(words) if word == "FROM") :]
    assert "RUN" not in final and "ADD" not in final, "the last stage only copies"
    assert dict(words)["ENTRYPOINT"].startswith("[") and dict(words)["CMD"].startswith("["), "no shell is between Docker and the gateway"


def test_what_restarts_a_container_asks_only_whether_it_lives() -> None:
    """While Valkey is away it is not ready: it was replaced where unhealthy containers are, with which all of its clients were cut off."""
    image = recipe("docker", Config(port=8080), INSTALLATION)
    [composed] = yaml.safe_load(recipe("compose", Config(), INSTALLATION))["services"]["gateway"]["healthcheck"]["test"][-1:]
    [probe] = re.findall(r'^HEALTHCHECK .*\\\n +CMD .*"(import [^"]*)"', image, re.MULTILINE)
    assert "http://127.0.0.1:8080/health/live" in probe and "http://127.0.0.1:8000/health/live" in composed
    probes = container(Config())
    paths = {name: probes[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/health/ready", "readinessProbe": "/health/ready", "livenessProbe": "/health/live"}


def test_the_folders_and_files_that_the_image_copies_are_those_of_a_wheel() -> None:
    top = Path(__file__).parent.parent.parent
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", recipe("docker", Config(), INSTALLATION), re.MULTILINE)
    assert all((top / name).exists() for names in copied for name in names.split())
    assert {"gateway", "publishers", "static"} <= {name for names in copied for name in names.split()}


def test_compose_runs_the_gateway_read_only_with_a_valkey_of_its_own_or_yours() -> None:
    own = yaml.safe_load(recipe("compose", Config(), INSTALLATION))
    yours = yaml.safe_load(recipe("compose", Config(valkey_url="valkey://valkey.example.org"), WITH_A_FILE))
    assert own["services"].keys() == {"gateway", "valkey"} and yours["services"].keys() == {"gateway"}
    for compose in (own, yours):
        gateway = compose["services"]["gateway"]
        assert gateway["read_only"] and gateway["cap_drop"] == ["ALL"] and gateway["security_opt"] == ["no-new-privileges:true"]
        assert gateway["env_file"] == "gateway.env" and all(isinstance(value, str) for value in gateway["environment"].values())
        assert gateway["ports"] == ["127.0.0.1:8000:8000"] and gateway["tmpfs"] == ["/tmp"]
    assert own["services"]["gateway"]["depends_on"] == {"valkey": {"condition": "service_healthy"}} and own["volumes"] == {"valkey": {}}
    assert "ports" not in own["services"]["valkey"] and own["services"]["valkey"]["command"].count("noeviction") == 1
    assert yours["services"]["gateway"]["command"] == ["serve", "--config", "/etc/gateway/gateway.toml"]
    assert yours["services"]["gateway"]["volumes"] == ["/etc/gateway/gateway.toml:/etc/gateway/gateway.toml:ro"]


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize(
    "url", ["valkey://localhost", "valkeys://u:p@127.0.0.1:6380/0", "unix:///run/valkey.sock", "valkey+cluster://[::1]:7000,10.0.0.1:7001"]
)
def test_a_valkey_that_a_container_does_not_reach_by_its_address_is_named(kind: str, url: str) -> None:
    """The address of the documentation's own pages, with which the container ended and started without end."""
    text = recipe(kind, Config(valkey_url=url), INSTALLATION)
    assert "valkey_url names this machine" in text and "GATEWAY_VALKEY_URL." in text
    assert "names this machine" not in recipe(kind, Config(valkey_url="valkey+sentinel://valkey.example.org,10.0.0.1/x"), INSTALLATION)


def test_the_kubernetes_manifests_fit_together() -> None:
    found = documents(Config(metrics_port=9100), UNDER_A_PATH)
    assert {kind: each["apiVersion"] for kind, each in found.items()} == {
        "Deployment": "apps/v1",
        "Service": "v1",
        "PodDisruptionBudget": "policy/v1",
        "Ingress": "networking.k8s.io/v1",
    }
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels == found["Deployment"]["spec"]["selector"]["matchLabels"] == found["Service"]["spec"]["selector"]
    assert labels == found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    ports = {port["name"]: port["containerPort"] for port in container(Config(metrics_port=9100))["ports"]}
    assert ports == {"http": 8000, "metrics": 9100}
    [service] = found["Service"]["spec"]["ports"]
    [path] = found["Ingress"]["spec"]["rules"][0]["http"]["paths"]
    assert service["targetPort"] in ports and path["backend"]["service"] == {"name": "gateway", "port": {"name": service["name"]}}
    assert path["path"] == "/live/(.*)"


def test_a_pod_is_hardened_and_has_time_to_drain() -> None:
    config = Config(drain_seconds=300)
    pod = documents(config)["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["enableServiceLinks"] and not pod["automountServiceAccountToken"]
    assert pod["terminationGracePeriodSeconds"] >= 300 + 5 + 10
    assert container(config)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_what_a_pod_mounts_are_volumes_that_it_has(environment: Config) -> None:
    config = environment.model_copy(update={"tokens": environment.tokens.model_copy(update={"public_key_file": "/k.pem"})})
    volumes = documents(config, WITH_A_FILE)["Deployment"]["spec"]["template"]["spec"]["volumes"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container(config, WITH_A_FILE)["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "file": "/etc/gateway/gateway.toml", "key": "/etc/gateway/public_key.pem"}
    assert {volume["name"]: volume.get("secret", {}).get("secretName") for volume in volumes} == {
        "tmp": None,
        "file": "gateway-file",
        "key": "gateway-key",
    }
    assert {"name": "GATEWAY_TOKENS__PUBLIC_KEY_FILE", "value": mounts["key"]} in container(config, WITH_A_FILE)["env"]
