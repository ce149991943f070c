"""Which node of a cluster holds which hash slots, as the nodes themselves say.

valkey-py computes slots and opens the connections. Its own table of slots is not used: it believes the first node that answers, and a
node that was cut off from the others answers what was true before.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from valkey.crc import key_slot
from valkey.exceptions import AuthenticationError, NoPermissionError, ResponseError, ValkeyError

from ..errors import ConfigurationError, StoreError, Unavailable
from .connect import Address

__all__ = ["SLOTS", "NodeAddress", "View", "ask_anew", "key_of", "newest", "redirected_to", "slot_of", "view_of"]

SLOTS = 16384
ASKED_MOST = 5  # nodes of one look
ASK_SECONDS = 1.0
NODES_MOST = 1000  # primaries, to each of which there is a connection; Valkey advises against more
KEYLESS = frozenset("TIME INFO FUNCTION PING CONFIG ACL CLUSTER CLIENT COMMAND".split())
FAMILIES = frozenset(("XINFO", "MEMORY"))  # whose second word is part of the command

NodeAddress = tuple[str, int]  # host and port
_HOST = re.compile(r"[0-9A-Za-z_.:-]{1,255}").fullmatch


class View(NamedTuple):
    """What one node knows: (first slot, last slot, primary) each, all other nodes, whether it finds the cluster whole, and as of which epoch."""

    ranges: Sequence[tuple[int, int, NodeAddress]]
    replicas: Sequence[NodeAddress]
    whole: bool
    epoch: int


def key_of(words: Sequence[Any]) -> bytes | None:
    """The first key of a command; None where it has none."""
    verb = words[0].decode() if isinstance(words[0], bytes) else words[0]
    if verb in KEYLESS or len(words) == 1:
        return None
    if verb != "FCALL":
        key = words[2 if verb in FAMILIES else 1]
    elif int(words[2]):
        key = words[3]
    else:
        return None
    return key if isinstance(key, bytes) else str(key).encode()


def slot_of(key: bytes) -> int:
    """The hash slot of a key, or of a channel of sharded Pub/Sub."""
    return key_slot(key)


def redirected_to(refusal: str, asked: NodeAddress) -> NodeAddress | None:
    """Where a redirection, ``MOVED slot host:port``, leads to; None if it names none."""
    host, _, port = refusal.split(" ")[-1].rpartition(":")
    try:
        return _node_address(host, port, asked)
    except ValueError:
        return None


async def ask(call: Callable[..., Awaitable[Any]], asked: NodeAddress) -> View:
    """What the node knows that ``call`` sends to. Raises StoreError, Unavailable, TimeoutError."""
    async with asyncio.timeout(ASK_SECONDS):
        return view_of(await call(b"CLUSTER", b"INFO"), await call(b"CLUSTER", b"SLOTS"), asked)


def view_of(info: bytes, slots: Sequence[Any], asked: NodeAddress) -> View:
    """What the node ``asked`` answered to CLUSTER INFO and to CLUSTER SLOTS. Raises Unavailable for what is no table of slots."""
    try:
        return _view_of(info, slots, asked)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unavailable(f"Valkey at {asked[0]}:{asked[1]} does not say in a known form which nodes hold which slots: {error!r}") from None


def _view_of(info: bytes, slots: Sequence[Any], asked: NodeAddress) -> View:
    facts = dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
    ranges: list[tuple[int, int, NodeAddress]] = []
    replicas: set[NodeAddress] = set()
    for first, last, primary, *others in slots:
        if not 0 <= first <= last < SLOTS:
            raise ValueError(f"no slots {first} to {last}")
        ranges.append((first, last, _node(primary, asked)))
        replicas.update(_node(other, asked) for other in others)
    if len({primary for _, _, primary in ranges}) > NODES_MOST:
        raise ValueError(f"more than {NODES_MOST} primaries")
    return View(ranges, sorted(replicas), facts.get("cluster_state") == "ok", int(facts.get("cluster_current_epoch", 0)))


def _node_address(host: str, port: str | int, asked: NodeAddress) -> NodeAddress:
    """A missing host is that of the node that was asked; "?" is one whose host name is not known yet. Raises ValueError.

    The host becomes a part of an address with the login, so it must be nothing that could be read as more than a host.
    """
    is_named = host not in ("", "?")
    if (is_named and not _HOST(host)) or not 0 <= int(port) < 65536:
        raise ValueError("no host and port")
    return host if is_named else asked[0], int(port)


def _node(node: Sequence[Any], asked: NodeAddress) -> NodeAddress:
    host = node[0].decode() if node[0] else ""
    if host == "?":  # hostnames are preferred, and it has none
        more = node[3] if len(node) > 3 else []
        host = dict(zip(more[::2], more[1::2], strict=True)).get(b"ip", b"").decode()
    return _node_address(host, node[1], asked)


async def ask_anew(address: Address) -> View:
    """``ask`` over a connection that is opened for it. Raises StoreError, Unavailable, TimeoutError."""
    connection = address.connection()

    async def call(*words: bytes) -> Any:
        await connection.send_command(*[word.decode() for word in words])
        return await connection.read_response()

    try:
        async with asyncio.timeout(ASK_SECONDS):
            await connection.connect()
        return await ask(call, address.host_and_port)
    except AuthenticationError as error:
        raise StoreError(f"Valkey at {address} refuses the login: {error}") from None
    except NoPermissionError as error:
        raise StoreError(f"Valkey at {address} does not say which nodes hold which slots: {error}") from None
    except ResponseError as error:
        if "cluster support" in str(error):
            raise ConfigurationError(f"Valkey at {address} is no node of a cluster; write valkey:// in its address") from None
        raise Unavailable(f"Valkey at {address}: {error}") from None
    except (ValkeyError, OSError) as error:
        raise Unavailable(f"no Valkey at {address}: {str(error) or type(error).__name__}") from None
    finally:
        await connection.disconnect(nowait=True)


async def newest(asking: Iterable[Callable[[], Awaitable[View]]]) -> View:
    """The newest view among the answers, of at most ASKED_MOST nodes. Raises Unavailable if none answers, with the reason of one."""
    some = list(asking)
    random.shuffle(some)
    answers = await asyncio.gather(*[each() for each in some[:ASKED_MOST]], return_exceptions=True)
    views = [answer for answer in answers if isinstance(answer, View) and answer.ranges]
    if views:
        return max(views, key=lambda view: (view.whole, view.epoch))
    errors = [answer for answer in answers if isinstance(answer, BaseException) and not isinstance(answer, TimeoutError)]
    for error in sorted(errors, key=lambda each: isinstance(each, Unavailable)):  # a refusal first: it does not pass by itself
        raise error
    raise Unavailable("no node of the cluster answers, or none knows of a slot that is held")
