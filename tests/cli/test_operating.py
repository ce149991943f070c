"""What an operator reads: reports for programs, warnings, progress, and the log of a gateway from its start to its end."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.log_setup import JsonFormatter

from ..kit.clients import client, stream
from ..kit.forks import Program
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.keys import RSA_KEY, KeyServer, jwk
from ..kit.programs import ENVIRONMENT, GATEWAY, process, run
from ..kit.tokens import SECRET
from ..kit.waiting import until


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES)


@pytest.fixture(scope="module")
def used(gateway: RunningGateway, valkey_url: str) -> list[str]:
    """The options by which a command finds its Valkey and its prefix."""
    file = gateway.data_dir.parent / "operator.toml"
    file.write_text(
        f'prefix = "{gateway.prefix}"\nvalkey_url = "{valkey_url}"\n[namespaces.sealed]\nsubscribe = "nobody"\n[tokens]\nhmac_secret = "{SECRET}"\n'
    )
    return ["--config", str(file)]


def test_without_a_command_the_help_is_printed_as_help() -> None:
    out = run().succeeds()
    assert out.startswith("Usage: ") and "Commands:" in out and "publish" in out


INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "gateway.config":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
from gateway.cli import main
main()
"""


def test_ctrl_c_while_a_command_is_still_imported_is_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "gateway: interrupted\n")


def test_check_reports_every_fault_in_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(
        f'data_dir = "{tmp_path}/none"\ntls_cert = "x.pem"\ntls_key = "y.pem"\n[tokens]\npublic_key_file = "{tmp_path}/none.pem"\n'
    )
    outcome = run("check", "--config", file)
    lines = outcome.error.splitlines()
    assert outcome.status == 1 and all(line.startswith("gateway: ") for line in lines)
    for line, word in zip(lines, ("tokens.public_key_file", "tls_cert", "no gateway runs on"), strict=True):
        assert word in line
    report = json.loads(run("check", "--json", "--config", file).out)
    assert not report["ok"] and [f"gateway: {fault}" for fault in report["faults"]] == lines


def test_check_reports_keys_that_cannot_be_used_once_and_a_secret_with_the_end_of_a_line(used: list[str]) -> None:
    by = {"GATEWAY_TOKENS__ALGORITHMS": "RS256", "GATEWAY_TOKENS__HMAC_SECRET": f"{SECRET}\n"}
    outcome = run("check", *used, environment=by)
    assert outcome.status == 1 and outcome.error.count("tokens.algorithms") == 1
    assert outcome.out.count("begins or ends with white space") == 1


def test_check_warns_of_settings_that_others_leave_without_effect(used: list[str]) -> None:
    by = {"GATEWAY_VALKEY_PORT": "7000", "GATEWAY_PING_SECONDS": "10", "GATEWAY_PONG_SECONDS": "60"}
    warnings = json.loads(run("check", "--json", *used, environment=by).out)["warnings"]
    assert [each.partition(":")[0] for each in warnings] == ["valkey_port has no effect", "pong_seconds = 60 has no effect"]
    assert not json.loads(run("check", "--json", *used, environment={"GATEWAY_PING_SECONDS": "5"}).out)["warnings"]


def test_check_asks_the_key_server_without_whose_keys_a_gateway_refuses_tokens(used: list[str], key_server: KeyServer) -> None:
    by = {"GATEWAY_TOKENS__JWKS_URL": key_server.url}
    assert "warning         tokens.jwks_url answers no key that can be used\n" in run("check", *used, environment=by).out
    key_server.hold(jwk(RSA_KEY, "r"))
    assert "key server      fine (1 key can be used)\n" in run("check", *used, environment=by).out
    key_server.status = 404
    outcome = run("check", *used, environment=by)
    assert "warning         tokens.jwks_url cannot be read from here: HTTP Error 404" in outcome.out and "jwks" not in outcome.error


@pytest.mark.parametrize(
    ("words", "closed", "status", "says"),
    [
        (("queue", "purge", "default", "dead"), 0, 2, "where it cannot ask, give --yes"),
        (("restored",), 0, 2, "where it cannot ask, give --yes"),
        (("publish", "posts:x", "-"), 0, 0, ""),
        (("doctor", "--token", "-"), 0, 2, "no token on standard input"),
        (("queue", "list", "--watch"), 1, 2, "--watch needs a terminal"),
        (("recipe", "nginx"), 1, 0, ""),
    ],
)
def test_a_standard_file_that_is_closed_is_an_empty_one(
    used: list[str], words: tuple[str, ...], closed: int, status: int, says: str
) -> None:
    options = [] if words[0] == "recipe" else used
    command = [
        sys.executable,
        "-c",
        f"import os, sys; os.close({closed}); os.execvp(sys.argv[1], sys.argv[1:])",
        *GATEWAY,
        *words,
        *options,
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT, timeout=30)
    assert done.returncode == status and says in done.stderr and done.stderr.count("\n") == bool(says)


def test_check_and_publish_answer_programs_in_json(gateway: RunningGateway, used: list[str]) -> None:
    report = json.loads(run("check", "--json", *used).succeeds())
    assert report["ok"] and report["faults"] == [] and {"configuration", "valkey", "live link"} <= report["fine"].keys()
    one = json.loads(run("publish", "chat:json", "1", "--json", *used).succeeds())
    assert one == {"channel": "chat:json", "position": f"{gateway.epoch('chat:json')}:1"}
    assert json.loads(run("publish", "chat:json", "1", "--ephemeral", "--json", *used).succeeds())["position"] is None
    several = json.loads(run("publish", "chat:json", "-", "--json", *used, stdin=b"1\n2\n").succeeds())
    assert several == one | {"position": one["position"][:-1] + "3", "published": 2, "refused": 0}


@pytest.mark.parametrize(
    "channel, words", [("caht:1", ("no gateway has a namespace 'caht'", "chat")), ("sealed:1", ("let no client subscribe",))]
)
def test_publishing_or_progress_where_no_client_can_follow_warns(used: list[str], channel: str, words: tuple[str, ...]) -> None:
    published = run("publish", channel, "1", *used)
    enqueued = run("queue", "enqueue", "x", "1", "--channel", channel, *used)
    assert published.out.strip().endswith(":1") and enqueued.out.strip().endswith("-1")
    for outcome in (published, enqueued):
        assert outcome.status == 0 and outcome.error.startswith("gateway: warning: ") and outcome.error.count("\n") == 1
        assert all(word in outcome.error for word in words)


def test_many_lines_show_their_progress_on_a_terminal_alone(used: list[str], tmp_path: Path) -> None:
    lines = b"1\n" * 20
    at_once = {"gateway.cli.input_lines.PROGRESS_SECONDS": 0.0}
    assert run("publish", "endless:quiet", "-", *used, stdin=lines, constants=at_once).succeeds().startswith("published 20, ")
    (tmp_path / "lines").write_bytes(lines)
    ours, theirs = pty.openpty()
    words = ("publish", "endless:shown", "-", *used)
    terminal, output = Path(os.ttyname(theirs)), tmp_path / "out"
    assert Program("gateway.cli", output, terminal, *words, constants=at_once, given=tmp_path / "lines").wait(30) == 0
    seen = os.read(ours, 1 << 20).decode()
    os.close(ours)
    os.close(theirs)
    assert " published, " in seen and " a second" in seen and output.read_text().startswith("published 20, ")


# The log.


def test_a_gateway_starts_beside_a_service_that_is_named_gateway(valkey_url: str, tmp_path: Path, prefix: str) -> None:
    environment = {"GATEWAY_PORT": "tcp://10.0.0.7:80", "GATEWAY_SERVICE_HOST": "10.0.0.7"}
    words = ("serve", "--port", "0", "--data-dir", tmp_path, "--valkey-url", valkey_url)
    with process(*words, environment=environment | {"GATEWAY_PREFIX": prefix}, alone=True) as gateway:
        assert " is ready at " in gateway.line()
        ended = gateway.end()
    assert ended.status == 0
    assert ended.error.count("GATEWAY_PORT, GATEWAY_SERVICE_HOST") == 1, "the log names what is ignored, once"


async def test_the_log_is_json_on_demand_and_tells_the_life_of_a_process(start_gateway: Start) -> None:
    gateway = start_gateway('log_format = "json"\n')
    async with client(gateway):
        gateway.process.send_signal(15)
        await until(lambda: gateway.process.poll() is not None, "it ended")
    lines = [json.loads(line) for line in gateway.log().splitlines()]
    assert all({"time", "level", "logger", "message", "process"} <= line.keys() for line in lines)
    life = [line["message"] for line in lines if line["logger"] == "gateway.server" and line["level"] == "info"]
    assert [text.split(":")[0].split(" ")[0] for text in life] == ["started", "stopping", "draining", "stopped"]
    assert f"127.0.0.1:{gateway.port}" in life[0] and "1 clients" in life[1]


@pytest.mark.parametrize("edge", ["fast", "asgi"])
async def test_connects_and_disconnects_are_logged_at_debug_with_the_address(start_gateway: Start, edge: str) -> None:
    gateway = start_gateway('trusted_proxies = ["127.0.0.0/8"]\n', edge=edge)
    async with client(gateway, token=gateway.token("ann"), additional_headers={"X-Forwarded-For": "203.0.113.7"}):
        pass
    async with stream(gateway, "posts:1", token=gateway.token("ben"), headers={"X-Forwarded-For": "203.0.113.8"}) as events:
        await events.next()
    for user, address in (("ann", "203.0.113.7"), ("ben", "203.0.113.8")):
        for word in ("connected", "disconnected"):
            line = f"of user '{user}' {word} from {address}"
            await until(lambda line=line: line in gateway.log(), line)


def test_a_line_of_the_log_in_json_holds_its_traceback() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record: Any = logging.LogRecord("gateway.x", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info())
    text = JsonFormatter().format(record)
    fields = json.loads(text)
    assert "\n" not in text and (fields["level"], fields["message"]) == ("error", "it failed")
    assert fields["exception"].endswith("ValueError: two\nlines")


@pytest.mark.parametrize("given", ["\x9b2Jgone", "a\u2028b", "\u202ereversed", "\udc80half", "\x7f"])
def test_what_cannot_be_seen_is_an_escape_in_json_too(given: str) -> None:
    text = JsonFormatter().format(logging.LogRecord("gateway.x", logging.INFO, "", 0, "refused: %s", (given,), None))
    assert text.isprintable() and json.loads(text)["message"] == f"refused: {given}"


def test_a_line_of_the_log_is_json_whatever_standard_error_encodes() -> None:
    output = io.TextIOWrapper(written := io.BytesIO(), encoding="ascii", errors="backslashreplace", write_through=True)
    handler = logging.StreamHandler(output)
    handler.setFormatter(JsonFormatter())
    handler.handle(logging.LogRecord("gateway.x", logging.INFO, "", 0, text := "user 'é😀\x9b'", (), None))
    assert json.loads(written.getvalue())["message"] == text
