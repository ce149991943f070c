"""The way to a gateway through what is in front of it: which parts of a request, and of an open connection, a proxy changes, holds back or cuts.

``view`` is what the gateway sees of a request (``edges/doctor_view.py``). Where the gateway does not show it, only what a client notices is judged.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ...edges.doctor_view import PROOF_HEADER, SeenRequest, View, proof_of
from ...edges.request import NOT_LISTED
from .clock_check import Reading, clock_findings
from .diagnosis import Diagnosis, Finding, Weight
from .probes import BUFFERED_SECONDS, Answer, Flow, Unanswered, ask, connect_command, follow_stream, follow_websocket
from .proxy_lines import line_for
from .target import Target

__all__ = [
    *("FORGED", "SENT", "Seen", "Way"),
    *("check_way", "judge_body", "judge_live", "judge_stream", "judge_view", "judge_websocket", "read_view"),
]

MAPPED = "::ffff:"  # in front of an address of IPv4 that a gateway sees which listens on [::]
FORGED = "192.0.2.77"  # an address of no machine. Source: RFC 5737
SENT = {
    "authorization": "Bearer gateway-doctor",
    "cookie": "gateway-doctor=1",
    "last-event-id": "-",
    "x-api-key": "gateway-doctor",
    "x-forwarded-for": FORGED,
}
LIVE = b'{"status":"live"}'
SPARE_SECONDS = 5.0  # after the moment at which a ping is due
SLOW_FACTOR = 2.4  # of the ping's time: what a proxy's timeout should be
IDLE_SECONDS = 60  # what a proxy's timeout should be where the gateway's own interval is not known
LOST_UPGRADE = 426
CLOSED_BY_GATEWAY = 3000  # and all codes above it. Source: reference/errors-and-close-codes.md
UNREACHED = (502, 503, 504)
BODY_MOST = 8 * 1024 * 1024  # of the body that is tried


class Seen(NamedTuple):
    """What the gateway saw of a request, and what we know of it: ``own`` is our end of the connection, ``server`` the header of that name,
    ``clock`` the gateway's."""

    view: View
    own: tuple[str, int]
    server: str
    clock: Reading

    @property
    def is_direct(self) -> bool:
        """Whether nothing is between us and the gateway."""
        address, port = self.view.request.socket
        return (address.removeprefix(MAPPED), port) == self.own


class Way(NamedTuple):
    """What is tried: ``token`` connects, "" where nobody may without one and there is none; ``origin`` is the page's, "" for none."""

    target: Target
    api_keys: Sequence[str]
    token: str
    origin: str
    seconds: float
    message_bytes: int


async def read_view(target: Target, api_keys: Sequence[str], origin: str = "") -> Seen | str:
    """What the gateway at the end of the way sees, or why it does not show it. Raises Unanswered."""
    headers = SENT | ({"origin": origin} if origin else {})
    refusals = []
    for key in api_keys or [""]:
        proof = {PROOF_HEADER: proof_of(key, time.time())} if key else {}
        began = time.time()
        answer = await ask(target, "GET", "/health/doctor", headers | proof)
        if answer.status == 200 and answer.is_json:
            return _seen(answer, began, time.time())
        refusals.append(answer)
    if refusals[-1].status == 403 and refusals[-1].is_json:
        return "the gateway there has none of the api_keys of this configuration, or a clock that is an hour off"
    return f"GET /health/doctor was answered with {refusals[-1].status}: the gateway there is an older version, or the proxy does not pass this path on"


def _seen(answer: Answer, began: float, now: float) -> Seen | str:
    try:
        view = msgspec.json.decode(answer.body, type=View)
    except msgspec.MsgspecError as error:
        return f"GET /health/doctor was answered with something else: {error}"
    return Seen(view, answer.own, answer.headers.get("server", ""), Reading(view.time - (began + now) / 2, (now - began) / 2))


async def check_way(way: Way, diagnosis: Diagnosis) -> Seen | None:
    """Adds what is wrong between here and the gateway. Returns what the gateway saw, None if it did not show it."""
    target = way.target
    try:
        live = await ask(target, "GET", "/health/live")
    except Unanswered as error:
        diagnosis.add(_unanswered(target, error))
        return None
    diagnosis.add(*judge_live(live, target))
    if live.body.strip() != LIVE:
        return None
    if not target.by_tls and not target.is_of_this_machine:
        sentence = f"{target.url} is in the clear: whoever is on the way reads tokens and messages"
        diagnosis.add(Finding(Weight.WARNING, sentence, "https:// with a certificate at the proxy, or tls_cert and tls_key"))
    try:
        seen = await read_view(target, way.api_keys, way.origin)
        await _check_connections(way, live.headers.get("server", ""), diagnosis)
    except Unanswered as error:
        diagnosis.add(Finding(Weight.FAULT, f"a request to {target.url} was not answered: {error}", "the proxy's log has the reason"))
        return None
    if isinstance(seen, str):
        diagnosis.untried.append(f"what the gateway sees of a request: {seen}")
        return None
    diagnosis.add(*judge_view(seen, target, way.origin))
    through = "itself, with no proxy between" if seen.is_direct else f"through {seen.server or 'a proxy'}"
    diagnosis.fine["way"] = f"{target.url} leads to the gateway {through}"
    if taken := _taken(seen.view.request, seen.own[0], direct=seen.is_direct):
        diagnosis.fine["client address"] = taken
    return seen


def _taken(request: SeenRequest, own: str, *, direct: bool) -> str:
    """Where the gateway takes this client to be, in words; "" where it believed a lie, which is a finding. ``own`` is this client's address."""
    if request.address != FORGED:
        return f"the gateway takes this client to be at {request.address or 'no address'}"
    reported = [hop.strip() for hop in request.forwarded_for.split(",")]
    if not direct and own not in reported:
        return ""
    return (
        f"{own} is one of trusted_proxies, so the gateway believes what this machine reports of its clients; run gateway doctor on another machine "
        "to see the address that the gateway takes for a client's"
    )


def _unanswered(target: Target, error: Unanswered) -> Finding:
    if error.is_of_certificate:
        change = f"a certificate for {target.host} of a known authority, with its chain (nginx: ssl_certificate fullchain.pem;)"
        return Finding(
            Weight.FAULT, f"browsers refuse {target.url}: {error}", f"{change}; for an authority of your own: SSL_CERT_FILE=FILE"
        )
    change = "start what listens there, or name the URL that pages use with --url"
    return Finding(Weight.FAULT, f"{target.url} does not answer: {error}", change)


def judge_live(live: Answer, target: Target) -> list[Finding]:
    """Whether a gateway answers at all."""
    if live.body.strip() == LIVE:
        return []
    if live.status in (301, 302, 303, 307, 308):
        elsewhere = live.headers.get("location", "").removesuffix("/health/live")
        sentence = f"{target.url} redirects to {elsewhere}, where WebSockets and many SDKs do not follow"
        return [Finding(Weight.FAULT, sentence, f"let pages use that URL, and run gateway doctor --url {elsewhere}")]
    if live.status in UNREACHED:
        sentence = f"the proxy at {target.url} does not reach a gateway: it answers {live.status}"
        return [
            Finding(Weight.FAULT, sentence, 'start "gateway serve", or correct the address in the proxy (host and port of the gateway)')
        ]
    sentence = f"no gateway is at {target.url}: /health/live was answered with {live.status}"
    return [Finding(Weight.FAULT, sentence, "pass the gateway's paths on as they are, or name the path before them in --url")]


# What the gateway sees.


def judge_view(seen: Seen, target: Target, origin: str) -> list[Finding]:
    """What a proxy did to the headers of a request."""
    request = seen.view.request
    found = clock_findings("the gateway's", seen.clock)
    if seen.is_direct:
        return found
    found += _addresses(request, seen.own[0], seen.server)
    if request.host.lower() != target.authority.lower():
        sentence = f"the proxy changes Host from {target.authority} to {request.host}: pages of {target.url} are refused as if they were of another site"
        found.append(
            Finding(
                Weight.WARNING,
                sentence,
                line_for(seen.server, "host") + f', or allowed_origins = ["http{"s" * target.by_tls}://{target.authority}"]',
            )
        )
    if request.http == "1.0":
        sentence = "the proxy speaks HTTP/1.0 to the gateway: WebSockets cannot be opened, and each request takes a new connection"
        found.append(Finding(Weight.WARNING, sentence, line_for(seen.server, "version")))
    lost = [name for name in (*SENT, *(["origin"] if origin else [])) if name not in request.headers and name != "x-forwarded-for"]
    if lost:
        sentence = f"the proxy removes headers that clients need: {', '.join(lost)}"
        found.append(Finding(Weight.FAULT, sentence, line_for(seen.server, "headers")))
    return found


def _addresses(request: SeenRequest, own: str, server: str) -> list[Finding]:
    """Whether the gateway counts clients by their own addresses, and whether clients can choose these. ``own`` is this client's."""
    forwarded = [hop.strip() for hop in request.forwarded_for.split(",") if hop.strip()]
    reported = forwarded[forwarded.index(FORGED) + 1 :] if FORGED in forwarded else forwarded  # by proxies; the first is the client
    found = []
    if not request.trusted:
        sentence = (
            f"the gateway takes all clients of the proxy for one, at {request.address}: limits.connections_per_address counts them together, "
            "and the log does not show who they are"
        )
        found.append(Finding(Weight.WARNING, sentence, f'trusted_proxies = ["{request.socket[0]}"]'))
    elif request.address in reported[1:] and request.address != reported[0]:
        sentence = (
            f"the gateway takes all clients of the proxy at {request.address} for one: limits.connections_per_address counts them together, "
            "and the log does not show who they are"
        )
        found.append(Finding(Weight.WARNING, sentence, f'trusted_proxies = ["{request.address}"]    (beside those that it has)'))
    if not forwarded:
        sentence = "the proxy does not report the clients' addresses: X-Forwarded-For is missing"
        found.append(Finding(Weight.WARNING, sentence, line_for(server, "forwarded")))
    elif forwarded[-1] == FORGED or (request.address == FORGED and own not in reported):
        sentence = "the proxy passes X-Forwarded-For on as clients send it: they can choose the address that the gateway takes for theirs"
        found.append(Finding(Weight.FAULT if request.trusted else Weight.WARNING, sentence, line_for(server, "forwarded")))
    return found


# Connections that stay open.


async def _check_connections(way: Way, server: str, diagnosis: Diagnosis) -> None:
    target, command = way.target, connect_command(way.token)
    size = min(2 * way.message_bytes, BODY_MOST)
    socket, stream, body = await asyncio.gather(
        follow_websocket(target, way.origin, command, way.seconds),
        follow_stream(target, command, way.seconds),
        ask(target, "POST", "/emulation", {"content-type": "application/json"}, b" " * size),
    )
    if socket.status == 403 and NOT_LISTED.encode() in socket.body and way.origin:
        sentence = f"the gateway at {target.url} refuses pages of {way.origin}: {NOT_LISTED}"
        diagnosis.add(Finding(Weight.FAULT, sentence, f'allowed_origins = ["{way.origin}"]    (and start the gateway again)'))
        socket = await follow_websocket(target, "", command, way.seconds)
    diagnosis.add(*judge_websocket(socket, server), *judge_stream(stream, server), *judge_body(body, size, server))
    for name, flow in (("WebSocket", socket), ("stream", stream)):
        _record(name, flow, way, diagnosis)


def _record(name: str, flow: Flow, way: Way, diagnosis: Diagnosis) -> None:
    """What is fine about a connection, and what could not be tried of it."""
    if flow.answered is not None:
        ping = f", its ping after {flow.pinged:.1f} s" if flow.pinged is not None else ""
        diagnosis.fine[name] = f"the gateway's first message came after {flow.answered * 1000:.0f} ms{ping}"
    idle = f"whether the proxy leaves an idle {name} open"
    if flow.code >= CLOSED_BY_GATEWAY:
        remedy = "; --token names a token that passes" if flow.code in (3500, 3501) else ""
        diagnosis.untried.append(f"{idle}: the gateway closed it with {flow.code}{remedy}")
    elif flow.answered is not None and flow.pinged is None and flow.ended is None and not _is_late(flow):
        diagnosis.untried.append(
            f"{idle} for longer than {way.seconds:g} s: a ping comes every {flow.ping:g} s; "
            f"--wait {math.ceil(flow.ping + SPARE_SECONDS)} waits for one"
        )


def judge_websocket(flow: Flow, server: str) -> list[Finding]:
    """Whether a WebSocket opens, and stays open until the gateway's ping, which comes when it is due."""
    if flow.status == LOST_UPGRADE or (flow.status in (400, 404) and b"WebSocket" in flow.body):
        sentence = f"the proxy does not pass the upgrade to WebSocket on: the handshake was answered with {flow.status}"
        return [Finding(Weight.FAULT, sentence, line_for(server, "upgrade"))]
    if flow.status == 0:
        return [Finding(Weight.FAULT, f"no WebSocket opens: {flow.fault}", line_for(server, "upgrade"))]
    if flow.status in UNREACHED:
        return [_unreached("a WebSocket", flow, server)]
    if flow.status != 101:
        sentence = f"no WebSocket opens: the handshake was answered with {flow.status}"
        return [Finding(Weight.FAULT, sentence, line_for(server, "upgrade"))]
    if flow.answered is None and flow.ended is None:
        sentence = (
            "a WebSocket opens, and the gateway's answer to its first message never comes: something on the way does not pass frames on"
        )
        return [Finding(Weight.FAULT, sentence, line_for(server, "upgrade"))]
    return _judge_late("WebSockets", flow, server) or _judge_idle("a WebSocket", flow, server)


def judge_stream(flow: Flow, server: str) -> list[Finding]:
    """Whether a stream's messages come when they are sent, and whether it stays open until the gateway's ping."""
    if flow.status in UNREACHED:
        return [_unreached("a stream", flow, server)]
    if flow.status not in (0, 200):
        sentence = f"no stream of server-sent events opens: POST /connection/sse was answered with {flow.status}"
        return [Finding(Weight.FAULT, sentence, "pass POST on to all paths of the gateway")]
    if flow.answered is None and flow.fault and not flow.status:
        return [Finding(Weight.FAULT, f"no stream of server-sent events opens: {flow.fault}", "pass POST on to all paths of the gateway")]
    if (flow.answered is None and not flow.code) or (flow.answered or 0.0) > BUFFERED_SECONDS:
        when = f"only after {flow.answered:.1f} s" if flow.answered is not None else "not at all"
        sentence = f"the proxy holds streams back in a buffer: the first message, which the gateway sends at once, came {when}"
        return [Finding(Weight.FAULT, sentence, line_for(server, "buffering"))]
    return _judge_late("streams", flow, server) or _judge_idle("a stream", flow, server)


def _judge_late(what: str, flow: Flow, server: str) -> list[Finding]:
    if not _is_late(flow):
        return []
    when = f"came after {flow.pinged:.1f} s" if flow.pinged is not None else f"did not come within {flow.waited or 0:.1f} s"
    sentence = f"the proxy holds messages of {what} back: a ping that the gateway sends within {flow.ping:g} s {when}"
    return [Finding(Weight.FAULT, sentence, line_for(server, "buffering"))]


def _is_late(flow: Flow) -> bool:
    """Whether no ping came when one was due. A proxy that compresses may pass the first message on, and hold back each later one."""
    came = flow.pinged if flow.pinged is not None else flow.waited
    return came is not None and flow.answered is not None and flow.ping > 0 and came - flow.answered >= flow.ping + SPARE_SECONDS


def _unreached(what: str, flow: Flow, server: str) -> Finding:
    sentence = f"the proxy answered {flow.status} instead of opening {what}: it got no answer from the gateway, or not in its time"
    return Finding(Weight.FAULT, sentence, line_for(server, "idle", seconds=IDLE_SECONDS))


def _judge_idle(what: str, flow: Flow, server: str) -> list[Finding]:
    if flow.ended is None or flow.code >= CLOSED_BY_GATEWAY:
        return []
    seconds = math.ceil(max(flow.ping, 1) * SLOW_FACTOR)
    pause = f"; the gateway sends a ping every {flow.ping:g} s" if flow.ping else ""
    sentence = f"the proxy cut {what} on which nothing was sent, after {flow.ended:.1f} s{pause}"
    return [
        Finding(Weight.FAULT, sentence, line_for(server, "idle", seconds=seconds) + f", or ping_seconds = {max(1, int(flow.ended / 2))}")
    ]


def judge_body(answer: Answer, size: int, server: str) -> list[Finding]:
    """``size`` bytes are what a client may post, which the gateway answers in JSON."""
    if answer.is_json or answer.status not in (411, 413, *UNREACHED):  # Caddy answers with 502
        return []
    kibi = math.ceil(size / 1024)
    sentence = f"the proxy refuses a request of {kibi:,} KiB with {answer.status}, which limits.message_bytes allows to clients"
    return [Finding(Weight.WARNING, sentence, line_for(server, "size", size=2 * kibi))]
