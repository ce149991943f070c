"""The console in trouble, which is when operators need it: Valkey is away, the process is full."""

from __future__ import annotations

from ..kit.clients import client, opened
from ..kit.gateways import RunningGateway, shared_gateway
from ..kit.operators import WITH_CONSOLE, log_in
from ..kit.valkeys import OwnValkey
from ..kit.waiting import wait_until

gateway = shared_gateway(WITH_CONSOLE + "[limits]\nconnections = 1\n", own=True)


async def test_an_operator_gets_in_where_there_is_no_place_for_another_client(gateway: RunningGateway) -> None:
    async with client(gateway, "ann"), opened(gateway) as refused:
        assert (await refused.ended())[0] == 3504
        operator = log_in(gateway)
        node = operator.call("nodes")["nodes"][0]
        assert node["clients"] == 1
        assert operator.call("disconnect", user="ann") == {}


def test_operators_log_in_learn_what_is_wrong_and_log_out(gateway: RunningGateway, own: OwnValkey) -> None:
    before = log_in(gateway)
    own.kill()
    wait_until(lambda: gateway.http("GET", "/health/ready")[0] == 503, "a lost Valkey")
    operator = log_in(gateway)
    assert before.status == operator.status == 200
    found = operator.call("nodes")
    assert len(found["nodes"]) == 1 and found["nodes"][0]["ready"] and found["nodes"][0]["link"] != "up"
    assert found["warning"].startswith("the other processes cannot be asked: ")
    assert operator.call("live")["channel"] == "console:live"
    for method, request in (("watch", {}), ("log", {}), ("drain", {"node": "x"}), ("history", {"channel": "posts:1"}), ("info", {})):
        assert "Valkey" in operator.refusal(method, **request) or "valkey" in operator.refusal(method, **request), method
    left = operator.request("DELETE", "/admin/session")
    assert left.status == 200 and "once Valkey is back" in left.json["warning"] and "Max-Age=0" in left.headers["set-cookie"]
    assert (operator.status, before.status) == (401, 200)
    own.start()
    id = operator.cookie.split(".")[2]
    wait_until(lambda: own.ask("ZSCORE", f"{gateway.prefix}:revoked", f"token {id}"), "what other processes read")
