"""What systemd passes to a service, and what it is sent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.serve import systemd
from gateway.serve.systemd import notify_ready, passed_listener

from ..kit.ports import free_port
from ..kit.programs import ENVIRONMENT, GATEWAY
from ..kit.waiting import wait_until
from ..kit.web_proxies import needs_program

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_serves_the_socket_that_systemd_passes_and_notifies_it(
    workers: int, tmp_path: Path, valkey_url: str, prefix: str
) -> None:
    program, port = needs_program("systemd-socket-activate"), free_port()
    settings = {"VALKEY_URL": valkey_url, "PREFIX": prefix, "WORKERS": str(workers), "PORT": "1", "DATA_DIR": str(tmp_path)}
    environment = ENVIRONMENT | {f"GATEWAY_{name}": value for name, value in settings.items()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications, (tmp_path / "output").open("wb") as output:
        notifications.bind(str(tmp_path / "notify"))
        notifications.settimeout(20)
        names = [
            "NOTIFY_SOCKET",
            *(f"GATEWAY_{name}" for name in settings),
            *(name for name in ("PATH", "PYTHONPATH") if name in os.environ),
        ]
        passed = [word for name in names for word in ("-E", name)]
        process = subprocess.Popen(
            [program, *passed, "-l", f"127.0.0.1:{port}", *GATEWAY, "serve"],
            env=environment | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=output,
            stderr=output,
        )
        try:
            wait_until(lambda: answers(port), "an answer on the passed socket", 30)
            assert notifications.recv(100) == b"READY=1"
            assert f"ready at http://127.0.0.1:{port} " in (tmp_path / "output").read_text(), "not at the configured port"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, (tmp_path / "output").read_text()


def answers(port: int) -> bool:
    """The first connection starts the gateway, and waits for it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=20) as answer:
            return answer.status == 200
    except OSError:  # systemd-socket-activate does not listen yet
        return False


def test_a_process_without_systemd_is_passed_nothing_and_notifies_nobody() -> None:
    assert passed_listener({}) is None
    assert passed_listener({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None, "it was for another process"
    notify_ready({})


def test_more_than_one_socket_is_an_error_that_names_what_to_change() -> None:
    with pytest.raises(ConfigurationError, match="ListenStream"):
        passed_listener({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_a_socket_of_notifications_that_is_gone_ends_no_gateway(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notify_ready({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert f"systemd could not be notified at {tmp_path / 'gone'} (NOTIFY_SOCKET)" in caplog.text


def test_a_connection_in_place_of_a_listening_socket_is_an_error_that_names_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        passed = os.dup(connection.fileno())
        monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", passed)
        with pytest.raises(ConfigurationError, match="Accept=no"):
            passed_listener({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
