"""``static/gateway.js`` and what asks for more than a connection's token: subscription tokens, presence, streams that expire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from playwright.sync_api import Page

from ..kit.browser import BLANK, BLOCKED_WEBSOCKET, failure, numbers, seen, wait
from ..kit.gateways import RunningGateway, Start
from ..kit.tokens import ticket

SETTINGS = """
[namespaces.ticket]
subscribe = "token"
history_size = 2000
[namespaces.room]
join_leave = "asked"
[namespaces.open]
subscribe = "anyone"
"""

# Tokens in a list come from a function, one a call, the last for ever; "" makes it fail. `asked` holds what it was called with.
FOLLOW = """async ({ url, token, channels, options }) => {
  const { Gateway } = await import(url + "/static/gateway.js");
  window.seen = []; window.states = []; window.asked = {};
  const given = (name, tokens) => !Array.isArray(tokens) ? tokens : async (about) => {
    (asked[name] ??= []).push(about);
    const next = tokens[Math.min(asked[name].length, tokens.length) - 1];
    if (!next) throw new Error("no net");
    return next;
  };
  window.gateway = new Gateway({ backoffMs: 50, token: given("gateway", token) });
  gateway.on("state", (event) => states.push(event)).on("publication", (event) => seen.push(event));
  window.subscriptions = Object.entries(channels).map(([channel, token]) =>
    gateway.subscribe(channel, { token: given(channel, token), ...options }));
  for (const subscription of subscriptions) subscription.on("state", (event) => states.push(event));
}"""

ALL_LIVE = "subscriptions.every(({ state }) => state === 'live')"


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(SETTINGS)


@pytest.fixture(params=["websocket", "sse"])
def transport(page: Page, request: pytest.FixtureRequest) -> str:
    if request.param == "sse":
        page.add_init_script(BLOCKED_WEBSOCKET)
    return request.param


def follow(
    page: Page,
    gateway: RunningGateway,
    channels: Mapping[str, Sequence[str | Callable[[], str]] | str | None],
    token: list[str] | None = None,
    condition: str = ALL_LIVE,
    **options: Any,
) -> None:
    """A token that is a function is made when the page is there: a busy machine takes seconds to open it."""
    page.goto(gateway.url + BLANK)
    page.evaluate("async (url) => { await import(url + '/static/gateway.js') }", gateway.url)
    given = {
        channel: [each() if callable(each) else each for each in of] if isinstance(of, list) else of for channel, of in channels.items()
    }
    arguments = {"url": gateway.url, "token": token or [gateway.token("ann")], "channels": given, "options": options}
    page.evaluate(FOLLOW, arguments)
    wait(page, condition)


def codes(page: Page) -> list[Any]:
    return page.evaluate("states.map(({ code }) => code)")


# Subscription tokens.


def test_a_channel_that_needs_a_subscription_token_gets_its_own(page: Page, gateway: RunningGateway, transport: str) -> None:
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda payload: frames.append(str(payload))))
    follow(
        page,
        gateway,
        {"ticket:first": [ticket("ticket:first", "ann")], "posts:beside": None, "ticket:second": ticket("ticket:second", "ann")},
    )
    assert page.evaluate("gateway.transport") == transport
    assert page.evaluate("asked['ticket:first']") == [{"channel": "ticket:first"}]
    for channel in ("ticket:first", "posts:beside", "ticket:second"):
        gateway.publish(channel, channel)
    assert sorted(numbers(seen(page, 3))) == ["posts:beside", "ticket:first", "ticket:second"]
    assert [len(frame.splitlines()) for frame in frames[:1]] == [4] * (transport == "websocket"), "connect and all subscribes in one frame"


def test_the_function_of_a_subscription_is_called_again_when_its_token_has_expired(
    page: Page, gateway: RunningGateway, transport: str
) -> None:
    follow(page, gateway, {"ticket:late": [ticket("ticket:late", "ann", seconds=-60), ticket("ticket:late", "ann")], "posts:late": None})
    assert page.evaluate("[asked['ticket:late'].length, asked.gateway.length]") == [2, 1]


def test_a_client_whose_token_expired_never_connects_as_anonymous(page: Page, gateway: RunningGateway, transport: str) -> None:
    """The page's function gives none any more, as where somebody logged out elsewhere. Whoever had none to begin with is anonymous."""
    page.goto(gateway.url + BLANK)
    page.evaluate(
        """async ({ url, tokens }) => {
          const { Gateway } = await import(url + "/static/gateway.js");
          window.states = []; window.calls = 0;
          window.gateway = new Gateway({ backoffMs: 50, token: () => tokens[Math.min(calls++, 1)] });
          gateway.on("state", (event) => states.push(event));
          gateway.subscribe("open:hall");
          window.nobody = new Gateway({ token: () => null }).subscribe("open:hall");
        }""",
        {"url": gateway.url, "tokens": [gateway.token("ann", seconds=-60), ""]},
    )
    wait(page, "calls >= 3 && nobody.state === 'live'")
    assert not page.evaluate("states.some(({ state }) => state === 'connected')")
    wait(page, "states.at(-1).state === 'waiting' && states.at(-1).code === 'token'")
    assert "none any more" in page.evaluate("states.at(-1).reason")


@pytest.mark.parametrize("fault", ["forged", "expired"])
def test_a_refused_subscription_token_ends_its_own_channel_only(page: Page, gateway: RunningGateway, transport: str, fault: str) -> None:
    channel = f"ticket:{fault}"
    bad = ticket(channel, "ann", seconds=-60) if fault == "expired" else ticket(channel, "ann", secret="x" * 40)
    follow(page, gateway, {channel: bad, "posts:unharmed": None}, condition="subscriptions[1].state === 'live'")
    wait(page, "subscriptions[0].state === 'refused'")
    code, reason = {"forged": (103, "permission denied"), "expired": (109, "token expired")}[fault]
    refused = {"channel": channel, "state": "refused", "code": code, "reason": reason}
    assert page.evaluate("states.filter(({ state }) => state === 'refused')") == [refused]
    wait(page, "subscriptions[1].state === 'live'")
    gateway.publish("posts:unharmed", 1)
    assert numbers(seen(page, 1)) == [1]
    page.evaluate("token => { gateway.subscribe(subscriptions[0].channel, { token }) }", ticket(channel, "ann"))
    wait(page, ALL_LIVE)


def test_a_failing_subscription_token_function_is_tried_again_while_others_stay_live(
    page: Page, gateway: RunningGateway, transport: str
) -> None:
    channel = f"posts:beside-{transport}"
    follow(page, gateway, {channel: None})
    page.evaluate(
        """(token) => {
          window.failed = 0; window.net = false;
          const ask = () => { if (net) return token; failed += 1; throw new Error("no net"); };
          subscriptions.push(gateway.subscribe("ticket:slow", { token: ask }));
        }""",
        ticket("ticket:slow", "ann"),
    )
    wait(page, "failed >= 3")
    gateway.publish(channel, 1)
    seen(page, 1)
    page.evaluate("gateway.disconnect(); gateway.connect()")
    wait(page, "subscriptions[0].state === 'live'")
    gateway.publish(channel, 2)
    assert numbers(seen(page, 2)) == [1, 2]
    page.evaluate("window.net = true")
    wait(page, ALL_LIVE)


def test_a_revoked_subscription_token_is_replaced_and_nothing_is_missed(page: Page, gateway: RunningGateway, transport: str) -> None:
    channel = f"ticket:revoked-{transport}"
    follow(page, gateway, {channel: [ticket(channel, "ann", jti=transport), ticket(channel, "ann")]})
    gateway.publish(channel, 1)
    seen(page, 1)
    gateway.api("revoke", token_id=transport)
    gateway.publish(channel, 2)
    assert numbers(seen(page, 2)) == [1, 2]
    wait(page, f"{ALL_LIVE} && asked['{channel}'].length === 2")


def test_a_subscription_token_is_replaced_before_it_expires_on_the_same_connection(page: Page, gateway: RunningGateway) -> None:
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda payload: frames.append(str(payload))))
    follow(page, gateway, {"ticket:renewed": [lambda: ticket("ticket:renewed", "ann", seconds=3), ticket("ticket:renewed", "ann")]})
    wait(page, "asked['ticket:renewed'].length === 2")
    gateway.publish("ticket:renewed", "on the same line")
    seen(page, 1)
    assert page.evaluate("states.map(({ state }) => state)") == ["connecting", "catching up", "connected", "live"]
    assert sum("sub_refresh" in frame for frame in frames) == 1


# What a backend orders.


def test_a_backend_takes_one_channel_away_or_ends_the_connection_for_good(page: Page, gateway: RunningGateway, transport: str) -> None:
    taken, left = f"posts:taken-{transport}", f"posts:left-{transport}"
    follow(page, gateway, {taken: None, left: None})
    gateway.api("unsubscribe", user="ann", channel=taken)
    wait(page, "subscriptions[0].state === 'refused' && subscriptions[1].state === 'live'")
    gateway.publish(left, 1)
    assert numbers(seen(page, 1)) == [1]
    gateway.api("disconnect", user="ann")
    wait(page, "gateway.state === 'refused'")
    assert 3503 in codes(page)


# Streams that end with a token.


def test_an_event_stream_gets_new_tokens_before_the_old_ones_expire(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    tickets, tokens = (
        [ticket("ticket:stream", "ann", seconds=8), ticket("ticket:stream", "ann")],  # a busy machine takes seconds to open the page
        [gateway.token("ann", seconds=8), gateway.token("ann")],
    )
    follow(page, gateway, {"ticket:stream": tickets}, token=tokens)
    number = 0
    while page.evaluate("Math.min(asked.gateway.length, asked['ticket:stream'].length)") < 2:  # publications come all the while
        number += 1
        gateway.publish("ticket:stream", number)
        page.wait_for_timeout(50)  # or all of a core were spent on publishing
    wait(page, ALL_LIVE)
    gateway.publish("ticket:stream", number + 1)
    assert numbers(seen(page, number + 1)) == list(range(1, number + 2))
    assert 109 not in codes(page), "it did not wait to be refused"
    assert page.evaluate("states.slice(states.findIndex(({ state }) => state === 'connected')).some(({ retryMs }) => retryMs)") is False


def test_an_event_stream_whose_token_expired_reconnects_as_soon_as_there_is_another(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    follow(page, gateway, {"posts:ended": None}, token=[gateway.token("ann", seconds=2), "", "", gateway.token("ann")])
    gateway.publish("posts:ended", 1)
    seen(page, 1)
    wait(page, "states.some(({ code }) => code === 109)")
    gateway.publish("posts:ended", 2)
    assert numbers(seen(page, 2)) == [1, 2]


# Who is there.


def test_a_page_reads_presence_and_gets_joins_and_leaves(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, {"room:1": None, "room:unheard": None}, joinLeave=True)
    page.evaluate(
        """async (token) => {
          window.moved = [];
          for (const event of ["join", "leave"]) {
            subscriptions[0].on(event, ({ channel, info }) => moved.push([event, channel, info.user, info.chan_info]));
            gateway.on(event, ({ info }) => info.user === "bob" && moved.push([event, "of the gateway"]));
          }
          window.other = new gateway.constructor({ token });
          other.subscribe("room:1");
        }""",
        gateway.token("bob", info={"name": "Bob"}),
    )
    wait(page, "moved.some(([event, , user]) => event === 'join' && user === 'bob')")
    clients = page.evaluate("subscriptions[0].presence()")
    assert sorted((each["user"], each.get("conn_info")) for each in clients) == [("ann", None), ("bob", {"name": "Bob"})]
    assert page.evaluate("subscriptions[0].presenceStats()") == {"clients": 2, "users": 2}
    page.evaluate("other.close()")
    wait(page, "moved.at(-1)[0] === 'leave' && moved.at(-2)[0] === 'leave'")
    assert [each for each in page.evaluate("moved") if "ann" not in each] == [
        ["join", "room:1", "bob", None],
        ["join", "of the gateway"],
        ["leave", "room:1", "bob", None],
        ["leave", "of the gateway"],
    ]


def test_a_subscription_without_join_leave_gets_no_joins(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, {"room:quiet": None})
    page.evaluate(
        """async (token) => {
          window.moved = [];
          subscriptions[0].on("join", (event) => moved.push(event));
          window.other = new gateway.constructor({ token });
          other.subscribe("room:quiet");
        }""",
        gateway.token("bob"),
    )
    page.wait_for_function("async () => (await subscriptions[0].presenceStats()).clients === 2")
    gateway.publish("room:quiet", "after the join")
    seen(page, 1)
    assert page.evaluate("moved") == []


def test_event_streams_report_that_they_have_no_presence(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    follow(page, gateway, {"room:stream": None}, joinLeave=True)
    sentence = "needs WebSocket, which does not get through here; server-sent events only receive"
    told = {"channel": "room:stream", "state": "live", "code": "sse", "reason": f"joinLeave {sentence}"}
    assert page.evaluate("states.at(-1)") == told
    assert failure(page, "subscriptions[0].presence()") == {"name": "GatewayError", "code": "sse", "message": f"presence {sentence}"}
    assert failure(page, "subscriptions[0].presenceStats()")["code"] == "sse"
