"""The settings of bridges: which foreign Pub/Sub channel, pattern, List or Stream is published to which channel.

    [[bridges]]
    list = "events"                       # exactly one of pubsub, pattern, list, stream
    channel = "orders:{order.id}"         # {order.id} is a field of the message, which is then a JSON object
    key = "{id}"                          # the idempotency key, if messages have one

Braces mark what a template takes from each message: no channel's name can hold them itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from .publication import channel_fault

__all__ = ["STAR", "BridgeRules", "Template", "bridges_fault", "slot_tag"]

KINDS = ("pubsub", "pattern", "list", "stream")
STAR = "*"  # in a template: what the star of the pattern matched
SPECIAL = re.compile(r"[*?\[\]\\]")  # of Valkey's patterns
BESIDE = (":taken", ":failed", ":lease")  # how the other keys of a bridge end
KEYSPACE = "__key"  # Pub/Sub channels on which Valkey announces changes of keys, which a bridge makes itself


class Template:
    """A text with fields of a message in braces: ``texts[0] {paths[0]} texts[1] …``. Raises ValueError for a brace that is none of a pair."""

    def __init__(self, text: str) -> None:
        parts = re.split(r"\{([^{}]+)\}", text)
        self.texts, self.paths = parts[::2], parts[1::2]
        if any(brace in each for each in self.texts for brace in "{}"):
            raise ValueError(f'{text!r} has a brace without its partner; a field of the message is written as in "reviews:{{product.id}}"')

    def filled(self, values: Sequence[str]) -> str:
        """The text with ``values`` for its paths."""
        return "".join(text + value for text, value in zip(self.texts, [*values, ""], strict=True))

    @property
    def namespace(self) -> str | None:
        """The namespace of all channels that it makes; None if a message chooses it."""
        if not self.paths:
            return self.texts[0].partition(":")[0] if ":" in self.texts[0] else ""
        namespace, colon, _ = self.texts[0].partition(":")
        return namespace if colon else None


def slot_tag(key: str) -> str:
    """The part of a key that decides its hash slot; "" if no other key can be made that is in the same slot. Source: Valkey's cluster specification."""
    opened = key.find("{")
    closed = key.find("}", opened + 1) if opened >= 0 else -1
    if closed > opened + 1:
        return key[opened + 1 : closed]
    return "" if "}" in key else key


def _template(text: str) -> str:
    Template(text)
    return text


def _channel(text: str) -> str:
    template = Template(text)
    if fault := channel_fault(template.filled(["x"] * len(template.paths))):
        raise ValueError(fault)
    return text


def _shared_slot(key: str) -> str:
    if key and not slot_tag(key):
        raise ValueError(f"{key!r} holds a brace that marks no hash slot, so that the bridge can have no keys beside it")
    return key


Key = Annotated[str, Field(max_length=512), AfterValidator(_shared_slot)]


class BridgeRules(BaseModel):
    """One bridge, from one of ``pubsub``, ``pattern``, ``list`` and ``stream`` to ``channel``. "" is "not set".

    ``name`` distinguishes bridges, and is part of the names of their keys: by default it is the source. ``key`` makes the idempotency key.
    ``take`` is the end of a List whose entry is the oldest. ``field`` is the field of a Stream's entry that holds the message; by default
    it is all of them as a JSON object, or the field ``data`` if there is no other. ``start`` is where a Stream is read from at first.
    ``json_only``: what is not JSON is not published as a text. ``failed`` is the List of what could not be published.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("", max_length=128, pattern=r"^[^\x00-\x1f\x7f{}]*$")
    pubsub: str = Field("", max_length=512)
    pattern: str = Field("", max_length=512)
    list: Key = ""
    stream: Key = ""
    channel: Annotated[str, AfterValidator(_channel)]
    key: Annotated[str, AfterValidator(_template)] = ""
    take: Literal["right", "left"] = "right"
    field: str = ""
    start: Literal["beginning", "new"] = "beginning"
    json_only: bool = False
    failed: str = Field("", max_length=512)

    @model_validator(mode="after")
    def _fits(self) -> BridgeRules:
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)} names what is bridged; here it is {' and '.join(given) or 'none'}")
        for setting, kind in (("take", "list"), ("field", "stream"), ("start", "stream")):
            if setting in self.model_fields_set and kind != self.kind:
                raise ValueError(f"{setting} is for bridges from a {kind}; this one is from {self.kind} {self.source!r}")
        if STAR in self.paths and (self.kind != "pattern" or SPECIAL.findall(self.source) != ["*"]):
            raise ValueError("{*} is what the star of a pattern matched, for a pattern with one star and no other special character")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind))

    @property
    def source(self) -> str:
        """The name of the foreign channel, pattern, List or Stream."""
        return str(getattr(self, self.kind))

    @property
    def title(self) -> str:
        """``name``, or the source where none is set."""
        return self.name or self.source

    @property
    def paths(self) -> Sequence[str]:
        """All that the templates take from a message."""
        return [*Template(self.channel).paths, *Template(self.key).paths]


def bridges_fault(bridges: Sequence[BridgeRules], prefix: str, namespaces: Collection[str]) -> str:
    """What is wrong with the bridges of a configuration together, after the key that is wrong; "" if nothing is."""
    titles, lists = set(), {bridge.list for bridge in bridges if bridge.list}
    states = [f"{slot_tag(bridge.source)} {bridge.title}" for bridge in bridges]  # as their keys in Valkey begin
    if len(lists) < sum(bool(bridge.list) for bridge in bridges):
        return "bridges: two of them take from the same list, so each entry would come to either of them; use one"
    for number, bridge in enumerate(bridges):
        place, namespace = f"bridges.{number}", Template(bridge.channel).namespace
        if bridge.title in titles:
            return f"{place}.name: another bridge is called {bridge.title!r}; give each a name of its own"
        titles.add(bridge.title)
        if end := next((end for end in BESIDE if states[number] + end in states), None):
            return (
                f"{place}.name: the key of another bridge would be {bridge.title + end!r}, which is also one of this bridge; give it a name"
            )
        if namespace and namespace not in namespaces:
            return f"{place}.channel: there is no namespace {namespace!r}; add [namespaces.{namespace}]"
        if fault := _loop(bridge, prefix, lists):
            return f"{place}.{fault}"
    return ""


def _loop(bridge: BridgeRules, prefix: str, lists: Collection[str]) -> str:
    """Why what the bridge writes would come back to a bridge, or what the gateway itself writes; "" if it would not."""
    start = SPECIAL.split(bridge.source)[0] if bridge.kind == "pattern" else bridge.source
    if start.startswith(f"{prefix}:"):
        return f"{bridge.kind}: {bridge.source!r} is written by the gateway itself, whose names begin with {prefix}:, so the bridge would be a loop"
    if bridge.kind in ("pubsub", "pattern") and start.startswith(KEYSPACE):
        return f"{bridge.kind}: {bridge.source!r} announces changes of keys, which the bridge makes itself: it would be a loop"
    if bridge.failed and (bridge.failed in lists or bridge.failed == bridge.source):
        return f"failed: {bridge.failed!r} is the source of a bridge: what fails there would come back"
    return ""
