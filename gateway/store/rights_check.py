"""Which rights a user of Valkey lacks: each is tried as that user, in a way that changes nothing.

``ACL DRYRUN`` would answer it, but is a right that such a user does not have. So the function ``gateway_may`` tries what functions may run:
it may not write, and Valkey looks at the rights before it refuses the write. Other commands are sent as they are, naming a key, a channel
or a function that does not exist. Each command is tried with each pattern, since the order in which Valkey looks is command, key, channel.
What is refused appears in Valkey's ``ACL LOG`` too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from valkey.exceptions import NoPermissionError, ResponseError, ValkeyError

from ..errors import Unavailable
from .connect import Address
from .not_permitted import lacking
from .rights import Rights

__all__ = ["Lack", "find_lack", "log_lack"]

log = logging.getLogger("gateway.rights")

# A command with all the words that it needs, by its name. K is a key, C a channel; those that would block have no valid end.
_BY_FUNCTION = """
del K|exists K|expire K 1|get K|hdel K f|hexists K f|hget K f|hgetall K|hincrby K f 1|hkeys K|hlen K|hmget K f|hrandfield K|hscan K 0|hset K f v
hsetnx K f v|hvals K|info server|lindex K 0|llen K|lmove K K LEFT RIGHT|lpos K x|lpush K x|lrange K 0 0|lrem K 0 x|ltrim K 0 0|memory usage K|persist K
pexpire K 1|ping|pttl K|publish C x|rpop K|rpush K x|sadd K x|scard K|set K x NX XX|sismember K x|smembers K|spublish C x|srem K x|sscan K 0|time|ttl K
type K|xack K g 0-1|xadd K * f v|xautoclaim K g c 0 0|xclaim K g c 0 0-1|xgroup create K g $|xgroup destroy K g|xinfo groups K|xinfo stream K
xlen K|xpending K g|xrange K - + COUNT 1|xrevrange K + - COUNT 1|xtrim K MAXLEN 0|zadd K 0 x|zcard K|zcount K 0 0|zincrby K 1 x|zmscore K x|zrange K 0 0
zrangebylex K - +|zrangebyscore K 0 0|zrem K x|zremrangebyrank K 0 0|zremrangebyscore K 0 0|zrevrange K 0 0|zrevrangebylex K + -
zrevrangebyscore K 0 0|zscore K x
"""
_DIRECTLY = """
client setname gateway|function list LIBRARYNAME gateway_none|function load none|function delete gateway_none|asking|cluster info
cluster slots|blmove K K LEFT RIGHT none|brpop K none|xread COUNT 1 STREAMS K none
"""
_SUBSCRIBING = "psubscribe C|subscribe C|unsubscribe none|ssubscribe C|sunsubscribe none"  # the last, since then little else may be sent
_FAMILIES = ("client", "cluster", "function", "memory", "xgroup", "xinfo")  # whose second word is part of the right
_READING = {"get", "sscan"}  # what the patterns for reading alone are for

_NAME = "rights-check"


class Lack(NamedTuple):
    """What a user lacks: ``words`` of ``ACL SETUSER``. ``complete`` is False where the functions are missing, by which most rights are tried."""

    words: list[str]
    complete: bool = True


def _samples(text: str) -> dict[str, list[str]]:
    found = {}
    for sample in text.replace("\n", "|").strip("|").split("|"):
        words = sample.split()
        found["|".join(words[:2]) if words[0] in _FAMILIES else words[0]] = words
    return found


_FUNCTION_SAMPLES, _DIRECT_SAMPLES, _LAST_SAMPLES = _samples(_BY_FUNCTION), _samples(_DIRECTLY), _samples(_SUBSCRIBING)


class _Trial:
    """One command to be tried: ``command`` as ACL rules name it, ``pattern`` the word of ``ACL SETUSER`` for its keys or channels."""

    def __init__(self, command: str, words: Sequence[str], pattern: str) -> None:
        self.command = command
        self.words = words
        self.pattern = pattern

    def lacks(self, answer: str) -> list[str]:
        """The word of ``ACL SETUSER`` that would have let it pass, by Valkey's error reply; none if the user's rights let it pass."""
        kind = lacking(answer)
        return [f"+{self.command}" if kind == "command" else self.pattern] if kind else []


def _trials(samples: dict[str, list[str]], rights: Rights) -> list[_Trial]:
    return [
        trial for command, words in samples.items() if command in rights.commands for trial in _with_each_pattern(command, words, rights)
    ]


def _with_each_pattern(command: str, words: list[str], rights: Rights) -> Iterator[_Trial]:
    if "K" in words:
        for key in rights.keys:
            if not key.startswith("%") or command in _READING:
                yield _Trial(command, _filled(words, "K", key.removeprefix("%R~")), key if key.startswith("%") else f"~{key}")
    elif "C" in words:
        for channel in rights.channels:
            name = channel if command == "psubscribe" else None
            yield _Trial(command, _filled(words, "C", channel, name), f"&{channel}")
    else:
        yield _Trial(command, words, "")


def _filled(words: list[str], placeholder: str, pattern: str, name: str | None = None) -> list[str]:
    name = name or example_of(pattern)
    return [name if word == placeholder else word for word in words]


def example_of(pattern: str) -> str:
    """A name that matches the pattern, and that nothing has."""
    name, letters = "", iter(pattern)
    for letter in letters:
        name += next(letters, "") if letter == "\\" else _NAME if letter == "*" else letter
    return name


async def find_lack(address: Address, rights: Rights) -> Lack:
    """Those of ``rights`` that the user of ``address`` lacks. Raises Unavailable."""
    connection = cast(Any, address.connection())
    connection.client_name = None  # to have a name is among the rights that are tried
    try:
        await connection.connect()
        return await _try_all(_Asked(connection), rights)
    except NoPermissionError:  # nothing but the choice of a database is refused so early
        return Lack(["+select"], False)
    except (ValkeyError, OSError, TimeoutError) as error:
        raise Unavailable(f"the rights of the user at {address} could not be tried: {error}") from None
    finally:
        await connection.disconnect(nowait=True)


class _Asked:
    """A connection of valkey-py, of which commands are asked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def ask(self, *words: str) -> Any:
        """The reply; an error reply as the text that Valkey sent."""
        await self._connection.send_command(*words)
        try:
            return await self._connection.read_response()
        except NoPermissionError as error:
            return f"NOPERM {error}"
        except ResponseError as error:
            return str(error)

    async def try_each(self, trials: Iterable[_Trial]) -> list[str]:
        found = []
        for trial in trials:
            answer = await self.ask(*trial.words)
            found += trial.lacks(answer if isinstance(answer, str) else "")
        return found


async def _try_all(asked: _Asked, rights: Rights) -> Lack:
    found = await asked.try_each(_trials(_DIRECT_SAMPLES, rights))
    trials = _trials(_FUNCTION_SAMPLES, rights)
    # Without functions, as for a service, few commands are left: their samples change nothing even where they are carried out.
    more = await (_try_by_function(asked, trials) if "fcall" in rights.commands else asked.try_each(trials))
    found += more or []
    found += await asked.try_each(_trials(_LAST_SAMPLES, rights))
    return Lack(list(dict.fromkeys(found)), more is not None)


async def _try_by_function(asked: _Asked, trials: list[_Trial]) -> list[str] | None:
    """The words that the user lacks; None where Valkey lacks the function that tries them."""
    answers = await asked.ask("FCALL", "gateway_may", "0", *(msgspec.json.encode(trial.words).decode() for trial in trials))
    if isinstance(answers, str):
        return ["+fcall"] if lacking(answers) else None
    return [word for trial, answer in zip(trials, answers, strict=True) for word in trial.lacks(answer.decode())]


async def log_lack(addresses: Sequence[Address], rights: Rights) -> None:
    """Logs what the user lacks, at the start of a program that could else work for long before it is refused something.

    ``addresses`` are of the one server there is, or of shards of a cluster, each of which has users of its own.
    """
    lacks = await asyncio.gather(*[find_lack(address, rights) for address in addresses], return_exceptions=True)
    words: dict[str, None] = {}
    for lack in lacks:
        if isinstance(lack, Lack):
            words |= dict.fromkeys(lack.words)
        elif isinstance(lack, Unavailable):
            log.debug("%s", lack)
        else:
            raise lack
    if words:
        log.error('the user %r of Valkey lacks rights: %s; "gateway check" says how to give them', addresses[0].user, " ".join(words))
