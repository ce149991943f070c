"""The life of ``static/gateway.js`` under node's own test runner, with a clock that stands still and a network that each test plays.

The tests are ``js/*.test.mjs``; the name of each is a sentence. Here they are run together, and those that failed are shown.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ..kit.javascript import NODE

FOLDER = Path(__file__).parent / "js"
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
        const {{ Gateway }} = await import({(FOLDER / "../../../static/gateway.js").resolve().as_uri()!r});
        new Gateway({{ url: "/", token: () => "" }}).subscribe("posts:tech").on("publication", () => {{}});
    """
    run = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
