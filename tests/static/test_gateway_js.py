"""The life of ``static/gateway.js`` under node's own test runner, with a clock that stands still and a network that each test plays.

The tests are ``js/*.test.mjs``; the name of each is a sentence. Here they are run together, and those that failed are shown.
"""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import Future
from pathlib import Path

import pytest

from ..kit.gateways import Start
from ..kit.javascript import NODE
from ..kit.ports import free_port

FOLDER = Path(__file__).parent / "js"
MODULE = (FOLDER / "../../../static/gateway.js").resolve()
TEST_FILES = sorted(FOLDER.glob("*.test.mjs"))
FAILED = re.compile(r"^not ok \d+ - (.*?)\n  ---\n(.*?)^  \.\.\.$", re.MULTILINE | re.DOTALL)  # of the Test Anything Protocol


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.name.removesuffix(".test.mjs"))
def test_the_client_behaves_as_its_sentences_say(file: Path) -> None:
    run = subprocess.run([NODE, "--test", "--test-reporter=tap", file], capture_output=True, text=True, timeout=60)
    failed = [f"{name}\n{detail}" for name, detail in FAILED.findall(run.stdout)]
    assert run.returncode == 0, "\n".join(failed) or run.stdout + run.stderr
    assert "\n# pass 0\n" not in run.stdout, "no test ran"


def test_it_is_imported_and_made_where_a_server_renders_the_page() -> None:
    """A process that does so ends by itself, since nothing of the gateway waits."""
    script = f"""
        const {{ Gateway }} = await import({MODULE.as_uri()!r});
        new Gateway({{ url: "/", token: () => "" }}).subscribe("posts:tech").on("publication", () => {{}});
    """
    run = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_program_of_node_with_the_package_ws_waits_for_its_gateway_and_ends_by_itself(start_gateway: Start, npm: Future[Path]) -> None:
    away = start_gateway("[namespaces.posts]\nhistory_size = 10\n", port=free_port())
    away.stop()
    script = f"""
        import {{ createRequire }} from "node:module";
        import {{ Gateway }} from {json.dumps(MODULE.as_uri())};
        const WebSocket = createRequire({json.dumps(str(npm.result()) + "/")})("ws");
        const gateway = new Gateway({{ url: {json.dumps(away.url)}, token: {json.dumps(away.token("ann"))}, platform: {{ WebSocket }} }});
        gateway.subscribe("posts:tech").on("state", ({{ state }}) => state === "live" && console.log(state));
        gateway.on("state", ({{ state }}) => state === "waiting" && console.log(state));
        gateway.on("publication", ({{ data }}) => (console.log(data), gateway.close()));
    """
    with subprocess.Popen([NODE, "--input-type=module", "-e", script], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "waiting\n"
            gateway = start_gateway("[namespaces.posts]\nhistory_size = 10\n", port=away.port)
            assert "live\n" in iter(program.stdout.readline, "")
            gateway.publish("posts:tech", "hello")
            assert program.stdout.readline() == "hello\n"
            assert program.wait(60) == 0
        finally:
            program.kill()
