"""``static/gateway.js`` and the landing page, in a real browser in front of real gateways.

The faults are made where browsers have them: a ``WebSocket`` that a proxy blocks, one that went deaf while the machine
slept. What the page saw is read from the page.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from ..kit.browser import BLANK, BLOCKED_WEBSOCKET, FOLLOW, cut, failure, follow, numbers, open_landing, restore, seen, wait
from ..kit.gateways import RunningGateway, Start
from ..kit.ports import free_port
from ..kit.publishing import publish_many

# Of all gateways here: the rules lie in Valkey, where a gateway with others would replace them.
SETTINGS = """
allowed_origins = ["http://localhost:*"]
[namespaces.short]
history_size = 2
[namespaces.long]
history_size = 2000
publish = "user"
[namespaces.closed]
subscribe = "nobody"
"""

DEAF_WEBSOCKET = """
const sockets = [];
window.goDeaf = () => sockets.forEach((socket) => (socket.deaf = true));
window.WebSocket = class extends WebSocket {
  constructor(url) { super(url); sockets.push(this); }
  set onmessage(handler) { super.onmessage = handler && ((event) => this.deaf || handler(event)); }
  set onclose(handler) { super.onclose = handler && ((event) => this.deaf || handler(event)); }
};
"""


# Asks for one more channel when the line's first words are on their way: the first frame, or the stream's request.
LATE_SUBSCRIBE = """
const later = () => (window.late ??= gateway.subscribe("long:late"));
window.EventSource = class extends EventSource { constructor(url) { super(url); setTimeout(later); } };
const { send } = WebSocket.prototype;
WebSocket.prototype.send = function (frame) { send.call(this, frame); later(); };
"""

# An answer is there, and the page has it when the test says so.
SLOW_FETCH = """() => {
  const { fetch } = window;
  window.fetch = async (...request) => {
    const answer = await fetch(...request);
    await new Promise((resolve) => (window.pass = resolve));
    return answer;
  };
}"""

# What a screen reader has of the state, each time that it changes.
LISTEN = """() => {
  window.spoken = [];
  window.shown = new Set();
  const state = document.querySelector("#state");
  const listen = () => {
    shown.add(state.textContent.trim().replace(/\\s+/g, " "));
    const heard = state.cloneNode(true);
    for (const each of heard.querySelectorAll("[aria-hidden]")) each.remove();
    if (spoken.at(-1) !== heard.textContent) spoken.push(heard.textContent);
  };
  new MutationObserver(listen).observe(state, { childList: true, subtree: true, characterData: true });
}"""


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(SETTINGS)


@pytest.fixture(scope="module")
def pinging(gateway: RunningGateway, start_gateway_once: Start) -> RunningGateway:
    """Another one, which pings each second."""
    return start_gateway_once("ping_seconds = 1\npong_seconds = 0.9\n" + SETTINGS)


# The landing page.


def read_before_and_cut_the_line(page: Page, gateway: RunningGateway) -> None:
    """The feed shows the publication "before", and then the page has no connection."""
    open_landing(page, gateway)
    gateway.publish("hello:world", {"text": "before"})
    expect(page.locator("#feed")).to_contain_text("before")
    page.get_by_role("button", name="Cut the line").click()


def test_what_a_server_publishes_appears_in_the_live_feed(page: Page, gateway: RunningGateway) -> None:
    open_landing(page, gateway)
    gateway.publish("hello:world", {"text": "from a server"})
    gateway.publish("hello:world", {"no": "text"})
    expect(page.locator("#feed .text")).to_have_text(['{"no":"text"}', "from a server"])


def test_the_page_publishes_what_is_typed_and_every_page_shows_it(page: Page, context: BrowserContext, gateway: RunningGateway) -> None:
    other = context.new_page()
    open_landing(other, gateway, "bob")
    open_landing(page, gateway)
    page.get_by_label("Text to publish").fill("typed here")
    page.keyboard.press("Enter")
    for each in (page, other):
        expect(each.locator("#feed li").first).to_contain_text("typed here")
        expect(each.locator("#feed .from").first).to_have_text("ann")
    expect(page.get_by_label("Text to publish")).to_have_value("")
    expect(page.get_by_label("Text to publish")).to_be_focused()
    other.close()


def test_hostile_markup_is_shown_as_text(page: Page, gateway: RunningGateway) -> None:
    open_landing(page, gateway)
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    gateway.publish("hello:world", {"text": hostile})
    gateway.publish("hello:world", {"<b>": "<i>"})
    expect(page.locator("#feed .text")).to_have_text(['{"<b>":"<i>"}', hostile])
    assert page.locator("#feed :is(img, script, b, i)").count() == 0
    assert page.title() != "owned"


def test_a_restored_line_brings_what_was_missed_once_in_order_and_marked(page: Page, gateway: RunningGateway) -> None:
    read_before_and_cut_the_line(page, gateway)
    expect(page.locator("#state")).to_have_text("line cut")
    for text in ("one", "two", "three"):
        gateway.publish("hello:world", {"text": text})
    assert "one" not in page.locator("#feed").inner_text()
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#state")).to_have_text("live")
    gateway.publish("hello:world", {"text": "after"})
    expect(page.locator("#feed li:not(.divider) .text")).to_have_text(["after", "three", "two", "one", "before"])
    expect(page.locator("#feed .recovered .text")).to_have_text(["three", "two", "one"])
    expect(page.locator("#feed .recovered .badge")).to_have_text(["caught up"] * 3)
    expect(page.locator("#feed .divider")).to_have_text("Line cut · 3 caught up")


def test_the_page_shows_an_error_when_it_publishes_without_a_connection(page: Page, gateway: RunningGateway) -> None:
    open_landing(page, gateway)
    page.get_by_role("button", name="Cut the line").click()
    page.get_by_label("Text to publish").fill("kept")
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("#fault")).to_have_text("Not published: the line is cut; nothing was sent.")
    expect(page.get_by_label("Text to publish")).to_have_value("kept")


def test_a_gap_is_shown_in_the_feed(page: Page, start_gateway: Start) -> None:
    gateway = start_gateway(SETTINGS)
    read_before_and_cut_the_line(page, gateway)
    publish_many(gateway, "hello:world", range(120))  # history holds 100
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#feed .gap")).to_have_text("Gap · history no longer holds what came here")
    expect(page.locator("#feed .recovered")).to_have_count(100)  # one more publication, and history would hold the first of them no longer
    gateway.publish("hello:world", {"text": "after"})
    held = [str(number) for number in range(119, 19, -1)]
    expect(page.locator("#feed .text")).to_have_text(["after", *held, "before"])
    expect(page.locator("#feed .recovered .text")).to_have_text(held)
    expect(page.locator("#feed .outage")).to_have_text("Line cut · 100 caught up, history no longer holds the rest")
    order = page.locator("#feed li").evaluate_all("rows => rows.map((row) => row.className)")
    assert order == ["publication", *["publication recovered"] * 100, "divider gap", "divider outage", "publication"]


def test_a_gap_of_a_history_that_was_removed_is_shown_with_true_words(page: Page, start_gateway: Start) -> None:
    gateway = start_gateway(SETTINGS)
    read_before_and_cut_the_line(page, gateway)
    gateway.publish("hello:world", {"text": "removed"})
    gateway.api("history_remove", channel="hello:world")
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#feed .outage")).to_have_text("Line cut · history does not hold what was missed")
    gateway.publish("hello:world", {"text": "after"})
    expect(page.locator("#feed .text")).to_have_text(["after", "before"])


def test_a_gap_over_an_event_stream_is_shown_with_true_words(page: Page, start_gateway: Start) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    gateway = start_gateway(SETTINGS)
    page.goto(f"{gateway.url}/#token={gateway.token('ann')}")
    expect(page.locator("#state")).to_have_text("live, receiving only")
    gateway.publish("hello:world", {"text": "before"})
    expect(page.locator("#feed")).to_contain_text("before")
    page.get_by_role("button", name="Cut the line").click()
    publish_many(gateway, "hello:world", range(120))
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#feed .gap")).to_have_text("Gap · history no longer holds what came here")
    expect(page.locator("#feed .recovered")).to_have_count(100)  # one more publication, and history would hold the first of them no longer
    gateway.publish("hello:world", {"text": "after"})
    held = [str(number) for number in range(119, 19, -1)]
    expect(page.locator("#feed .text")).to_have_text(["after", *held, "before"])
    expect(page.locator("#feed .outage")).to_have_text("Line cut · 100 caught up, history no longer holds the rest")


def test_a_gap_above_which_more_arrives_than_the_feed_shows_leaves_the_newest_rows(page: Page, start_gateway: Start) -> None:
    gateway = start_gateway(SETTINGS)
    read_before_and_cut_the_line(page, gateway)
    publish_many(gateway, "hello:world", range(120))
    page.evaluate(SLOW_FETCH)
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#feed .gap")).to_be_visible()
    wait(page, "window.pass")
    publish_many(gateway, "hello:world", range(1000, 1250))  # while history is read
    expect(page.locator("#feed .text").first).to_have_text("1249")
    page.evaluate("pass()")
    gateway.publish("hello:world", {"text": "after"})
    newest = [str(number) for number in range(1249, 1050, -1)]
    expect(page.locator("#feed .text")).to_have_text(["after", *newest])


def test_a_screen_reader_is_spared_the_seconds_until_the_next_attempt(page: Page, start_gateway: Start) -> None:
    page.add_init_script("Math.random = () => 1")  # a backoff is its full length
    gateway = start_gateway(SETTINGS)
    open_landing(page, gateway)
    gateway.stop()
    page.evaluate(LISTEN)
    for seconds in (3, 2):
        wait(page, f"shown.has('reconnecting in {seconds} s')")
    assert set(page.evaluate("spoken")) == {"reconnecting", "connecting"}


def test_a_long_user_id_leaves_room_for_the_text_on_a_phone(page: Page, gateway: RunningGateway) -> None:
    open_landing(page, gateway, "0189f7a2-3c5e-7b1d-9a4f-5d2e8c6b1a90" * 2)
    page.set_viewport_size({"width": 360, "height": 800})
    page.get_by_label("Text to publish").fill("a sentence of several words")
    page.keyboard.press("Enter")
    box = page.locator("#feed .text").first.bounding_box()
    assert box is not None and box["width"] > 120
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_nothing_is_lost_when_the_gateway_restarts_under_the_page(page: Page, start_gateway: Start) -> None:
    first = start_gateway(SETTINGS, port=free_port())
    open_landing(page, first)
    first.publish("hello:world", {"text": "before"})
    expect(page.locator("#feed")).to_contain_text("before")
    first.stop()
    expect(page.locator("#state")).to_contain_text("reconnecting")
    second = start_gateway(SETTINGS, port=first.port)
    # Whether the page is back by now or not, it sees each of them once.
    for number in range(5):
        second.publish("hello:world", {"text": f"meanwhile {number}"})
    expect(page.locator("#state")).to_have_text("live")
    second.publish("hello:world", {"text": "after"})
    meanwhile = [f"meanwhile {number}" for number in reversed(range(5))]
    expect(page.locator("#feed .text")).to_have_text(["after", *meanwhile, "before"])


def test_the_token_leaves_the_address_bar_and_survives_a_reload(page: Page, gateway: RunningGateway) -> None:
    open_landing(page, gateway)
    assert page.url == f"{gateway.url}/"
    page.reload()
    expect(page.locator("#state")).to_have_text("live")


def test_another_token_in_the_same_tab_continues_at_the_old_position(page: Page, gateway: RunningGateway) -> None:
    read_before_and_cut_the_line(page, gateway)
    gateway.publish("hello:world", {"text": "between"})
    page.evaluate("token => { location.hash = 'token=' + token }", gateway.token("bob"))
    expect(page.locator("#feed .recovered .text")).to_have_text(["between"])


@pytest.mark.parametrize(("token", "state"), [("", "refused: no token"), ("nonsense", "refused: invalid token")])
def test_a_page_with_a_refused_token_shows_where_to_get_one(page: Page, gateway: RunningGateway, token: str, state: str) -> None:
    page.goto(f"{gateway.url}/#token={token}")
    expect(page.locator("#state")).to_have_text(state)
    expect(page.get_by_role("alert")).to_contain_text("Open the link that is printed in the gateway’s terminal")
    expect(page.locator("#feed li")).to_have_count(0)
    page.evaluate("token => { location.hash = 'token=' + token }", gateway.token("ann"))
    expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#hint")).to_be_hidden()


# The module.


def test_connect_and_the_first_subscribes_leave_in_one_frame(page: Page, gateway: RunningGateway) -> None:
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda payload: frames.append(str(payload))))
    follow(page, gateway, "long:frame-a", "long:frame-b")
    lines = frames[0].splitlines()
    assert ["connect" in lines[0], "long:frame-a" in lines[1], "long:frame-b" in lines[2]] == [True] * 3
    assert page.evaluate("states.filter(({ channel }) => !channel).map(({ state, transport }) => [state, transport])") == [
        ["connecting", "websocket"],
        ["connected", "websocket"],
    ]


def test_the_client_answers_pings(page: Page, pinging: RunningGateway) -> None:
    with page.expect_websocket() as opening:
        follow(page, pinging)
    opening.value.wait_for_event("framesent", lambda payload: payload == "{}")


@pytest.mark.parametrize("fault", ["", BLOCKED_WEBSOCKET], ids=["websocket", "sse"])
def test_a_subscribe_while_the_connection_opens_is_carried_out(page: Page, gateway: RunningGateway, fault: str) -> None:
    page.add_init_script(fault + LATE_SUBSCRIBE)
    follow(page, gateway, "long:first")
    wait(page, "window.late?.state === 'live'")
    wait(page, "subscriptions[0].state === 'live'")


def test_a_publication_event_has_all_its_fields(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:whole")
    gateway.publish("long:whole", {"n": 1}, tags={"kind": "test"})
    page.evaluate("subscriptions[0].publish({ n: 2 })")
    by_server, by_page = seen(page, 2)
    whole = {"channel": "long:whole", "data": {"n": 1}, "offset": 1, "tags": {"kind": "test"}, "info": None, "recovered": False}
    assert by_server == whole
    assert (by_page["data"], by_page["offset"], by_page["info"]["user"]) == ({"n": 2}, 2, "ann")
    assert page.evaluate("subscriptions[0].position")["offset"] == 2


def test_hundreds_of_missed_publications_come_in_order_and_once(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:many")
    gateway.publish("long:many", 0)
    seen(page, 1)
    cut(page)
    publish_many(gateway, "long:many", range(1, 700))
    restore(page)
    seen(page, 700)
    gateway.publish("long:many", 700)
    publications = seen(page, 701)
    assert numbers(publications) == list(range(701))
    assert [publication["recovered"] for publication in publications] == [False, *[True] * 699, False]


def test_a_gap_event_comes_where_history_was_trimmed_and_the_channel_continues_after_it(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "short:gap", "long:whole-beside-it")
    gateway.publish("short:gap", 1)
    seen(page, 1)
    cut(page)
    for number in range(2, 6):
        position = gateway.publish("short:gap", number)
    gateway.publish("long:whole-beside-it", "held")
    restore(page)
    wait(page, "gaps.length > 0")
    gateway.publish("short:gap", 6)
    assert sorted(map(str, numbers(seen(page, 3)))) == ["1", "6", "held"]
    assert page.evaluate("gaps") == [{"channel": "short:gap", "epoch": position["epoch"], "offset": 5}]


def test_a_subscription_can_begin_after_a_stored_position(page: Page, gateway: RunningGateway) -> None:
    first = gateway.publish("long:kept", "seen in another life of the page")
    gateway.publish("long:kept", "new")
    follow(page, gateway)
    page.evaluate("since => { window.kept = gateway.subscribe('long:kept', { since }) }", first)
    publications = seen(page, 1)
    assert [(each["data"], each["recovered"]) for each in publications] == [("new", True)]


def test_the_token_function_is_called_again_when_a_token_has_expired(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:expired", tokens=[gateway.token("ann", seconds=-60), gateway.token("ann")])
    assert page.evaluate("asked") == 2
    assert [109] == page.evaluate("states.filter(({ state, code }) => state === 'waiting' && code).map(({ code }) => code)")


def test_an_expired_token_that_is_a_string_is_refused_for_good(page: Page, gateway: RunningGateway) -> None:
    page.goto(gateway.url + BLANK)
    options = {"token": gateway.token("ann", seconds=-60)}
    page.evaluate(FOLLOW, {"url": gateway.url, "channels": ["long:stale"], "options": options})
    wait(page, "gateway.state === 'refused'")
    assert page.evaluate("states.at(-1)") == {"state": "refused", "code": 109, "reason": "token expired"}
    assert failure(page, "gateway.publish('long:stale', 1)")["code"] == 109


def test_a_token_is_replaced_before_it_expires_on_the_same_connection(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:refresh", tokens=[gateway.token("ann", seconds=3), gateway.token("ann", seconds=3600)])
    wait(page, "asked === 2")
    gateway.publish("long:refresh", "on the same line")
    seen(page, 1)
    assert page.evaluate("states.filter(({ state }) => state === 'connected').length") == 1


def test_a_token_function_that_fails_is_tried_again(page: Page, gateway: RunningGateway) -> None:
    page.goto(gateway.url + BLANK)
    page.evaluate(
        """async ({ url, token }) => {
          const { Gateway } = await import(url + "/static/gateway.js");
          let left = 2;
          window.reasons = [];
          window.gateway = new Gateway({ backoffMs: 20, token: () => { if (left--) throw new Error("no net"); return token; } });
          gateway.on("state", ({ state, code }) => state === "waiting" && reasons.push(code));
        }""",
        {"url": gateway.url, "token": gateway.token("ann")},
    )
    wait(page, "gateway.state === 'connected' || gateway.state === 'refused'")
    assert page.evaluate("reasons") == ["token", "token"]


def test_a_forbidden_channel_is_refused_for_good_and_the_others_stay_live(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:allowed")
    page.evaluate("window.forbidden = gateway.subscribe('closed:1'); void forbidden.on('state', (event) => states.push(event))")
    wait(page, "forbidden.state === 'refused'")
    assert page.evaluate("states.at(-1)") == {"channel": "closed:1", "state": "refused", "code": 103, "reason": "permission denied"}
    gateway.publish("long:allowed", 1)
    cut(page)
    restore(page)
    seen(page, 1)
    wait(page, "forbidden.state === 'refused'")  # connect() asked once more, as it says


def test_a_forbidden_channel_does_not_end_the_event_stream_of_the_others(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    follow(page, gateway, "long:allowed2")
    assert page.evaluate("gateway.transport") == "sse"
    page.evaluate("window.forbidden = gateway.subscribe('closed:2'); void forbidden.on('state', (event) => states.push(event))")
    wait(page, "forbidden.state === 'refused'")
    wait(page, "gateway.state === 'connected'")
    gateway.publish("long:allowed2", 1)
    seen(page, 1)


def test_a_refused_publish_rejects_with_the_servers_error(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "short:mute")
    assert failure(page, "gateway.publish('short:mute', 1)") == {"name": "GatewayError", "code": 103, "message": "permission denied"}
    assert failure(page, "gateway.rpc('no.such')")["code"] == 108


def test_history_and_rpc_are_answered(page: Page, gateway: RunningGateway) -> None:
    for number in range(3):
        gateway.publish("long:history", number)
    follow(page, gateway, "long:history")
    answer = page.evaluate("subscriptions[0].history({ limit: 2, reverse: true })")
    assert (numbers(answer["publications"]), answer["offset"]) == ([2, 1], 3)
    assert page.evaluate("gateway.rpc('gateway.whoami')")["user"] == "ann"


def test_an_unsubscribed_channel_is_silent_and_can_be_subscribed_again(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, "long:left", "long:stays")
    page.evaluate("subscriptions[0].unsubscribe()")
    gateway.publish("long:left", "unheard")
    gateway.publish("long:stays", 1)
    page.evaluate("window.again = gateway.subscribe('long:left')")
    wait(page, "again.state === 'live'")
    gateway.publish("long:left", "heard")
    assert numbers(seen(page, 2)) == [1, "heard"]


def test_the_users_own_channel_is_subscribed_and_caught_up_by_the_server(page: Page, gateway: RunningGateway) -> None:
    follow(page, gateway, token=gateway.token("carl"))
    wait(page, "gateway.state === 'connected'")
    gateway.publish("notifications:carl", "live")
    seen(page, 1)
    cut(page)
    gateway.publish("notifications:carl", "missed")
    restore(page)
    assert [(each["data"], each["recovered"]) for each in seen(page, 2)] == [("live", False), ("missed", True)]


def test_a_page_of_another_origin_imports_the_module_and_subscribes(page: Page, gateway: RunningGateway) -> None:
    page.goto(f"http://localhost:{gateway.port}{BLANK}")
    page.evaluate(FOLLOW, {"url": gateway.url, "channels": ["long:elsewhere"], "options": {"token": gateway.token("ann")}})
    wait(page, "subscriptions[0].state === 'live'")
    gateway.publish("long:elsewhere", 1)
    seen(page, 1)


def test_a_connection_that_died_while_the_machine_slept_is_replaced_and_caught_up(page: Page, pinging: RunningGateway) -> None:
    page.add_init_script(DEAF_WEBSOCKET)
    follow(page, pinging, "long:sleep", silenceMs=1000)
    page.evaluate("goDeaf()")
    pinging.publish("long:sleep", "while asleep")
    publications = seen(page, 1)
    assert [(each["data"], each["recovered"]) for each in publications] == [("while asleep", True)]
    assert page.evaluate("states.find(({ retryMs }) => retryMs).reason") == "nothing came from the gateway"


@pytest.mark.parametrize(
    "event",
    [
        "window.dispatchEvent(new Event('online'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
        "window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))",  # headless Chromium has no back/forward cache
    ],
)
def test_a_page_that_wakes_tests_its_connection(page: Page, gateway: RunningGateway, event: str) -> None:
    page.add_init_script(DEAF_WEBSOCKET)
    follow(page, gateway, "long:wake", timeoutMs=300)
    page.evaluate("goDeaf()")
    assert failure(page, "gateway.publish('long:wake', 1)")["code"] == "timeout"
    page.evaluate(event)
    wait(page, "states.some(({ reason }) => reason === 'the gateway did not answer')")
    wait(page, "subscriptions[0].state === 'live'")


def test_joined_and_repeated_frames_deliver_each_publication_once(page: Page, gateway: RunningGateway) -> None:
    def stutter(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def on_message(message: str | bytes) -> None:
            if '"subscribe":' in str(message):
                socket.send('{"push":{"channel":"long:stutter","pub":{"data":"before the reply","offset":9}}}')
            socket.send(f"{message}\n{message}" if "push" in str(message) else message)

        server.on_message(on_message)

    page.route_web_socket("**/connection/websocket", stutter)
    follow(page, gateway, "long:stutter")
    for number in range(3):
        gateway.publish("long:stutter", number)
    page.evaluate("gateway.publish('long:stutter', 3)")
    assert numbers(seen(page, 4)) == [0, 1, 2, 3]


def test_a_subscription_ended_by_the_server_for_lost_state_recovers(page: Page, gateway: RunningGateway) -> None:
    def insufficient(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def on_message(message: str | bytes) -> None:
            if "last before" in str(message):
                server.send('{"id":1000,"unsubscribe":{"channel":"long:let-go"}}')
            elif "missed" in str(message) and "push" in str(message):
                return  # lost on its way
            elif '"id":1000' in str(message):
                gateway.publish("long:let-go", "missed")
                message = '{"push":{"channel":"long:let-go","unsubscribe":{"code":2500,"reason":"insufficient state"}}}'
            socket.send(message)

        server.on_message(on_message)

    page.route_web_socket("**/connection/websocket", insufficient)
    follow(page, gateway, "long:let-go")
    gateway.publish("long:let-go", "last before")
    assert [(each["data"], each["recovered"]) for each in seen(page, 2)] == [("last before", False), ("missed", True)]
    assert page.evaluate("states.filter(({ state }) => state === 'connected').length") == 1


def test_data_that_is_not_json_is_refused_by_the_client_and_the_next_publish_works(page: Page, gateway: RunningGateway) -> None:
    page.goto(gateway.url + BLANK)
    page.evaluate(FOLLOW, {"url": gateway.url, "channels": ["long:no-json"], "options": {"token": gateway.token("ann")}})
    assert failure(page, "gateway.publish('long:no-json', 1n)")["name"] == "TypeError"
    page.evaluate("gateway.publish('long:no-json', 2)")
    wait(page, "subscriptions[0].state === 'live'")


def test_a_page_that_wakes_does_not_wait_for_its_backoff(page: Page, start_gateway: Start) -> None:
    first = start_gateway(SETTINGS, port=free_port())
    follow(page, first, "hello:wake", backoffMs=10**9, longestBackoffMs=10**9)
    first.stop()
    wait(page, "gateway.state === 'waiting'")
    start_gateway(SETTINGS, port=first.port)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    wait(page, "subscriptions[0].state === 'live'")


# Where WebSocket is blocked.


def test_the_landing_page_receives_over_event_streams_and_shows_that_it_cannot_publish(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    page.goto(f"{gateway.url}/#token={gateway.token('ann')}")
    expect(page.locator("#state")).to_have_text("live, receiving only")
    gateway.publish("hello:world", {"text": "over server-sent events"})
    expect(page.locator("#feed .text")).to_have_text("over server-sent events")
    page.get_by_role("button", name="Cut the line").click()
    gateway.publish("hello:world", {"text": "missed"})
    page.get_by_role("button", name="Restore the line").click()
    expect(page.locator("#feed .divider")).to_have_text("Line cut · 1 caught up")
    expect(page.locator("#feed .recovered .text")).to_have_text("missed")
    page.get_by_label("Text to publish").fill("cannot")
    page.keyboard.press("Enter")
    expect(page.locator("#fault")).to_contain_text("Not published: publish needs WebSocket, which does not get through here")


def test_event_streams_recover_each_channel_and_report_gaps(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    follow(page, gateway, "long:stream", "short:stream")
    assert page.evaluate("gateway.transport") == "sse"
    gateway.publish("long:stream", 1)
    gateway.publish("short:stream", "a")
    seen(page, 2)
    cut(page)
    for number in (2, 3, 4):
        gateway.publish("long:stream", number)
        gateway.publish("short:stream", number)
    restore(page)
    wait(page, "gaps.length > 0")
    gateway.publish("short:stream", "b")
    gateway.publish("long:stream", 5)
    publications = seen(page, 7)
    long = [(each["data"], each["recovered"]) for each in publications if each["channel"] == "long:stream"]
    assert long == [(1, False), (2, True), (3, True), (4, True), (5, False)]
    assert [each["data"] for each in publications if each["channel"] == "short:stream"] == ["a", "b"]
    assert [gap["channel"] for gap in page.evaluate("gaps")] == ["short:stream"]
    rejection = failure(page, "gateway.publish('long:stream', 6)")
    assert (rejection["code"], "server-sent events only receive" in rejection["message"]) == ("sse", True)


def test_adding_or_removing_a_channel_of_an_event_stream_loses_nothing_in_the_others(page: Page, gateway: RunningGateway) -> None:
    page.add_init_script(BLOCKED_WEBSOCKET)
    follow(page, gateway, "long:stays-in-stream")
    gateway.publish("long:stays-in-stream", 1)
    seen(page, 1)
    page.evaluate("window.joined = gateway.subscribe('long:joins')")
    gateway.publish("long:stays-in-stream", 2)
    wait(page, "joined.state === 'live'")
    gateway.publish("long:joins", "joined")
    seen(page, 3)
    page.evaluate("joined.unsubscribe()")
    gateway.publish("long:joins", "unheard")
    gateway.publish("long:stays-in-stream", 3)
    assert [each["data"] for each in seen(page, 4) if each["data"] != "joined"] == [1, 2, 3]


def test_a_gateway_that_is_down_does_not_make_the_client_change_to_event_streams(page: Page, start_gateway: Start) -> None:
    first = start_gateway(SETTINGS, port=free_port())
    follow(page, first, "hello:down", backoffMs=20, longestBackoffMs=50)
    first.stop()
    wait(page, "states.filter(({ state }) => state === 'connecting').length > 8")
    start_gateway(SETTINGS, port=first.port)
    wait(page, "subscriptions[0].state === 'live'")
    assert "sse" not in page.evaluate("states.map(({ transport }) => transport)")
    page.evaluate("gateway.publish('hello:down', 1)")
