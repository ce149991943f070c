"""What the settings let a user do in a channel, each with the setting that decides it, in a sentence."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ..channel_rules import ChannelRules
from ..config import Config
from ..edges.api.requests import Channel, Shape
from ..publication import MAX_CHANNEL_LENGTH
from ..rules.identity import Identity
from ..rules.json_text import encode
from ..rules.permissions import admits, may_subscribe, reason_of
from .caller import Caller, read_method

__all__ = ["METHODS", "Judgement", "UserName", "judge_subscribe"]

UserName = Annotated[str, Meta(max_length=MAX_CHANNEL_LENGTH, description="a user's id; empty for an anonymous client")]


class PermissionsRequest(Shape, kw_only=True):
    """What ``user`` may do in ``channel``."""

    user: UserName = ""
    channel: Channel


class Judgement(msgspec.Struct):
    """Whether it is allowed, and by which setting: a sentence that names it."""

    allowed: bool
    by: str


class PermissionsResult(msgspec.Struct):
    """What the settings allow a user without a subscription token. ``subscribes_on_connect``: a connection is subscribed to the channel by itself."""

    subscribe: Judgement
    publish: Judgement
    history: Judgement
    presence: Judgement
    subscribes_on_connect: bool


async def permissions(caller: Caller, request: PermissionsRequest) -> bytes:
    """What a user may do in a channel, by which setting. Raises UnknownChannel."""
    node, user, channel = caller.node, request.user, request.channel
    rules = node.rules(channel)
    subscribe = judge_subscribe(node.config, user, channel)
    result = PermissionsResult(
        subscribe=subscribe,
        publish=_judge(node.config, user, channel, "publish", subscribe),
        history=_judge_history(node.config, rules, user, channel, subscribe),
        presence=_judge_presence(node.config, rules, user, channel, subscribe),
        subscribes_on_connect=channel in node.personal_channels(user),
    )
    return encode(result)


def judge_subscribe(config: Config, user: str, channel: str) -> Judgement:
    """Whether ``user`` may subscribe without a subscription token. Raises UnknownChannel."""
    rules = config.rules(channel)
    identity = Identity(user, unchecked=config.insecure.clients)
    allowed = may_subscribe(rules, identity, channel)
    by = _sentence(config, identity, channel, "subscribe", rules.subscribe)
    if not allowed and rules.subscribe not in ("nobody", "token"):
        by += "; a subscription token for the channel would open it"
    return Judgement(allowed, by)


def _judge_history(config: Config, rules: ChannelRules, user: str, channel: str, subscribe: Judgement) -> Judgement:
    if not rules.has_history:
        return Judgement(False, f"{config.setting_line(channel, 'history_size', '0')}: the channel has no history")
    return _judge(config, user, channel, "history", subscribe)


def _judge_presence(config: Config, rules: ChannelRules, user: str, channel: str, subscribe: Judgement) -> Judgement:
    if not rules.presence:
        return Judgement(False, f"{config.setting_line(channel, 'presence', 'false')}: nobody sees who is in the channel")
    return _judge(config, user, channel, "presence_for", subscribe)


def _judge(config: Config, user: str, channel: str, rule: str, subscribe: Judgement) -> Judgement:
    audience: str = getattr(config.rules(channel), rule)
    identity = Identity(user, unchecked=config.insecure.clients)
    allowed = admits(audience, identity, channel, subscribed=subscribe.allowed)
    by = _sentence(config, identity, channel, rule, audience)
    if audience == "subscriber" and not identity.unchecked and not subscribe.allowed:
        by += f", and {identity.title} may not subscribe ({subscribe.by})"
    return Judgement(allowed, by)


def _sentence(config: Config, identity: Identity, channel: str, rule: str, audience: str) -> str:
    if identity.unchecked:
        return "insecure.clients = true: every client may do anything"
    line = config.setting_line(channel, rule, f'"{audience}"')
    return f"{line}: {reason_of(audience, identity, channel)}"


METHODS = {"permissions": read_method(permissions, PermissionsRequest)}
