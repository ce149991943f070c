"""The command ``gateway doctor``: what it prints, how it ends, where it reads tokens from, and that it leaves everything as it was."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pytest
import valkey

from gateway.cli import app

from ...kit.gateways import API_KEY, RunningGateway, Start
from ...kit.programs import run
from ...kit.tokens import SECRET, token


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(
        'allowed_origins = ["https://app.example.org"]\n[limits]\nconnections = 500\n[namespaces.tick]\nsubscribe = "token"\n'
    )


@pytest.fixture(scope="module")
def used(gateway: RunningGateway, valkey_url: str) -> list[str]:
    """The options by which the doctor finds the gateway, with its own settings."""
    file = gateway.data_dir.parent / "doctor.toml"
    file.write_text(
        f'port = {gateway.port}\nprefix = "{gateway.prefix}"\nvalkey_url = "{valkey_url}"\napi_keys = ["{API_KEY}"]\n'
        f'allowed_origins = ["https://app.example.org"]\n[limits]\nconnections = 500\n[namespaces.tick]\nsubscribe = "token"\n'
        f'[tokens]\nhmac_secret = "{SECRET}"\n'
    )
    return ["--config", str(file)]


def _keys(url: str, prefix: str) -> dict[bytes, bytes]:
    """All keys of a prefix but those by which a running gateway shows that it lives."""
    with valkey.Valkey.from_url(url) as client:
        return {key: client.dump(key) for key in client.scan_iter(f"{prefix}:*") if b"nodes" not in key and b"fingerprints" not in key}


def test_a_gateway_that_is_well_is_found_so_and_nothing_is_changed(gateway: RunningGateway, used: list[str], valkey_url: str) -> None:
    before = _keys(valkey_url, gateway.prefix)
    outcome = run(
        "doctor",
        "--token",
        "-",
        "--origin",
        "https://app.example.org",
        "--channel",
        "posts:1",
        "--url",
        gateway.url,
        "--wait",
        1,
        *used,
        stdin=token().encode(),
    )
    assert outcome.status == 0 and outcome.error == ""
    assert outcome.out.splitlines()[-1].startswith("found: 0 faults, ")
    for line in (
        "token: user 'u1'",
        "origin: pages of",
        "channel posts:1: user 'u1'",
        "itself, with no proxy between",
        "the gateway's file descriptors",
    ):
        assert line in outcome.out
    assert _keys(valkey_url, gateway.prefix) == before and gateway.clients == 0


def test_what_would_be_refused_comes_first_with_the_line_to_change_and_ends_with_1(used: list[str], tmp_path: Path) -> None:
    given = token("ann")
    file = tmp_path / "token"
    file.write_text(f"{given}\n")
    outcome = run("doctor", "--token-file", file, "--channel", "tick:x", *used)
    assert outcome.status == 1
    first, second = outcome.out.splitlines()[:2]
    assert first == 'fault      channel tick:x: namespace tick, subscribe = "token": a client needs a subscription token for the channel'
    assert second.startswith("           change: ") and 'namespaces.tick.subscribe = "user"' in second
    report = json.loads(run("doctor", "--json", "--token", given, "--channel", "tick:x", *used).out)
    assert not report["ok"] and report["findings"][0]["weight"] == "fault" and "machine" in report["fine"]
    assert not any(secret in outcome.out + json.dumps(report) for secret in (given, SECRET, API_KEY))


def test_faults_that_gateway_check_finds_are_among_the_findings(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("[limits]\nmessage_byte = 1\n")
    outcome = run("doctor", "--config", file)
    assert outcome.status == 1 and "limits.message_byte" in outcome.out and outcome.out.startswith("fault ")
    outcome = run("doctor", "--data-dir", tmp_path / "none", "--channel", "posts:1")
    assert outcome.status == 1 and "no gateway runs on" in outcome.out and "not tried  Valkey's settings" in outcome.out


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("--url", "live.example.org"), "https://live.example.org"),
        (("--url", "https://me:secret@live.example.org"), "without a login"),
        (("--token", "-"), "no token on standard input"),
        (("--channel", "{x}"), "brace"),
        (("--wait", "0"), "--wait"),
    ],
)
def test_wrong_use_is_refused(words: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(click.UsageError) as refusal:
        app(["doctor", *words], standalone_mode=False)
    assert complaint in refusal.value.format_message() and "secret" not in refusal.value.format_message()
