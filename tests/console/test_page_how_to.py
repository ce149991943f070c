"""The first commands of the console's how-to page, run as they are on the page: the key that they make opens the console."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from ..documentation.how_to import Desk, code
from ..kit.ports import free_port

pytestmark = pytest.mark.slow


def test_the_key_that_the_first_commands_make_opens_the_console(tmp_path: Path) -> None:
    port = free_port()
    with Desk(tmp_path, {8000: port}, {"GATEWAY_PORT": str(port), "GATEWAY_DATA_DIR": str(tmp_path / "data")}) as desk:
        desk.write("start.sh", code("console").replace(" gateway serve", " exec gateway serve"))
        output = desk.start("bash start.sh", "ends it")
        found = re.search(r"log in with (\S+)", output.read_text())
        assert found
        body = json.dumps({"key": found[1]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/admin/session", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["role"] == "write"
        [page] = re.findall(r"  console   (\S+)", output.read_text())
        with urllib.request.urlopen(page) as answer:
            assert "gateway console" in answer.read().decode()
