"""``gateway doctor`` on a token, an origin and a channel: what a client would be refused, by which setting, and the line that changes it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.cli.doctor.access_check import Asked, check_access, check_origin
from gateway.cli.doctor.diagnosis import Diagnosis, Weight
from gateway.config import Config
from gateway.control.revocations import Revocations
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Layout

from ...kit.tokens import SECRET, claiming, ticket, token

NAMESPACES = {
    "open": {"subscribe": "anyone"},
    "tick": {"subscribe": "token"},
    "sealed": {"subscribe": "nobody"},
    "live": {"history_size": 0},
}
FAULT, NOTE = Weight.FAULT, Weight.NOTE


def _config(**settings: Any) -> Config:
    tokens = {"hmac_secret": SECRET} | settings.pop("tokens", {})
    return Config(**{"namespaces": NAMESPACES, "tokens": tokens, **settings})


async def _asked(config: Config, *tokens: str, channel: str = "", revoked: str = "") -> Diagnosis:
    revocations = Revocations(History(make_commands(Address("unix:///nowhere")), Layout("gw")))
    if revoked:
        revocations.add("", revoked, 0.0, time.time() + 60)
    diagnosis = Diagnosis()
    await check_access(config, Asked(tokens, "", channel), revocations, diagnosis)
    return diagnosis


# A token, the configuration's [tokens], and words of the sentence and of the change.
TOKENS: dict[str, Any] = {
    "a text": ("hello", {}, "3500 invalid token: it is no JSON Web Token", "gateway token"),
    "another secret": (token(secret="x" * 32), {}, "no key here made its signature", "tokens.hmac_secret"),
    "expired": (token(seconds=-7200), {}, "109 token expired, 2 hours ago", "new token"),
    "early": (token(nbf=int(time.time()) + 900), {}, "not yet valid", "tokens.leeway = 30"),
    "no audience": (token(), {"audience": "web"}, "aud", 'put "aud": "web"'),
    "another audience": (token(aud="app"), {"audience": "web"}, "audience", 'or tokens.audience = "app"'),
    "another issuer": (token(iss="them"), {"issuer": "us"}, "ssuer", 'or tokens.issuer = "them"'),
    "another algorithm": (token(), {"algorithms": ["HS512"]}, "no key here is for the algorithm", "tokens.algorithms"),
    "channels that are unknown": (token(channels=["caht:1"]), {}, "102 unknown channel", "namespaces.caht"),
    "too many channels": (token(channels=[f"open:{n}" for n in range(200)]), {}, "3505 channel limit", "limits.channels_per_client = 200"),
}


@pytest.mark.parametrize("case", TOKENS)
async def test_a_refused_token_is_explained_by_the_setting_that_refuses_it(case: str) -> None:
    text, tokens, sentence, change = TOKENS[case]
    diagnosis = await _asked(_config(tokens=tokens), text, channel="posts:1")
    (finding,) = diagnosis.findings
    assert finding.weight is FAULT and sentence in finding.sentence and change in finding.change
    assert text not in diagnosis.as_text() and not diagnosis.is_well


async def test_a_good_token_is_shown_by_its_user_and_its_time_and_nothing_secret() -> None:
    given = token("ann", channels=["open:1"], info={"card": "4111"}, jti="id-7")
    diagnosis = await _asked(_config(), given)
    assert diagnosis.findings == [] and diagnosis.fine == {"token": "user 'ann', expires in 60 minutes, subscribes to open:1"}
    shown = diagnosis.as_text() + diagnosis.as_json()
    assert not any(secret in shown for secret in (given, SECRET, "4111"))


async def test_a_revoked_token_is_refused() -> None:
    (finding,) = (await _asked(_config(), token(jti="id-7"), revoked="id-7")).findings
    assert "the token was revoked" in finding.sentence and "log in again" in finding.change


async def test_without_a_token_where_no_channel_is_open_nobody_is_let_in() -> None:
    (finding,) = (await _asked(_config(namespaces={}), channel="posts:1")).findings
    assert finding.weight is FAULT and "3501" in finding.sentence and 'namespaces.NAME.subscribe = "anyone"' in finding.change


# Who asks for which channel; the weight, sentence and change of each finding; what is admitted.
CHANNELS: dict[str, Any] = {
    "token": (
        "ann",
        "tick:x",
        [
            (
                FAULT,
                'channel tick:x: namespace tick, subscribe = "token": a client needs a subscription token for the channel',
                'or namespaces.tick.subscribe = "user"',
            )
        ],
    ),
    "nobody": (
        "ann",
        "sealed:x",
        [(FAULT, 'namespace sealed, subscribe = "nobody": no client may', 'namespaces.sealed.subscribe = "user"')],
    ),
    "owner": ("ann", "notifications:bob", [(FAULT, "belongs to user 'bob', and the client is user 'ann'", 'whose claim "sub" is "bob"')]),
    "owner by a #": ("ann", "posts:x#bob", [(FAULT, "belongs to user 'bob'", 'whose claim "sub" is "bob"')]),
    "anonymous": (
        "",
        "posts:1",
        [(FAULT, "every client with a user may, and the client is anonymous", 'namespaces.posts.subscribe = "anyone"')],
    ),
    "misspelled": ("ann", "psots:1", [(FAULT, "102 unknown channel: no namespace 'psots'", "did you mean 'posts'?")]),
    "without a namespace": ("", "lobby", [(FAULT, "channels without a namespace", 'channels.subscribe = "anyone"')]),
    "no history": ("ann", "live:1", [(NOTE, "has no history", "namespaces.live.history_size = 100")]),
}


@pytest.mark.parametrize("case", CHANNELS)
async def test_a_channel_is_refused_by_the_setting_of_its_namespace(case: str) -> None:
    user, channel, expected = CHANNELS[case]
    diagnosis = await _asked(_config(), token(user), channel=channel)
    findings = [each for each in diagnosis.findings if ', publish = "nobody"' not in each.sentence]
    assert len(findings) == len(expected), findings
    for finding, (weight, sentence, change) in zip(findings, expected, strict=True):
        assert finding.weight is weight and sentence in finding.sentence and change in finding.change
    assert diagnosis.is_well is all(weight is not FAULT for weight, _, _ in expected)


async def test_the_channel_of_alerts_has_the_history_of_channels_without_a_namespace() -> None:
    """There is no alerts.history_size."""
    config = _config(alerts={"ready": 10, "subscribe": "user"}, channels={"history_size": 0})
    (finding,) = (await _asked(config, token(), channel="alerts")).findings
    assert "channel alerts has no history" in finding.sentence and finding.change == "channels.history_size = 100"
    (refused, _) = (await _asked(config, token(""), channel="alerts")).findings
    assert "the channel of alerts" in refused.sentence and 'alerts.subscribe = "anyone"' in refused.change


async def test_no_setting_is_named_that_would_open_the_consoles_own_channel() -> None:
    """namespaces.console is refused while there is a console."""
    config = _config(admin_keys=["k" * 16])
    (finding,) = (await _asked(config, token(), channel="console:live")).findings
    assert 'channel console:live: namespace console, subscribe = "nobody"' in finding.sentence
    assert finding.change == "another name: no setting opens the gateway's own channels"


async def test_a_subscription_token_for_a_channel_without_a_namespace_is_refused() -> None:
    finding = (await _asked(_config(), ticket("caht:1"))).findings[0]
    assert "the subscription token for caht:1 is refused with 102 unknown channel" in finding.sentence
    assert finding.weight is FAULT and "namespaces.caht" in finding.change


async def test_that_clients_may_not_publish_is_a_note_since_that_is_the_default() -> None:
    diagnosis = await _asked(_config(), token(), channel="posts:1")
    assert [each.weight for each in diagnosis.findings] == [NOTE] and 'publish = "nobody"' in diagnosis.findings[0].sentence
    assert diagnosis.fine["channel posts:1"] == "user 'u1' is admitted by subscribe, history, presence_for"


async def test_a_subscription_token_opens_its_channel_for_its_own_user_alone() -> None:
    opened = await _asked(_config(), token("ann"), ticket("tick:x", "ann"), channel="tick:x")
    assert opened.is_well and "subscribe" in opened.fine["channel tick:x"]
    alone = await _asked(_config(), ticket("tick:x", "ann"), channel="tick:x")  # a connection token of the same user is taken to be there
    assert alone.is_well
    others = await _asked(_config(), token("bob"), ticket("tick:x", "ann"), channel="tick:x")
    assert "names another channel or user" in others.findings[0].sentence and "needs a subscription token" in others.findings[1].sentence
    expired = await _asked(_config(), token("ann"), claiming(sub="ann", channel="tick:x", exp=1000), channel="tick:x")
    assert "the subscription token for tick:x is refused with 109" in expired.findings[0].sentence


@pytest.mark.parametrize(
    "allowed, origin, host, weight, change",
    [
        (
            ["https://a.example.org"],
            "https://b.example.org",
            "",
            FAULT,
            'allowed_origins = ["https://a.example.org", "https://b.example.org"]',
        ),
        (["https://*.example.org"], "https://b.example.org", "", None, ""),
        ([], "https://b.example.org", "b.example.org", None, ""),
        (["*"], "https://b.example.org", "", NOTE, 'allowed_origins = ["https://b.example.org"]'),
        ([], "b.example.org", "", FAULT, "--origin"),
    ],
)
def test_an_origin_is_refused_by_allowed_origins(allowed: list[str], origin: str, host: str, weight: Weight | None, change: str) -> None:
    diagnosis = Diagnosis()
    check_origin(_config(allowed_origins=allowed), origin, host, diagnosis)
    assert [each.weight for each in diagnosis.findings] == ([] if weight is None else [weight])
    assert change in "".join(each.change for each in diagnosis.findings)
    assert ("origin" in diagnosis.fine) is (weight is None)
