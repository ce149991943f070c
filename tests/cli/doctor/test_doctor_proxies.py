"""``gateway doctor`` finds by itself what a proxy in front breaks, and names the line: a real nginx, with one mistake on each port."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.auth.tokens import mint
from gateway.cli.doctor.clock_check import Reading
from gateway.cli.doctor.diagnosis import Diagnosis, Weight
from gateway.cli.doctor.examination import _look_at_the_gateway
from gateway.cli.doctor.probes import Answer, Flow, Unanswered, ask, follow_stream
from gateway.cli.doctor.proxy_check import (
    FORGED,
    SENT,
    Seen,
    Way,
    check_way,
    judge_body,
    judge_live,
    judge_stream,
    judge_view,
    judge_websocket,
    read_view,
)
from gateway.cli.doctor.proxy_lines import line_for
from gateway.cli.doctor.target import Target
from gateway.config import load
from gateway.edges.doctor_view import PROOF_HEADER, SeenProcess, SeenRequest, View, doctor_view, proof_of

from ...kit.gateways import API_KEY, RunningGateway, Start
from ...kit.nginx import needs_nginx, nginx
from ...kit.ports import free_port
from ...kit.tokens import SECRET
from ...kit.web_proxies import needs_program

HTTP = "proxy_http_version 1.1;"
UPGRADE = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
HOST = "proxy_set_header Host $http_host;"
FORWARDED = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
WELL = HTTP + UPGRADE + HOST + FORWARDED
PASS = "location / {{ proxy_pass http://127.0.0.1:{port}; {directives} }}"

# One mistake for each port, by its name; "well" makes none.
MISTAKES = {
    "well": WELL,
    "upgrade removed": HTTP + HOST + FORWARDED,
    # nginx collects what it gets, and yet passes it on as soon as no more comes, unless it compresses.
    "buffering on": WELL + "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;",
    "streams held in a buffer": WELL
    + "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_types text/event-stream; gzip_min_length 0;",
    "idle connections cut": WELL + "proxy_read_timeout 700ms;",
    "host changed": HTTP + UPGRADE + FORWARDED,
    "addresses not reported": HTTP + UPGRADE + HOST,
    "addresses as clients claim them": HTTP + UPGRADE + HOST,
    "HTTP/1.0": HOST + FORWARDED,
    "headers removed": WELL + 'proxy_set_header Authorization ""; proxy_set_header Last-Event-ID "";',
    "small bodies": WELL + "client_max_body_size 1k;",
    "nothing there": WELL,
    "another site": "",
}
FOUND = {
    "well": [],
    "upgrade removed": [("fault", "does not pass the upgrade", "$http_upgrade")],
    "buffering on": [],
    "streams held in a buffer": [("fault", "holds streams back in a buffer", "proxy_buffering off; gzip off;")],
    "idle connections cut": [("fault", "cut a WebSocket", "proxy_read_timeout 5s;"), ("fault", "cut a stream", "proxy_read_timeout 5s;")],
    "host changed": [("warning", "changes Host", "$http_host")],
    "addresses not reported": [("warning", "X-Forwarded-For is missing", "$proxy_add_x_forwarded_for")],
    "addresses as clients claim them": [("fault", "they can choose the address", "$proxy_add_x_forwarded_for")],
    "HTTP/1.0": [("fault", "upgrade", "$http_upgrade"), ("warning", "HTTP/1.0", "proxy_http_version 1.1;")],
    "headers removed": [("fault", "authorization, last-event-id", "")],
    "small bodies": [("warning", "refuses a request", "client_max_body_size")],
    "nothing there": [("fault", "does not reach a gateway: it answers 502", "gateway serve")],
    "another site": [("fault", "no gateway is at", "--url")],
}


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once('ping_seconds = 2\ntrusted_proxies = ["127.0.0.1"]\nallowed_origins = ["https://app.example.org"]\n')


@pytest.fixture(scope="module")
def urls(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where each mistake is."""
    servers = {name: PASS.format(port=gateway.port, directives=directives) for name, directives in MISTAKES.items()}
    servers["addresses not reported"] = servers["addresses not reported"].replace(
        "proxy_pass", 'proxy_set_header X-Forwarded-For ""; proxy_pass'
    )
    servers["nothing there"] = PASS.format(port=free_port(), directives=WELL)
    servers["another site"] = "return 404;"
    with nginx(tmp_path_factory.mktemp("nginx"), servers) as found:
        yield found


async def _diagnose(url: str, *, origin: str = "https://app.example.org", seconds: float = 3.0) -> Diagnosis:
    diagnosis = Diagnosis()
    await check_way(Way(Target.of(url), [API_KEY], mint(SECRET, seconds=60), origin, seconds, 65536), diagnosis)
    return diagnosis


@needs_nginx
async def test_each_mistake_of_a_proxy_is_found_alone_with_the_line_that_mends_it(urls: dict[str, str]) -> None:
    together = {
        name: url for name, url in urls.items() if name != "idle connections cut"
    }  # the rest keeps the gateway too busy for its proxy
    diagnoses = dict(zip(together, await asyncio.gather(*map(_diagnose, together.values())), strict=True))
    diagnoses["idle connections cut"] = await _diagnose(urls["idle connections cut"])
    for name, expected in FOUND.items():
        shown = [(each.weight.name.lower(), each.sentence, each.change) for each in diagnoses[name].findings]
        assert len(shown) == len(expected), (name, shown)
        for finding, (weight, words, change) in zip(shown, expected, strict=True):
            assert finding[0] == weight and words in finding[1] and change in finding[2], (name, shown)
    well = diagnoses["well"]
    assert well.untried == [] and {"way", "client address", "WebSocket", "stream"} == well.fine.keys()
    assert FORGED not in well.as_text() and "127.0.0.1 is one of trusted_proxies" in well.fine["client address"]
    assert "client address" not in diagnoses["addresses as clients claim them"].fine
    assert "nginx" in well.fine["way"] and "its ping after" in well.fine["WebSocket"]


async def test_an_origin_that_the_running_gateway_refuses_does_not_end_the_examination(gateway: RunningGateway) -> None:
    diagnosis = await _diagnose(gateway.url, origin="https://other.example.org", seconds=0.5)
    (finding,) = diagnosis.findings
    assert (
        "refuses pages of https://other.example.org" in finding.sentence
        and 'allowed_origins = ["https://other.example.org"]' in finding.change
    )
    assert "itself, with no proxy between" in diagnosis.fine["way"] and "--wait 7 waits for one" in diagnosis.untried[0]


async def test_a_gateway_shows_what_it_sees_only_to_a_caller_that_proves_to_have_its_key(gateway: RunningGateway) -> None:
    seen = await read_view(Target.of(gateway.url), ["another key", API_KEY])
    assert not isinstance(seen, str) and seen.is_direct and seen.view.request.address == FORGED  # this machine is a trusted proxy
    assert abs(seen.clock.ahead) <= seen.clock.doubt + 0.1
    for key in ("another key", ""):
        refusal = await read_view(Target.of(gateway.url), [key])
        assert isinstance(refusal, str) and "none of the api_keys" in refusal
    for proof in (proof_of(API_KEY, time.time() - 7200), f"{time.time():.0f}", "nan x", "9" * 400 + " x"):
        answer = gateway.http("GET", "/health/doctor", None, {PROOF_HEADER: proof})
        assert answer[0] == 403 and b"socket" not in answer[1]


@pytest.mark.parametrize("host", ["::", ""])
async def test_a_gateway_on_all_addresses_is_asked_at_this_machine_and_has_no_proxy_in_front(start_gateway: Start, host: str) -> None:
    gateway = start_gateway(f'host = "{host}"\n')
    config = load(None, host=host, port=gateway.port, api_keys=[API_KEY])
    assert await _look_at_the_gateway(config) is not None
    seen = await read_view(Target.of(f"http://127.0.0.1:{gateway.port}"), [API_KEY])
    assert not isinstance(seen, str) and seen.is_direct


async def test_an_empty_api_key_proves_nothing() -> None:
    node = SimpleNamespace(config=load(None, api_keys=[""]))
    request: Any = SimpleNamespace(headers={PROOF_HEADER: proof_of("", time.time())}, state=SimpleNamespace(node=node))
    assert (await doctor_view(request)).status_code == 403


async def test_a_url_at_which_nothing_answers_is_a_fault() -> None:
    (finding,) = (await _diagnose(f"http://127.0.0.1:{free_port()}/live")).findings
    assert finding.weight is Weight.FAULT and "does not answer: [Errno 111]" in finding.sentence


async def test_a_name_that_no_host_can_have_is_one_at_which_nothing_answers() -> None:
    with pytest.raises(Unanswered, match="label empty or too long"):
        await ask(Target.of("http://a..b/"), "GET", "/health/live")


async def test_without_a_token_that_passes_the_way_is_tried_as_far_as_the_gateway_lets_it(gateway: RunningGateway) -> None:
    diagnosis = Diagnosis()
    await check_way(Way(Target.of(gateway.url), [API_KEY], "", "", 3.0, 65536), diagnosis)
    assert diagnosis.findings == [] and "WebSocket" not in diagnosis.fine
    assert [text for text in diagnosis.untried if "closed it with 3501; --token names a token that passes" in text] == diagnosis.untried
    assert len(diagnosis.untried) == 2


def test_clients_of_a_proxy_that_is_not_trusted_count_as_one() -> None:
    request = SeenRequest("10.0.0.9", ("10.0.0.9", 4242), False, "1.1", "live.example.org", f"{FORGED}, 198.51.100.7", list(SENT))
    seen = Seen(View("1", 0, request, SeenProcess(1024, 0, 1)), ("10.0.0.1", 4711), "", Reading(0, 0))
    (finding,) = judge_view(seen, Target.of("https://live.example.org"), "")
    assert finding.weight is Weight.WARNING and "takes all clients of the proxy for one, at 10.0.0.9" in finding.sentence
    assert finding.change == 'trusted_proxies = ["10.0.0.9"]'


def addresses(taken: str, forwarded: str, own: str = "198.51.100.7") -> list[str]:
    """What is found where the gateway takes the client for ``taken`` after trusted proxies reported ``forwarded``."""
    request = SeenRequest(taken, ("10.0.0.9", 4242), True, "1.1", "live.example.org", forwarded, list(SENT))
    seen = Seen(View("1", 0, request, SeenProcess(1024, 0, 1)), (own, 4711), "", Reading(0, 0))
    return [finding.sentence + finding.change for finding in judge_view(seen, Target.of("https://live.example.org"), "")]


def test_in_a_chain_of_proxies_each_has_to_be_trusted_and_none_may_pass_on_what_clients_claim() -> None:
    assert addresses("198.51.100.7", f"{FORGED}, 198.51.100.7, 10.0.0.8") == []
    assert addresses("198.51.100.7", "198.51.100.7, 10.0.0.8") == [], "the first proxy replaces the header"
    assert addresses(FORGED, f"{FORGED}, 127.0.0.1", own="127.0.0.1") == [], "this machine is a trusted proxy"
    (forged,) = addresses(FORGED, f"{FORGED}, 10.0.0.8")
    assert "they can choose the address" in forged
    (first,) = addresses(FORGED, f"198.51.100.7, {FORGED}")
    assert "they can choose the address" in first
    for forwarded in (f"{FORGED}, 198.51.100.7, 10.1.0.8", "198.51.100.7, 10.1.0.8"):
        (counted,) = addresses("10.1.0.8", forwarded)
        assert "takes all clients of the proxy at 10.1.0.8 for one" in counted and 'trusted_proxies = ["10.1.0.8"]' in counted


def test_a_ping_that_comes_too_late_or_not_at_all_is_held_back_by_the_proxy() -> None:
    for late in (Flow(200, answered=0.1, ping=25.0, pinged=31.0), Flow(200, answered=0.1, ping=25.0, waited=32.0)):
        (finding,) = judge_stream(late, "Caddy")
        assert "holds messages of streams back" in finding.sentence and "no buffer_responses" in finding.change
        assert "holds messages of WebSockets back" in judge_websocket(replace(late, status=101), "")[0].sentence
    for fine in (Flow(200, answered=0.1, ping=25.0, pinged=25.2), Flow(200, answered=0.1, ping=25.0, waited=3.0)):
        assert judge_stream(fine, "Caddy") == []


def test_a_body_that_caddy_refuses_with_502_is_found() -> None:
    (finding,) = judge_body(Answer(502, {}, b"", ("", 0)), 131072, "Caddy")
    assert "refuses a request of 128 KiB with 502" in finding.sentence and finding.change == "max_size 256KB    (in request_body)"


@pytest.mark.parametrize("kind", ["upgrade", "buffering", "forwarded", "host"])
def test_a_line_for_caddy_is_one_that_caddy_takes(kind: str, tmp_path: Path) -> None:
    """Those that begin with a directive; what is in brackets says where it belongs."""
    line = line_for("Caddy", kind, seconds=60).partition("    (")[0].replace("HOST:PORT", "127.0.0.1:8000")
    inside = line if not line.startswith(("no ", "reverse_proxy")) else ""
    file = tmp_path / "Caddyfile"
    file.write_text(f":8001 {{\n\treverse_proxy 127.0.0.1:8000 {{\n\t\t{inside}\n\t}}\n}}\n")
    done = subprocess.run([needs_program("caddy"), "adapt", "--config", file, "--adapter", "caddyfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextlib.asynccontextmanager
async def served(parts: Iterable[bytes], pause: float) -> AsyncIterator[Target]:
    """A server that answers its one client with these parts, and a pause after each, until the client has left."""
    left = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Target(False, "127.0.0.1", server.sockets[0].getsockname()[1])
        await left.wait()


async def test_a_server_that_answers_a_byte_at_a_time_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.doctor.probes.WHOLE_SECONDS", 0.2)
    async with served(chain([b"HTTP/1.1 200 OK\r\n"], repeat(b"x")), 0.02) as place:
        with pytest.raises(Unanswered, match=r"no whole answer came within 20 s"):
            await ask(place, "GET", "/health/live")


async def test_a_stream_of_more_than_a_gateway_sends_is_given_up() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/event-stream\r\n\r\n"
    async with served(chain([head, packer.compress(bytes(2**24))], repeat(b"x")), 0.01) as place:
        flow = await follow_stream(place, b"{}", 3.0)
    assert flow.waited is None and len(flow.body) <= 2**21


@pytest.mark.parametrize(
    "answer, words",
    [
        (Answer(301, {"location": "https://live.example.org/health/live"}, b"", ("", 0)), "redirects to https://live.example.org,"),
        (Answer(503, {}, b"", ("", 0)), "does not reach a gateway: it answers 503"),
        (Answer(200, {}, b"<html>", ("", 0)), "no gateway is at http://live.example.org/app"),
    ],
)
def test_an_answer_that_is_not_the_gateways_is_a_fault(answer: Answer, words: str) -> None:
    (finding,) = judge_live(answer, Target.of("http://live.example.org/app/"))
    assert finding.weight is Weight.FAULT and words in finding.sentence and finding.change


def test_the_lines_are_those_of_the_proxy_that_names_itself() -> None:
    held = Flow(200, answered=4.0)
    assert "gzip off" in judge_stream(held, "nginx/1.22.1")[0].change
    assert "no buffer_responses" in judge_stream(held, "Caddy")[0].change
    cut = Flow(101, answered=0.1, ping=25.0, ended=10.0)
    (finding,) = judge_websocket(cut, "")
    assert "HAProxy: timeout client 60s" in finding.change and finding.change.endswith(", or ping_seconds = 5")
    assert "answer to its first message never comes" in judge_websocket(Flow(101), "")[0].sentence
    assert judge_websocket(Flow(101, answered=0.1, ended=1.0, code=3001), "") == []  # the gateway itself closed it
