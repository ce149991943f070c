"""The program ``gateway``: exit status 0, 1 or 2, errors in one line on standard error and never a traceback.

Each command is a process of its own, half a second of one core: those of a kind run beside each other.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from unittest.mock import AsyncMock

import jwt
import pytest

from gateway.cli import commands, main
from gateway.cli.commands import _print_history
from gateway.cli.programs import demo
from gateway.config import Config, Tokens, load
from gateway.errors import GatewayError
from gateway.publication import Position, Publication
from gateway.serve.first_run import with_secrets
from gateway.store.history import History, Page

from ..kit import forks
from ..kit.forks import Program
from ..kit.gateways import RunningGateway, Start
from ..kit.keys import made
from ..kit.programs import ENVIRONMENT, Outcome, Process, cpu_seconds, end_embedded, forked, pid_of_embedded, process, run, run_alone, runs
from ..kit.waiting import wait_until


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    """With its embedded Valkey, as a first run has it."""
    return start_gateway_once("[namespaces.endless]\nhistory_size = -1\n", valkey_url=None)


@pytest.fixture(scope="module")
def used(gateway: RunningGateway) -> list[str]:
    """The options by which a command finds it. The prefix is the tests'."""
    file = gateway.data_dir / "client.toml"
    file.write_text(f'prefix = "{gateway.prefix}"\n')
    return ["--config", str(file), "--data-dir", str(gateway.data_dir)]


# What cannot work. All of these run beside each other, and beside the other tests, each in a fork of a process that has imported the program.

NOBODY = ("no gateway runs on", 'start "gateway serve" or pass --valkey-url', "pass its --config or --data-dir")

# A command line, its status, and the words of its error. $file holds the text, where there is one. Variables of the environment come first.
CASES: dict[str, Any] = {
    "unknown command": ("levitate", 2, ("levitate",)),
    "unknown option": ("serve --levitate", 2, ("--levitate",)),
    "missing argument": ("publish chat:1", 2, ("DATA",)),
    "port that is text": ("serve --port x", 2, ("--port", "'x'")),
    "port out of range": ("serve --port 70000 --data-dir $empty", 1, ("port", "65535")),
    "data that is no JSON": ("publish chat:1 hello $here", 2, ("DATA is not JSON", "hello", "in quotes")),
    "channel with braces": ("publish '{x}' 1 $here", 2, ("brace", "{x}")),
    "channel with a newline": ("history 'a\nb' $here", 2, ("control character",)),
    "channel too long": (f"subscribe {'x' * 300} $here", 2, ("longer than 255",)),
    "channel without a name": ("publish '' 1 $here", 2, ("no name",)),
    "bad position": ("history posts:1 --since 17 $here", 2, ("'17' is not a position", "EPOCH:OFFSET")),
    "position past 2^53": ("subscribe posts:1 --since e:9007199254740992 $here", 2, ("past",)),
    "negative limit": ("history posts:1 --limit -1 $here", 2, ("--limit",)),
    "since with two channels": ("subscribe a b --since e:1 $here", 2, ("--since", "one channel")),
    "bad duration": ("token --user u --expires soon $here", 2, ("--expires", "soon", "5m")),
    "info that is no JSON": ("token --user u --info '{' $here", 2, ("--info is not JSON",)),
    "token without a user": ("token", 2, ("--user",)),
    "key with many": ("publish posts:1 - --key k $here", 2, ("--key",)),
    "unknown namespace": ("subscribe nowhere:1 $here", 1, ("nowhere", "--config")),
    "nobody serves, publish": ("publish posts:1 1 --data-dir $empty", 1, NOBODY),
    "nobody serves, history": ("history posts:1 --data-dir $empty", 1, NOBODY),
    "nobody serves, subscribe": ("subscribe posts:1 --data-dir $empty", 1, NOBODY),
    "nobody serves, check": ("check --data-dir $empty", 1, NOBODY),
    "part of the bench that is none": ("bench fan-in", 2, ("'fan-in'", "fan-out", "latency")),
    "bench in no time": ("bench --seconds 0", 2, ("--seconds", "at least 0.5")),
    "bench with a wrong scheme": ("bench --url http://127.0.0.1:1", 2, ("--url", "valkey://")),
    "bench of nobody's Valkey": ("bench --url valkey://127.0.0.1:$nobody", 1, ("no Valkey at valkey://127.0.0.1:",)),
    "bench beside what is no report": ("bench --compare $file", 1, ("$file", "no report of the bench"), "figures = 1\n"),
    "bench beside no file": ("bench --compare $folder/none.json", 2, ("--compare", "none.json")),
    "bench page in no folder": ("bench --html $folder/none/page.html", 2, ("no folder", "page.html")),
    "bench report into a folder": ("bench --json $folder", 2, ("cannot be written", "a folder")),
    "no secret": ("token --user u --data-dir $empty", 1, ("tokens.hmac_secret", "gateway serve")),
    "no algorithm of gateway token": (
        "token --user u --config $file",
        1,
        ("tokens.algorithms", "HS256"),
        '[tokens]\nhmac_secret = "0123456789abcdef0123456789abcdef"\nalgorithms = ["HS512"]\n',
    ),
    "no file": ("check --config $folder/none.toml", 1, ("none.toml",)),
    "not TOML": ("serve --config $file", 1, ("$file", "line 1"), "port = = 1\n"),
    "unknown key": ("serve --config $file", 1, ("$file", "'prot'"), "prot = 1\n"),
    "unknown key in a table": ("check --config $file", 1, ("$file", "limits.message_byte"), "[limits]\nmessage_byte = 1\n"),
    "unknown key of a namespace": ("check --config $file", 1, ("$file", "namespaces.x.publsh"), '[namespaces.x]\npublsh = "user"\n'),
    "wrong type": ("serve --config $file", 1, ("$file", "port", "integer"), 'port = "many"\n'),
    "wrong rule": ("serve --config $file", 1, ("$file", "subscribe", "anyone"), '[channels]\nsubscribe = "friends"\n'),
    "meta_ttl too short": ("check --config $file", 1, ("$file", "meta_ttl"), '[channels]\nmeta_ttl = "1m"\nhistory_ttl = "5m"\n'),
    "unknown variable": ("GATEWAY_PROT=1 check $here", 1, ("GATEWAY_PROT",)),
    "unknown nested variable": ("GATEWAY_LIMITS__MESSAGE_BYTE=1 check $here", 1, ("message_byte",)),
    "wrong variable": ("GATEWAY_PORT=many serve --data-dir $empty", 1, ("port",)),
    "unreachable Valkey": ("serve --port 0 --valkey-url valkey://127.0.0.1:$nobody", 1, ("no Valkey at valkey://127.0.0.1:",)),
    "unreachable Valkey, publish": ("publish posts:1 1 --valkey-url valkey://127.0.0.1:$nobody", 1, ("no Valkey at valkey://127.0.0.1:",)),
    "unreachable socket": ("check --valkey-url unix://$folder/none.sock", 1, ("no Valkey at unix://",)),
    "wrong Valkey, serve": ("serve --port 0 --data-dir $empty --valkey-url valkey://127.0.0.1:$web", 1, ("Valkey",)),
    "wrong Valkey, check": ("check --valkey-url valkey://127.0.0.1:$web", 1, ("Valkey",)),
    "wrong Valkey, history": ("history posts:1 --valkey-url valkey://127.0.0.1:$web", 1, ("Valkey",)),
    "silent Valkey": ("check --valkey-url valkey://127.0.0.1:$silent", 1, ("no Valkey at",)),
    "wrong scheme": ("check --valkey-url http://127.0.0.1:1", 1, ("valkey_url", "valkey://")),
    "port in use": ("serve --port $port --data-dir $empty", 1, ("port", "in use", "--port")),
    "second gateway": ("serve --port 0 --data-dir $data", 1, ("another gateway (process", "data_dir")),
    "data_dir that is a file": ("serve --port 0 --data-dir $file", 1, ("file",)),
    "host of nobody": ("serve --port 0 --host 192.0.2.1 --data-dir $empty", 1, ("192.0.2.1",)),
    "half of a certificate": ("serve --config $file", 1, ("tls_cert and tls_key go together",), 'tls_cert = "x.pem"\n'),
    "no certificate": (
        "serve --config $file",
        1,
        ("tls_cert or tls_key", "x.pem: No such file"),
        'port = 0\ntls_cert = "x.pem"\ntls_key = "y.pem"\ndata_dir = "$folder/tls"\n',
    ),
}


@pytest.fixture(scope="module", autouse=True)
def failures(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], Outcome]]]:
    """Each case was begun; its outcome is waited for when it is asked for."""
    folder = tmp_path_factory.mktemp("failures")
    places = {"folder": folder, "empty": folder / "empty", "data": gateway.data_dir, "port": gateway.port}
    places["here"] = f"--data-dir {gateway.data_dir}"
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as refusing:
        places |= {"web": web.server_port, "silent": silent.getsockname()[1], "nobody": refusing.getsockname()[1]}
        refusing.close()
        yield {name: begun(folder / name.replace(" ", "_"), places, line, *text) for name, (line, _, _, *text) in CASES.items()}
    web.shutdown()
    web.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: Any) -> None:
        """The tests' output is no place for it."""


def begun(path: Path, places: dict[str, Any], line: str, text: str = "") -> Callable[[], Outcome]:
    places = places | {"file": f"{path}.toml"}
    words = shlex.split(Template(line).substitute(places))
    variables = dict(word.split("=") for word in words if word.startswith("GATEWAY_"))
    return forked(path, *words[len(variables) :], text=Template(text).substitute(places), environment=variables)


@pytest.mark.parametrize("name", CASES)
def test_a_command_that_cannot_work_prints_one_line_and_has_its_status(failures: dict[str, Callable[[], Outcome]], name: str) -> None:
    _, status, words, *_ = CASES[name]
    file = f"{name.replace(' ', '_')}.toml"
    failures[name]().fails(status, *(word.replace("$file", file) for word in words))


def test_the_port_of_a_gateway_is_taken_before_anything_is_started(
    failures: dict[str, Callable[[], Outcome]], gateway: RunningGateway
) -> None:
    assert failures["port in use"]().status == 1
    assert gateway.http("GET", "/health/ready")[0] == 200, "the one that runs noticed nothing"


# What works.


def test_publish_history_and_subscribe_work_together(gateway: RunningGateway, used: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        position = run("publish", "posts:cli", '{"title":\n"ü"}', *used).succeeds().strip()
        epoch, _, offset = position.rpartition(":")
        assert epoch and offset == "1"
        assert run("publish", "posts:cli", '"second"', "--key", "k", *used).succeeds().strip() == f"{epoch}:2"
        repeat = pool.submit(run, "publish", "posts:cli", '"again"', "--key", "k", *used)
        ephemeral = pool.submit(run, "publish", "posts:cli", '"now"', "--ephemeral", *used)
        assert repeat.result().succeeds().strip() == f"{epoch}:2"
        assert ephemeral.result().succeeds().strip() == "announced"
        everything = pool.submit(run, "history", "posts:cli", *used)
        newest = pool.submit(run, "history", "posts:cli", "--reverse", "--limit", "1", *used)
        since = pool.submit(run, "history", "posts:cli", "--since", f"{epoch}:1", *used)
        foreign = pool.submit(run, "history", "posts:cli", "--since", "other:1", *used)
        lines = [json.loads(line) for line in everything.result().succeeds().splitlines()]
        assert lines == [
            {"channel": "posts:cli", "position": f"{epoch}:1", "data": {"title": "ü"}},
            {"channel": "posts:cli", "position": f"{epoch}:2", "data": "second"},
        ]
        assert [json.loads(line) for line in newest.result().succeeds().splitlines()] == lines[1:]
        assert [json.loads(line) for line in since.result().succeeds().splitlines()] == lines[1:]
        foreign.result().fails(1, "began anew", "other:1")


def test_lines_are_published_in_order_and_bad_ones_are_reported(gateway: RunningGateway, used: list[str]) -> None:
    documents = [json.dumps({"n": number}).encode() for number in range(3000)]
    body = b"\n".join([*documents[:1000], b"no json", b"", *documents[1000:], b"\xff\xfe"]) + b"\n"
    outcome = run("publish", "endless:lines", "-", *used, stdin=body)
    assert outcome.status == 1
    errors = outcome.error.splitlines()
    assert len(errors) == 3 and all(line.startswith("gateway: ") for line in errors), errors
    assert "line 1001 is not JSON: 'no json'" in errors[0] and "line 3003" in errors[1]
    assert errors[2] == "gateway: 2 of 3002 lines were not JSON"
    assert outcome.out.startswith("published 3000, up to ") and outcome.out.strip().endswith(":3000")
    result = gateway.api("history", channel="endless:lines", limit=-1)["result"]
    assert [publication["data"]["n"] for publication in result["publications"]] == list(range(3000))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_long_history_is_printed_whole(gateway: RunningGateway, used: list[str], reverse: bool) -> None:
    name = f"endless:long{reverse}"
    commands = [{"publish": {"channel": name, "data": number}} for number in range(1, 1201)]
    gateway.api("batch", commands=commands)
    lines = run("history", name, *(["--reverse"] if reverse else []), *used).succeeds().splitlines()
    numbers = [json.loads(line)["data"] for line in lines]
    assert numbers == (list(range(1200, 0, -1)) if reverse else list(range(1, 1201)))


async def test_a_history_that_begins_anew_while_it_is_printed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [Page(Position(epoch, 1), 0, [Publication(1, b"1")], 0.0) for epoch in ("old", "new")]
    monkeypatch.setattr(History, "read", AsyncMock(side_effect=pages))
    monkeypatch.setattr(commands, "make_commands", lambda *_, **__: AsyncMock())
    with pytest.raises(GatewayError, match="it is at new:1, and what was printed, of epoch old, is of another life"):
        await _print_history(Config(valkey_url="valkey://localhost"), "c", None, 0, False)


def test_the_last_line_without_a_newline_counts_and_nothing_publishes_nothing(used: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run, "publish", "posts:last-line", "-", *used, stdin=b'1\n{"last":true}')
        none = pool.submit(run, "publish", "posts:nothing", "-", *used, stdin=b"")
        assert one.result().succeeds().startswith("published 2, up to ")
        assert none.result().succeeds() == "published 0\n"


def test_a_token_is_minted_that_the_gateway_takes(gateway: RunningGateway) -> None:
    environment = {"GATEWAY_TOKENS__HMAC_SECRET": "a secret of the tests, long enough for HS256"}
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(run, "token", "--user", "u9", "--expires", "30m", "--info", '{"name":"Ü"}', environment=environment)
        forever = pool.submit(run, "token", "--user", "u9", "--expires", "", "--channel", "posts:1", environment=environment)
        token = plain.result().succeeds().strip()
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["sub"] == "u9" and claims["info"] == {"name": "Ü"} and claims["exp"] - claims["iat"] == 1800
        claims = jwt.decode(forever.result().succeeds().strip(), options={"verify_signature": False})
        assert claims["channel"] == "posts:1" and "exp" not in claims
    assert gateway.http("GET", "/history?channel=posts:1", None, {"Authorization": f"Bearer {token}"})[0] == 200


def test_check_reports_what_is_fine_and_what_is_doubtful(gateway: RunningGateway, tmp_path: Path) -> None:
    file = tmp_path / "doubtful.toml"
    file.write_text(
        f'data_dir = "{gateway.data_dir}"\nallowed_origins = ["*"]\n[tokens]\nhmac_secret = "short"\n[insecure]\nclients = true\napi = true\n'
    )
    out = run("check", "--config", file).succeeds()
    assert (
        re.search(r"^configuration +fine", out, re.M)
        and re.search(r"^valkey +fine", out, re.M)
        and re.search(r"^live link +fine", out, re.M)
    )
    for word in ("insecure.clients", "insecure.api", "short", "allowed_origins"):
        assert word in out


def test_help_and_version_succeed() -> None:
    with ThreadPoolExecutor(2) as pool:
        helped, version = pool.submit(run_alone, "--help"), pool.submit(run_alone, "--version")
        for command in ("serve", "publish", "subscribe", "history", "token", "check"):
            assert command in helped.result().succeeds()
        assert version.result().succeeds().startswith("gateway")


def test_a_publication_does_not_steer_the_terminal(gateway: RunningGateway, used: list[str]) -> None:
    gateway.publish("posts:controls", text := "\x9b31m\x7f\u202e")
    out = run("history", "posts:controls", *used).succeeds()
    assert out.strip().isprintable() and json.loads(out)["data"] == text


def test_output_into_a_closed_pipe_is_no_traceback(gateway: RunningGateway, used: list[str]) -> None:
    gateway.api("batch", commands=[{"publish": {"channel": "endless:pipe", "data": "x" * 1000}} for _ in range(500)])
    command = [sys.executable, "-m", "gateway", "history", "endless:pipe", *used]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as history:
        assert history.stdout is not None and history.stderr is not None
        history.stdout.readline()
        history.stdout.close()
        assert "Traceback" not in history.stderr.read().decode()


def test_subscribe_follows_channels_from_the_position_that_is_asked_for(gateway: RunningGateway, used: list[str]) -> None:
    gateway.api("batch", commands=[{"publish": {"channel": "posts:follow", "data": number}} for number in (1, 2, 3)])
    epoch = gateway.api("history", channel="posts:follow")["result"]["epoch"]
    with (
        process("subscribe", "posts:follow", "--last", "2", *used) as last,
        process("subscribe", "posts:follow", "--since", f"{epoch}:1", *used) as since,
        process("subscribe", "posts:follow", "--since", "another:1", *used) as lost,
        process("subscribe", "posts:follow", "posts:follow2", *used) as live,
    ):
        for follower in (last, since):
            assert [json.loads(follower.line()) for _ in range(2)] == [
                {"channel": "posts:follow", "position": f"{epoch}:{number}", "data": number} for number in (2, 3)
            ]
        assert f"posts:follow: a gap; history does not hold what was missed, going on from {epoch}:3" in lost.complaint()
        said = live.complaint() + live.complaint()
        assert "posts:follow: following from" in said and "posts:follow2: following from" in said
        gateway.publish("posts:follow", 4, tags={"a": "b"})
        for follower in (last, since, live):
            assert json.loads(follower.line()) == {"channel": "posts:follow", "position": f"{epoch}:4", "tags": {"a": "b"}, "data": 4}
        ended = last.end(signal.SIGINT)
        assert (ended.status, ended.error) == (0, ""), "Ctrl-C is how it ends"


def test_subscribe_ends_where_its_output_takes_nothing_more(gateway: RunningGateway, used: list[str], tmp_path: Path) -> None:
    """It would go on, and publications would be missing from the file."""
    gateway.publish("posts:full", 1)
    program = Program("gateway.cli", Path("/dev/full"), tmp_path / "err", "subscribe", "posts:full", "--last", "1", *used)
    try:
        assert program.wait(20) == 1
    finally:
        program.kill()
    assert (tmp_path / "err").read_text() == "gateway: standard output takes nothing more: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("words", ["publish posts:full 2", "history posts:full"])
def test_a_disk_that_is_full_is_one_line_also_where_little_is_printed(
    gateway: RunningGateway, used: list[str], tmp_path: Path, words: str
) -> None:
    gateway.publish("posts:full", 1)
    assert Program("gateway.cli", Path("/dev/full"), tmp_path / "err", *words.split(), *used).wait(20) == 1
    assert (tmp_path / "err").read_text() == "gateway: standard output takes nothing more: [Errno 28] No space left on device\n"


def _without_standard_files() -> None:
    for number in range(3):
        os.close(number)
    sys.argv = ["gateway", "--version"]
    with contextlib.suppress(SystemExit):
        main()
    with socket.socket() as connection:
        os._exit(connection.fileno())


def test_no_connection_has_the_number_of_a_standard_file_that_is_closed() -> None:
    """uvloop would abort the process when it closes such a connection."""
    program = forks.start(_without_standard_files)
    program.join(20)
    assert program.exitcode is not None and program.exitcode > 2


# Starting and ending.


def test_a_gateway_serves_although_nobody_can_read_that_it_is_ready(tmp_path: Path, valkey_url: str, prefix: str) -> None:
    (errors := tmp_path / "err").touch()
    words = ("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--valkey-url", valkey_url)
    program = Program("gateway.cli", Path("/dev/full"), errors, *words, environment={"GATEWAY_PREFIX": prefix})
    try:
        wait_until(lambda: "standard output takes nothing: [Errno 28]" in errors.read_text(), "it is ready, or ended")
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0 and "stopped: process" in errors.read_text()
    finally:
        program.kill()


@dataclass
class Served:
    running: Process
    url: str
    api_key: str
    token: str
    data_dir: Path
    text: str

    def api(self, method: str, **request: Any) -> dict[str, Any]:
        sent = urllib.request.Request(f"{self.url}/api/{method}", json.dumps(request).encode(), {"X-API-Key": self.api_key})
        with urllib.request.urlopen(sent, timeout=10) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def served(data_dir: Path, *arguments: Any, **options: Any) -> Iterator[Served]:
    """`gateway serve` as a newcomer starts it: no configuration, only a folder and a free port."""
    with process("serve", "--port", "0", "--data-dir", data_dir, *arguments, **options) as running:
        lines = [running.line()]
        while "Ctrl-C" not in lines[-1]:
            lines.append(running.line())
        text = "\n".join(lines)
        url = re.search(r"is ready at (\S+)", text)
        key = re.search(r"API key +(\S+)", text)
        token = re.search(r"#token=(\S+)", text)
        assert url and key and token, text
        yield Served(running, url[1], key[1], token[1], data_dir, text)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_whose_terminal_closes_ends_in_order(tmp_path: Path, workers: int) -> None:
    with process("serve", "--port", 0, "--workers", workers, "--data-dir", tmp_path) as running:
        assert " is ready at " in running.line()
        embedded = pid_of_embedded(tmp_path)
        ended = running.end(signal.SIGHUP)
        assert ended.status == 0 and ended.error.count("stopped: process") == workers, ended
    wait_until(lambda: not runs(embedded), "the embedded server is gone, which would be nobody's")


def test_a_first_run_is_ready_within_three_seconds_and_ends_cleanly(tmp_path: Path) -> None:
    """Seconds of its own: how long others have the cores meanwhile is not its doing."""
    data_dir = tmp_path / "data"
    with served(data_dir, alone=True) as first:
        assert cpu_seconds(first.running.pid) < 3
        embedded = pid_of_embedded(data_dir)
        assert first.url.startswith("http://127.0.0.1:")
        assert first.api("publish", channel="posts:1", data="kept")["result"]["offset"] == 1
        assert data_dir.stat().st_mode & 0o077 == 0 and (data_dir / "credentials.json").stat().st_mode & 0o077 == 0
        assert jwt.decode(first.token, options={"verify_signature": False})["sub"]
        ended = first.running.end(signal.SIGINT)
        assert ended.status == 0 and "Traceback" not in ended.error
    wait_until(lambda: not runs(embedded), "the embedded server is gone")
    with served(data_dir) as second:
        assert second.api_key == first.api_key, "the secrets are made once"
        assert second.api("history", channel="posts:1", limit=-1)["result"]["publications"] == [{"data": "kept", "offset": 1}]
        assert second.running.end(signal.SIGTERM).status == 0


@pytest.mark.parametrize("configured", ["", "o" * 40])
def test_a_demo_never_signs_with_the_secret_of_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str) -> None:
    """Any visitor of the demo may act as any member; its data folder may be the gateway's."""
    own = with_secrets(load(data_dir=str(tmp_path)), make=True).tokens.hmac_secret
    if configured:
        monkeypatch.setenv("GATEWAY_TOKENS__HMAC_SECRET", configured)
        monkeypatch.setenv("GATEWAY_TOKENS__JWKS_URL", "https://idp.example.org/jwks.json")
    ran: list[Config] = []
    monkeypatch.setattr("gateway.serve.server.serve", lambda config, on_ready, guests: ran.append(config))
    for _ in range(2):
        assert demo.callback is not None
        demo.callback(config=None, valkey_url="valkey://127.0.0.1", data_dir=str(tmp_path))
    tokens = ran[0].tokens
    assert len(tokens.hmac_secret) == 64 and tokens.hmac_secret not in (own, configured)
    assert ran[1].tokens == tokens == Tokens(hmac_secret=tokens.hmac_secret), "made once, and no other key is taken"


def others_may_read(folder: Path) -> list[str]:
    return [str(path) for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


def test_everything_below_a_data_folder_is_private_whoever_made_it(tmp_path: Path) -> None:
    """The demo makes the folder above its own, the relay its database, and ``mkdir`` whatever the umask leaves."""
    home = tmp_path / "home"
    with process("demo", "--port", "0", environment={"XDG_DATA_HOME": str(home)}, alone=True) as site:
        assert " is ready at " in site.line()
        assert site.end(signal.SIGINT).status == 0
    data_dir = home / "gateway"
    assert others_may_read(home) == []
    for path in (data_dir, data_dir / "demo", *(data_dir / "demo" / "appendonlydir").iterdir()):
        path.chmod(0o755)
    with served(data_dir) as gateway, process("relay", "--data-dir", data_dir, alone=True) as relay:
        assert "is published to" in relay.line()
        assert gateway.api("publish", channel="posts:1", data=1)["result"]["offset"] == 1
        assert relay.end(signal.SIGINT).status == 0 and gateway.running.end(signal.SIGINT).status == 0
    assert (data_dir / "gateway.db").exists() and others_may_read(data_dir) == []


def test_a_token_cannot_forge_a_log_line(gateway: RunningGateway) -> None:
    forged = "x\n2026-01-01 00:00:00,000 INFO    gateway.api  forged"
    signed = made("{}", {"alg": "HS256", "crit": [forged, "\x1b[2J"]})  # of any other token the log shows nothing at all
    assert gateway.http("GET", "/history?channel=posts:1", None, {"Authorization": f"Bearer {signed}"})[0] == 401
    wait_until(lambda: "forged" in gateway.log(), "the refusal is logged")
    lines = [line for line in gateway.log().splitlines() if "forged" in line]
    assert all(line.count(" INFO ") > 1 and "\x1b" not in line for line in lines), lines


def test_a_killed_gateways_server_is_adopted_with_its_data(tmp_path: Path) -> None:
    try:
        with served(tmp_path) as first:
            position = first.api("publish", channel="posts:1", data="kept")["result"]
            embedded = pid_of_embedded(tmp_path)
            assert first.running.end(signal.SIGKILL).status == -signal.SIGKILL
        assert runs(embedded)
        with served(tmp_path) as second:
            assert "adopted" in second.text
            assert pid_of_embedded(tmp_path) == embedded, "there is one server, never two"
            page = second.api("history", channel="posts:1", limit=-1)["result"]
            assert (page["epoch"], page["publications"]) == (position["epoch"], [{"data": "kept", "offset": 1}])
            assert second.running.end(signal.SIGINT).status == 0
        wait_until(lambda: not runs(embedded), "the adopted server is ended like an own one")
    finally:
        end_embedded(tmp_path)


def test_subscribe_shows_what_it_missed_while_valkey_was_away(tmp_path: Path) -> None:
    """The follower stays; gateway and Valkey end, come back, and more is published before it has found them again."""
    with served(tmp_path) as first, process("subscribe", "posts:1", "--data-dir", tmp_path) as follower:
        assert "following from" in follower.complaint()
        os.kill(follower.pid, signal.SIGPIPE)  # as a write to a Valkey that has just gone raises it
        epoch = first.api("publish", channel="posts:1", data=1)["result"]["epoch"]
        assert json.loads(follower.line())["position"] == f"{epoch}:1"
        assert first.running.end(signal.SIGINT).status == 0
        with served(tmp_path) as second:
            for number in range(2, 8):
                second.api("publish", channel="posts:1", data=number)
            assert [json.loads(follower.line()) for _ in range(6)] == [
                {"channel": "posts:1", "position": f"{epoch}:{number}", "data": number} for number in range(2, 8)
            ]
            assert second.running.end(signal.SIGINT).status == 0
        assert follower.end(signal.SIGINT).status == 0


def test_a_valkey_that_dies_under_a_gateway_is_started_again(tmp_path: Path) -> None:
    with served(tmp_path) as gateway, process("subscribe", "posts:1", "--data-dir", tmp_path) as follower:
        assert "following from" in follower.complaint()
        first = gateway.api("publish", channel="posts:1", data=1)["result"]
        assert json.loads(follower.line())["data"] == 1
        old = pid_of_embedded(tmp_path)
        os.kill(old, signal.SIGTERM)  # it writes what it holds, as a machine that shuts down would have it
        wait_until(lambda: not runs(old), "it is gone")
        again = wait_until(lambda: _publish(gateway, 2), "it publishes again", 20)
        assert again == {"offset": 2, "epoch": first["epoch"]}
        assert pid_of_embedded(tmp_path) != old
        assert json.loads(follower.line())["data"] == 2
        assert gateway.running.end(signal.SIGINT).status == 0


def _publish(gateway: Served, data: Any) -> dict[str, Any] | None:
    return gateway.api("publish", channel="posts:1", data=data, idempotency_key=f"k{data}").get("result")


def test_a_gateway_without_valkey_is_alive_but_not_ready(tmp_path: Path, start_gateway: Start) -> None:
    from gateway.store.embedded import EmbeddedServer

    server = EmbeddedServer(tmp_path / "v")
    server.start()
    gateway = start_gateway(valkey_url=server.url)
    try:
        assert gateway.http("GET", "/health/ready")[0] == 200
    finally:
        server.stop()
    wait_until(lambda: gateway.http("GET", "/health/ready")[0] == 503, "it says that it is not ready", 8)
    assert json.loads(gateway.http("GET", "/health/ready")[1])["reason"]
    assert gateway.http("GET", "/health/live")[0] == 200
    server.start()
    try:
        wait_until(lambda: gateway.http("GET", "/health/ready")[0] == 200, "it is ready again", 8)
    finally:
        gateway.stop()
        server.stop()


def test_a_long_data_dir_works_too(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long " * 20).strip() / "data"
    with served(data_dir) as gateway:
        assert run("publish", "posts:1", "1", "--data-dir", data_dir).succeeds()
        assert gateway.running.end(signal.SIGINT).status == 0
