"""The rules of channels: the settings of a namespace, those that are built in, and which channels are the gateway's own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "ALERTS",
    "BUILT_IN",
    "CONSOLE",
    "CONSOLE_NAMESPACE",
    "CONSOLE_RULES",
    "Audience",
    "ChannelRules",
    "Section",
    "inherited",
    "parse_duration",
]

ALERTS = "alerts"  # the channel to which gateways publish alerts
CONSOLE_NAMESPACE = "console"
CONSOLE = f"{CONSOLE_NAMESPACE}:live"  # the channel to which gateways publish figures for the console

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> Any:
    """``"5m"`` → 300 seconds. A bare number is seconds; ``""`` is 0, which settings read as "never"."""
    if not isinstance(value, str):
        return value
    if value == "":
        return 0
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", value.strip())
    if not match:
        raise ValueError(f'{value!r} is not a duration; write a number with a unit, as in "30s", "5m", "12h", "30d"')
    return int(match[1]) * _UNITS.get(match[2], 1)


Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0)]
Audience = Literal["anyone", "user", "owner", "token", "nobody"]


class Section(BaseModel):
    """A table of the TOML file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class ChannelRules(Section):
    """The rules of one namespace. ``history_ttl`` 0 is "never expires", ``history_size`` -1 "unlimited"."""

    history_size: int = Field(100, ge=-1)
    history_ttl: Duration = 300
    meta_ttl: Duration = 30 * 86400
    recover: bool = True
    presence: bool = True
    join_leave: Literal["off", "asked", "all"] = "off"
    subscribe: Audience = "user"
    publish: Literal["anyone", "user", "owner", "subscriber", "token", "nobody"] = "nobody"
    history: Literal["anyone", "user", "owner", "subscriber", "token", "nobody"] = "subscriber"
    presence_for: Literal["anyone", "user", "owner", "subscriber", "token", "nobody"] = "subscriber"
    personal: bool = False
    tags_filter: bool = False
    delta: bool = False
    index: bool = False

    @model_validator(mode="after")
    def _meta_outlives_history(self) -> ChannelRules:
        if 0 < self.meta_ttl < self.history_ttl:
            raise ValueError("meta_ttl is shorter than history_ttl: the counter must outlive what it counts")
        return self

    @property
    def announces(self) -> bool:
        """Whether joins and leaves are announced at all."""
        return self.join_leave != "off"

    @property
    def has_history(self) -> bool:
        """Whether publications are stored, so that they have positions."""
        return self.history_size != 0

    @property
    def recovers(self) -> bool:
        """Whether clients receive positions, from which they may recover."""
        return self.recover and self.has_history

    @property
    def allows_delta(self) -> bool:
        """Whether a subscription may ask for documents as changes of the document before."""
        return self.delta and self.recovers


BUILT_IN: dict[str, dict[str, Any]] = {
    "posts": {},
    "reviews": {},
    "orders": {},
    "review": {"history_size": -1, "history_ttl": ""},
    "hello": {"publish": "user"},
    "notifications": {"subscribe": "owner", "history_size": 1000, "history_ttl": "", "personal": True},
}


def inherited(namespace: str, common: dict[str, Any]) -> dict[str, Any]:
    """What a namespace takes from ``[channels]`` where neither it nor its built-in rules say otherwise. What that opens to other users, an
    inbox opens to its owner alone."""
    taken = {key: value for key, value in common.items() if key != "personal"}
    if namespace == "notifications":
        taken |= {key: "owner" for key in ("publish", "history", "presence_for") if taken.get(key) in ("anyone", "user")}
    return taken


# Of the console's channel: it holds the figures of the last minutes, so that charts begin with what was followed already.
CONSOLE_RULES = ChannelRules(
    history_size=300, history_ttl=300, presence=False, subscribe="nobody", publish="nobody", history="subscriber", presence_for="nobody"
)
