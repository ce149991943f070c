"""``static/`` as a package of npm: packed, installed in a fresh project, imported there by node, and its types checked.

Each line of the program that ends with "// mistake" is one that TypeScript finds, and there is no other.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from gateway import __version__

from ..kit.documentation import snippet
from ..kit.javascript import ENVIRONMENT, NODE, NPM

pytestmark = pytest.mark.slow

STATIC = Path(__file__).parents[2] / "static"
QUICK = ("--offline", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--legacy-peer-deps")
OPTIONS = "--noEmit --strict --target es2022 --lib es2022,dom --module nodenext --moduleResolution nodenext --jsx react-jsx".split()

PROGRAM = """
import * as React from "react";
import { Gateway, type Notification } from "gateway-client";
import { FEED_TEXTS, GatewayInbox } from "gateway-client/elements";
import { hooks } from "gateway-client/react";
import { ChannelStore, InboxStore, PresenceStore } from "gateway-client/stores";

interface Post { id: number; text: string }

const gateway = new Gateway({ url: "https://gateway.example", token: () => fetch("/my-token") });
const { GatewayProvider, useChannel, useInbox, usePresence, useGateway } = hooks(React, gateway);
hooks({}); // mistake
hooks(React, "https://gateway.example"); // mistake

export function Posts({ channel }: { channel: string | null }) {
  const { publications, state, publish } = useChannel<Post>(channel, { history: 20, onPublication: ({ data }) => show(data.text) });
  const { users } = usePresence(channel);
  useChannel(channel, { histories: 20 }); // mistake
  const post = () => publish({ id: 1, text: "hello" });
  const wrong = () => publish({ id: 1 }); // mistake
  return <ul aria-busy={state !== "live"} onClick={post}>{publications.map(({ key, data }) => <li key={key}>{data.text + users[0]}</li>)}</ul>;
}

export function Bell() {
  const { unread, notifications, read, more, older } = useInbox<Post>({ onNotification: ({ data }) => show(data.text) });
  show(unread.toFixed()); // mistake
  const first: Notification<Post> | undefined = notifications?.[0];
  if (first) read({ ids: [first.id] });
  read({}); // mistake
  show(useGateway().state);
  return <button onClick={() => more && older()}>{unread ?? 0}</button>;
}

export const page = <GatewayProvider gateway={gateway}><Posts channel="posts:tech" /><Bell /></GatewayProvider>;
export const lonely = <GatewayProvider><Bell /></GatewayProvider>; // mistake

const inbox: GatewayInbox | null = document.querySelector("gateway-inbox");
inbox?.addEventListener("choose", ({ detail }) => show(detail.id));
inbox?.addEventListener("choose", ({ detail }) => show(detail.channel)); // mistake
inbox?.addEventListener("click", (event) => event.preventDefault());
if (inbox) inbox.texts = { title: "Nachrichten" };
if (inbox) inbox.texts = { titel: "Nachrichten" }; // mistake
const feed = document.createElement("gateway-feed");
feed.gateway = gateway;
feed.texts = { ...FEED_TEXTS, arrived: (count) => `${count} neue` };
feed.draw = ({ data, key }) => `${key} ${data.text}`;
feed.draw = () => 17; // mistake
feed.addEventListener("publication", ({ detail }) => show(detail.key));

const posts = new ChannelStore<Post>(gateway, "posts:tech", { limit: 5 });
const stop = posts.subscribe(() => show(posts.snapshot.publications[0].data.text));
stop();
show(posts.snapshot.publications[0].data.title); // mistake
new InboxStore(gateway, { size: 5 }).show(true);
new PresenceStore(gateway, "room:1").snapshot.clients.map(({ client }) => show(client));
declare function show(text: string): void;
"""

EXPORTS = """
const names = ["gateway-client", "gateway-client/elements", "gateway-client/react", "gateway-client/stores"];
const found = await Promise.all(names.map(async (name) => Object.keys(await import(name)).sort()));
console.log(JSON.stringify(found));
"""


def run(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project with the package in it."""
    project = tmp_path_factory.mktemp("project")
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    [packed] = json.loads(run([NODE, NPM, "pack", STATIC, "--json", "--ignore-scripts"], project))
    run([NODE, NPM, "install", f"./{packed['filename']}", *QUICK], project)
    return project


def test_the_package_is_imported_by_node_and_declares_what_it_exports(project: Path) -> None:
    installed = project / "node_modules" / "gateway-client"
    assert json.loads((installed / "package.json").read_text())["version"] == __version__
    assert {file.name for file in installed.iterdir() if file.suffix == ".ts"} == {file.name for file in STATIC.glob("*.d.ts")}
    exports = json.loads(run([NODE, "--input-type=module", "-e", EXPORTS], project))
    for name, exported in zip(("gateway", "elements", "react", "stores"), exports, strict=True):
        declared = re.findall(r"^export (?:class|const|function) (\w+)", (installed / f"{name}.d.ts").read_text(), re.MULTILINE)
        assert sorted(declared) == exported, name


def test_its_types_find_the_mistakes_of_a_program_and_no_others(project: Path, npm: Future[Path]) -> None:
    modules = npm.result() / "node_modules"
    for name in ("@types", "csstype"):
        (project / "node_modules" / name).symlink_to(modules / name)
    (project / "program.tsx").write_text(PROGRAM)
    (project / "snippet.tsx").write_text(snippet("how-to/the-inbox-on-a-page.md", "inbox-react"))
    command = [NODE, modules / "typescript" / "bin" / "tsc", *OPTIONS, "program.tsx", "snippet.tsx"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)
    found = {int(line): text for line, text in re.findall(r"^program\.tsx\((\d+),\d+\): error (.*)", done.stdout, re.MULTILINE)}
    others = [line for line in done.stdout.splitlines() if "error TS" in line and not line.startswith("program.tsx")]
    mistakes = [number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("// mistake")]
    assert (sorted(found), others) == (mistakes, []), (found, done.stdout)
