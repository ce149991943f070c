"""The methods of the server API that are about clients, wherever they are connected."""

from __future__ import annotations

import time

import msgspec

from ...control.messages import Disconnection, Refreshing, Revocation, Subscribing, Unsubscribing
from ...errors import BadRequest
from ...session.node import Node
from .publishing import given_json
from .requests import DisconnectRequest, Reason, RefreshRequest, RevokeRequest, SubscribeRequest, UnsubscribeRequest, Whom

__all__ = ["disconnect", "refresh", "revoke", "subscribe", "unsubscribe"]

REVOKED_SECONDS = 30 * 86400  # where the request does not say when the token would have expired


def _whom(request: Whom) -> dict[str, str]:
    return {"user": request.user, "client": request.client, "session": request.session}


async def subscribe(node: Node, request: SubscribeRequest) -> bytes:
    """Subscribes clients to a channel, whatever its rules say; the clients are notified."""
    node.rules(request.channel)
    info, data = given_json(request.info, request.b64info), given_json(request.data, request.b64data)
    since = request.recover_since.position if request.recover_since is not None else None
    message = Subscribing(
        **_whom(request),
        channel=request.channel,
        info=msgspec.Raw(info or b"null"),
        data=msgspec.Raw(data or b"null"),
        epoch=since.epoch if since is not None else None,
        offset=since.offset if since is not None else 0,
        expire_at=request.expire_at,
        override=request.override.override if request.override is not None else None,
    )
    await node.control.send(message)
    return b"{}"


async def unsubscribe(node: Node, request: UnsubscribeRequest) -> bytes:
    """Unsubscribes clients from a channel; the clients are notified."""
    node.rules(request.channel)
    await node.control.send(Unsubscribing(**_whom(request), channel=request.channel))
    return b"{}"


async def disconnect(node: Node, request: DisconnectRequest) -> bytes:
    """Closes clients' connections with a code: SDKs connect again after codes below 3500, and after 4000 to 4499."""
    how = request.disconnect or Reason()
    code = how.code or 3503  # cent sends 0 where a reason alone is given
    if code < 3000:
        raise BadRequest(f"{code} is no close code for a disconnect: these are 3000 to 4999")
    await node.control.send(Disconnection(**_whom(request), whitelist=request.whitelist, code=code, reason=how.reason))
    return b"{}"


async def refresh(node: Node, request: RefreshRequest) -> bytes:
    """Moves the expiry of connections, or ends them as expired."""
    info = msgspec.Raw(given_json(request.info) or b"null")
    await node.control.send(Refreshing(**_whom(request), expired=request.expired, expire_at=request.expire_at, info=info))
    return b"{}"


async def revoke(node: Node, request: RevokeRequest) -> bytes:
    """Revokes the tokens of ``user`` that were issued before now (or ``issued_before``), or the one token ``token_id``, until ``expire_at``, or for 30 days."""
    now = time.time()
    before, until = request.issued_before or now, request.expire_at or now + REVOKED_SECONDS
    revocation = Revocation(user=request.user, token_id=request.token_id, before=before, until=until)
    node.control.carry_out(revocation)  # here it holds whatever Valkey answers
    await node.revocations.persist(request.user, request.token_id, before, until)
    await node.control.send(revocation)
    return b"{}"
