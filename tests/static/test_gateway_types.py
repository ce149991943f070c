"""``static/gateway.d.ts``: it declares what ``gateway.js`` has, and TypeScript finds the mistakes of a program that uses it.

What the module has comes from the module: ``js/surface.mjs`` makes a gateway, and prints its members, the options that it reads and
the fields of the events that it emits.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import Future
from pathlib import Path

import pytest

from ..kit.javascript import NODE

STATIC = Path(__file__).parents[2] / "static"
OPTIONS = "--noEmit --strict --target es2022 --lib es2022,dom --module esnext --moduleResolution bundler".split()

SAME = """
import * as declared from "./gateway.js";
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : { missing: Exclude<B, A> }) : { notThere: Exclude<A, B> };
"""

# Each line that ends with "// mistake" is one, and no other.
PROGRAM = """
import { Gateway, GatewayError, type Position, type Subscription } from "./gateway.js";

interface Post { id: number; text: string }

const gateway = new Gateway({ url: "https://gateway.example", token: () => fetch("/my-token"), debug: true });
new Gateway();
new Gateway({ token: "a.b.c", platform: { WebSocket, EventSource, fetch, now: () => 0, random: Math.random, console } });
new Gateway({ token: async () => null });
new Gateway({ token: fetch("/my-token") }); // mistake
new Gateway({ token: () => 17 }); // mistake
new Gateway({ timeoutMs: "5 s" }); // mistake
new Gateway({ tokens: "a.b.c" }); // mistake

const posts: Subscription<Post> = gateway.subscribe<Post>("posts:tech", { since: { epoch: "e", offset: 7 }, joinLeave: true });
const stop = posts.on("publication", ({ data, recovered }) => show(data.text, recovered)).on("join", ({ info }) => show(info.user, true));
stop();
posts.on("publication", ({ data }) => show(data.title, true)); // mistake
posts.on("publications", () => {}); // mistake
posts.on("unread", () => {}); // mistake
gateway.on("unread", ({ unread }) => show(unread.toFixed(), true));
gateway.on("state", ({ state, retryMs }) => state === "waiting" && show(`again in ${retryMs ?? 0} ms`, true));
gateway.on("state", ({ state }) => state === "open" && show(state, true)); // mistake
posts.off("gap", () => {}).off("state", () => {});
gateway.subscribe(undefined); // mistake
gateway.subscribe("rooms:7", { token: async ({ channel }) => `token of ${channel}` });
gateway.subscribe("rooms:7", { token: ({ user }) => user }); // mistake
gateway.subscribe("rooms:7", { since: 7 }); // mistake
const position: Position | null = posts.position;
posts.state = "live"; // mistake

async function ask() {
  await posts.publish({ id: 1, text: "hello" });
  await posts.publish({ id: 1 }); // mistake
  const { publications, epoch } = await posts.history({ limit: 10, reverse: true });
  show(publications[0].data.text + epoch, true);
  const answer = await gateway.rpc<{ cancelled: number }>("orders.cancel", { order: 17 });
  show(answer.cancelled.toFixed(), true);
  const { notifications, next } = await gateway.inbox.list({ limit: 20 });
  await gateway.inbox.read({ ids: notifications.map(({ id }) => id) });
  await gateway.inbox.read({ all: true });
  await gateway.inbox.read({}); // mistake
  await gateway.inbox.list({ before: next });
  await gateway.inbox.list({ after: next }); // mistake
  for (const { user, client } of await posts.presence()) show(user + client, true);
  const { clients } = await posts.presenceStats();
  if (gateway.inbox.unread > clients) gateway.close(); // mistake
}

ask().catch((error) => error instanceof GatewayError && error.code === "lost" && show(error.message, error.temporary));
declare function show(text: string, recovered: boolean): void;
"""


@pytest.fixture(scope="module")
def tsc(npm: Future[Path]) -> list[str]:
    """The command that runs TypeScript's compiler."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the types were not checked")
    return [NODE, str(npm.result() / "node_modules" / "typescript" / "bin" / "tsc")]


def faults(tsc: list[str], folder: Path, program: str) -> dict[int, str]:
    """The compiler's complaints about a program beside the module, by line, which it counts from 1."""
    for name in ("gateway.js", "gateway.d.ts"):
        shutil.copy(STATIC / name, folder)
    (folder / "program.ts").write_text(program)
    run = subprocess.run([*tsc, *OPTIONS, "program.ts"], cwd=folder, capture_output=True, text=True, timeout=120)
    found = re.findall(r"^program\.ts\((\d+),\d+\): error (.*)", run.stdout, re.MULTILINE)
    assert run.returncode == 0 or found, run.stdout + run.stderr
    return {int(line): text for line, text in found}


def test_the_types_declare_what_the_module_has(tsc: list[str], tmp_path: Path) -> None:
    run = subprocess.run([NODE, Path(__file__).parent / "js" / "surface.mjs"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    program = SAME.strip()
    for number, (name, keys) in enumerate(json.loads(run.stdout).items()):
        type = name if "declared" in name else f"declared.{name}"
        program += f"\nexport const same{number}: Same<keyof ({type}), {' | '.join(map(json.dumps, keys))}> = true; // {name}"
    lines = program.splitlines()
    assert len(lines) > 15
    assert [f"{lines[line - 1]}: {text}" for line, text in faults(tsc, tmp_path, program).items()] == []


def test_the_mistakes_of_a_program_are_found_and_its_correct_uses_are_not(tsc: list[str], tmp_path: Path) -> None:
    lines = PROGRAM.splitlines()
    mistakes = [number for number, line in enumerate(lines, 1) if line.endswith("// mistake")]
    found = faults(tsc, tmp_path, PROGRAM)
    assert sorted(found) == mistakes, found
