"""Who may do what in a channel. Every edge asks this one table.

| audience   | admits                                                                                   |
|------------|------------------------------------------------------------------------------------------|
| anyone     | every client, anonymous ones included                                                    |
| user       | a client that has a user id from a valid token                                           |
| owner      | the user whose id follows the namespace, or ``#``, in the channel's name                 |
| subscriber | a client that the subscribe rule admits; on a connection, one that is subscribed         |
| token      | a client with a valid subscription token for the channel                                 |
| nobody     | no client; the server API may always                                                     |

A channel with ``#`` belongs to the user named after it: for it, ``anyone`` and ``user`` mean ``owner``.
"""

from __future__ import annotations

from ..channel_rules import ChannelRules
from .identity import Identity, Override

__all__ = ["admits", "may_subscribe", "overridden", "owner_of", "reason_of"]


def overridden(rules: ChannelRules, override: Override | None) -> ChannelRules:
    """The rules for one subscription. Its ``join_leave`` decides only whether its own joins and leaves are announced."""
    if override is None:
        return rules
    join_leave = rules.join_leave
    if override.join_leave is not None and override.join_leave is (join_leave == "off"):
        join_leave = "asked" if override.join_leave else "off"
    presence = rules.presence if override.presence is None else override.presence
    recover = rules.recover if override.force_recovery is None else override.force_recovery
    return rules.model_copy(update={"join_leave": join_leave, "presence": presence, "recover": recover})


def owner_of(channel: str) -> str:
    """The user a channel belongs to: what follows ``#`` in its name, else what follows the namespace; "" for none."""
    _, mark, owner = channel.partition("#")
    if not mark:
        _, _, owner = channel.partition(":")
    return owner


def admits(audience: str, identity: Identity, channel: str, *, subscribed: bool = False, token: bool = False) -> bool:
    """Whether ``audience`` admits ``identity`` in ``channel``.

    ``subscribed``: the client is subscribed to the channel, or may be; ``token``: it has a valid subscription token for the channel.
    """
    if identity.unchecked:
        return True
    if audience == "nobody":
        return False
    if audience == "token":
        return token
    if audience == "subscriber":
        return subscribed
    owns = identity.user != "" and owner_of(channel) == identity.user
    if audience == "owner" or "#" in channel:
        return owns
    return audience == "anyone" or identity.user != ""


def may_subscribe(rules: ChannelRules, identity: Identity, channel: str, *, token: bool = False) -> bool:
    """Whether the subscribe rule admits ``identity``; a valid subscription token for the channel (``token``) opens every rule but ``nobody``.

    A page of the console may not: the console subscribes it (its method ``tail``), so that it is not seen in the channel.
    """
    return not identity.operator and (admits(rules.subscribe, identity, channel, token=token) or (token and rules.subscribe != "nobody"))


def reason_of(audience: str, identity: Identity, channel: str) -> str:
    """Whom ``audience`` admits in ``channel``, and who the client is if that decides: for people, as the end of a sentence."""
    if audience == "nobody":
        return "no client may; the server API may"
    if audience == "token":
        return "a client needs a subscription token for the channel"
    if audience == "subscriber":
        return "a client that is subscribed may"
    if audience == "owner" or "#" in channel:
        return f"the channel belongs to user {owner_of(channel)!r}, and the client is {identity.title}"
    if audience == "anyone":
        return "every client may"
    return f"every client with a user may, and the client is {identity.title}"
