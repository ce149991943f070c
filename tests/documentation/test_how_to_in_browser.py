"""The tutorial and the pages, done as a reader does them, from an empty folder, in a real browser."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from ..kit.ports import free_port
from ..kit.waiting import wait_until
from .how_to import Desk, code
from .pages import snippets

pytestmark = pytest.mark.slow
if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page


def test_the_tutorials_chat_works_for_two_people_and_for_one_who_was_away(context: BrowserContext, tmp_path: Path) -> None:
    ports = {8000: free_port(), 3000: free_port()}
    with Desk(tmp_path, ports, {"GATEWAY_PORT": str(ports[8000]), "GATEWAY_DRAIN_SECONDS": "0.2"}) as desk:
        for language, name in {"toml": "gateway.toml", "python": "backend.py", "html": "index.html"}.items():
            (fence,) = snippets("tutorial", language)
            desk.write(name, fence.code)
        serve, backend = (fence.code for fence in snippets("tutorial", "console"))
        cut, restore = (fence.code for fence in snippets("tutorial", "js"))
        desk.start(serve, "is ready at")
        desk.start(backend, "Uvicorn running on")
        site = f"http://localhost:{ports[3000]}/"
        ann, ben = enter(context, site, "Ann"), enter(context, site, "Ben")
        shows(ann, "#here", "Ann, Ben")

        write(ann, "Hello!")
        ben.click("li button")
        for page in (ann, ben):
            shows(page, "li:nth-child(1)", "AnnHello!♥ 1")
        shows(ann, "#bell", "1")

        ben.evaluate(cut)
        shows(ann, "#here", "Ann")
        write(ann, "You missed this.")
        ann.click("li:nth-child(1) button")
        shows(ann, "li:nth-child(1)", "AnnHello!♥ 2")
        ben.evaluate(restore)
        shows(ben, "li:nth-child(1)", "AnnHello!♥ 2")
        shows(ben, "li:nth-child(2)", "AnnYou missed this.♥ 0")

        ben.reload()
        shows(ben, "li:nth-child(1)", "AnnHello!♥ 2")
        assert ben.locator("li").count() == 2


def enter(context: BrowserContext, site: str, name: str) -> Page:
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept(name))
    page.goto(site)
    shows(page, "#state", "connected")
    return page


def write(page: Page, text: str) -> None:
    page.fill("input", text)
    page.press("input", "Enter")
    page.wait_for_function("document.querySelector('input').value === ''")


def shows(page: Page, selector: str, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text)


# Put it on a page.

AROUND = """async () => {
  const { Gateway } = await import("http://localhost:8000/static/gateway.js");
  const gateway = new Gateway({ token: () => window.fetch("/my-token") });
  const fetch = async () => new Response('{"posts": [], "since": null}');
  const show = () => {}, bar = {}, taskId = "1";
  %s
  gateway.close();
}"""
REACT = """
import { createRoot } from "react-dom/client";
import { Posts } from "./Posts.jsx";
createRoot(document.body.appendChild(document.createElement("main"))).render(<Posts />);
"""
VUE = """
import { createApp } from "vue";
import Posts from "./Posts.vue.js";
createApp(Posts).mount(document.body.appendChild(document.createElement("main")));
"""
COMPILE_VUE = """
import { readFileSync, writeFileSync } from "node:fs";
import { compileScript, parse } from "@vue/compiler-sfc";
const { descriptor } = parse(readFileSync("vue/Posts.vue", "utf8"));
writeFileSync("vue/Posts.vue.js", compileScript(descriptor, { id: "posts", inlineTemplate: true }).content);
"""
HOOKS = {"react": "the-page-react-hook", "vue": "the-page-vue-hook"}
BUNDLE = "node_modules/.bin/esbuild react/main.jsx vue/main.js --bundle --jsx=automatic --format=esm --outdir=built --log-level=warning"


def test_pages_plain_in_react_and_in_vue_show_what_is_published(context: BrowserContext, tmp_path: Path, npm: Future[Path]) -> None:
    ports = {8000: free_port(), 3000: free_port()}
    with Desk(tmp_path, ports, {"GATEWAY_PORT": str(ports[8000]), "GATEWAY_DATA_DIR": str(tmp_path / "data")}) as desk:
        desk.start("gateway serve", "is ready at")
        make_pages(desk, npm.result())
        token, serve = code("the-page", "console").splitlines()
        desk.run(token)
        desk.start(serve, "Serving HTTP")
        pages = [opened(context, f"http://localhost:{ports[3000]}/{name}") for name in ("", "react.html", "vue.html", "short.html")]
        key = json.loads((tmp_path / "data" / "credentials.json").read_text())["api_key"]
        wait_until(lambda: followers(ports[8000], key) == len(pages), "all pages follow the channel")
        desk.run(code("the-page-publish"))
        for page in pages:
            shows(page, "body", re.compile("Hello"))
        for fence in snippets("how-to-js"):
            pages[0].evaluate(desk.moved(AROUND) % fence.code)


def followers(port: int, key: str) -> int:
    answer = httpx.post(f"http://localhost:{port}/api/presence_stats", json={"channel": "posts:tech"}, headers={"X-API-Key": key})
    return answer.json()["result"]["num_clients"]


def make_pages(desk: Desk, npm: Path) -> None:
    """The files of the page, bundled as a reader's tools do it."""
    (desk.folder / "node_modules").symlink_to(npm / "node_modules")
    desk.run(code("the-page-copy"))
    for name, main in {"react": "main.jsx", "vue": "main.js"}.items():
        for file in ("gateway.js", "gateway.d.ts"):
            desk.write(f"{name}/{file}", (desk.folder / "src" / file).read_text())
        desk.write(f"{name}/live.js", code("the-page-live"))
        desk.write(f"{name}/useChannel.js", code(HOOKS[name]))
        desk.write(f"{name}/{main}", REACT if name == "react" else VUE)
        desk.write(f"{name}.html", f'<!doctype html><body><script type="module" src="built/{name}/main.js"></script>')
    desk.write("react/Posts.jsx", code("the-page-react"))
    desk.write("vue/Posts.vue", code("the-page-vue"))
    desk.write("compile.mjs", COMPILE_VUE)
    desk.run(f"node compile.mjs; {BUNDLE}")
    desk.write("index.html", code("the-page", "html"))
    desk.write("short.html", f"<!doctype html><body>{code('authenticate-page')}")


def opened(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    return page


def test_the_first_click_finds_a_service_worker_that_is_active(context: BrowserContext, tmp_path: Path) -> None:
    port = free_port()
    with Desk(tmp_path, {3000: port}) as desk:
        desk.write("worker.js", code("away-worker"))
        desk.write("index.html", "<!doctype html><title>Push</title>")
        desk.start(f"python -m http.server {port}", "Serving HTTP")
        page = opened(context, f"http://localhost:{port}/")
        subscribed = page.evaluate(
            """async (code) => {
              // the browser's push service is on the internet: what it would be asked for is returned
              PushManager.prototype.subscribe = async () => ({ isActive: !!(await navigator.serviceWorker.getRegistration()).active });
              const sent = [];
              const fetch = async (_, { body }) => sent.push(JSON.parse(body));
              const run = new (Object.getPrototypeOf(async () => {}).constructor)("fetch", code);
              await run(fetch);
              return sent;
            }""",
            code("away-subscribe"),
        )
        assert subscribed == [{"isActive": True}]
