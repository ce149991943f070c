"""The least rights of each kind of program as a user of Valkey's access control lists (ACL).

``ROLES`` is the only list of them. ``store.rights_check`` tests a user against it, ``gateway rights`` prints it as ``ACL SETUSER`` lines,
the documentation shows these lines, and tests compare it with what the functions in ``lua/`` call.

Valkey checks the rights of the user that calls a function for each command that the function runs. A key pattern without a mode is for
reading and writing; the patterns that functions are called with need both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..bridging import BridgeRules

__all__ = ["CLUSTER", "LOADING", "ROLES", "Rights", "acl_line", "acl_words", "rights_of"]


@dataclass(frozen=True)
class Rights:
    """``commands`` as ACL rules name them, without the plus. ``keys`` and ``channels`` are patterns; in ``ROLES`` they begin after the prefix."""

    commands: frozenset[str]
    keys: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def __or__(self, other: Rights) -> Rights:
        keys, channels = dict.fromkeys((*self.keys, *other.keys)), dict.fromkeys((*self.channels, *other.channels))
        return Rights(self.commands | other.commands, tuple(keys), tuple(channels))

    def words(self) -> list[str]:
        """The words of ``ACL SETUSER`` that give them: patterns of keys, patterns of channels, commands."""
        keys = [key if key.startswith("%") else f"~{key}" for key in self.keys]
        return [*keys, *(f"&{channel}" for channel in self.channels), *(f"+{command}" for command in sorted(self.commands))]


def _rights(commands: str, keys: str = "", channels: str = "") -> Rights:
    return Rights(frozenset(commands.split()), tuple(keys.split()), tuple(channels.split()))


# Which commands functions of the library run: a test compares them with lua/.
FUNCTIONS = {
    "generation rules has_index": "",
    "heartbeat": "publish",
    "publish index": "del expire hdel hkeys hlen hmget hset persist publish sadd scard sismember time xadd xrange zadd zremrangebyrank zscore",
    "publish_all": "del expire hdel hkeys hlen hmget hset persist publish time xadd xrange xtrim zadd zremrangebyrank zscore",
    "publish_each": "del expire hdel hkeys hlen hmget hset persist publish time xadd xrange zadd zremrangebyrank zscore",
    "notify relay bridge_publish": "del expire hdel hget hincrby hkeys hlen hmget hset persist publish time xadd xrange zadd zcard"
    " zremrangebyrank zremrangebyscore zscore",
    "restore": "del expire hdel hkeys hlen hset persist publish time xadd xtrim",
    "history page remove": "del exists expire hdel hmget hset persist pttl publish time ttl xrange xrevrange xtrim",
    "inbox read": "del expire hdel hget hincrby hmget hset publish time xrange zcard zrem zremrangebyscore zrevrangebyscore zscore",
    "control beat presence present": "del exists hdel hget hlen hscan hset hvals publish time xadd xrevrange zadd zcard zincrby zrangebyscore"
    " zrem",
    "call": "exists llen lpush pexpire time",
    "enqueue": "hdel hexists hget hincrby hlen hmget hrandfield hset lpos lpush publish rpush time zadd zcard zrange zrangebylex zrem"
    " zrevrangebylex zscore",
    "queue": "hget hlen hmget lindex llen time zcard zcount zrange",
    "job jobs cancel purge resend": "hdel hexists hget hincrby hset llen lpos lpush lrange lrem publish rpush time zadd zcard"
    " zrange zrangebylex zrem zrevrange zrevrangebylex zscore",
    "take finish fail give_back park held renew reclaim": "del exists hdel hget hincrby hmget hset llen lpos lpush lrange lrem publish rpop"
    " rpush time zadd zcard zmscore zrange zrangebylex zrangebyscore zrem zrevrangebylex zscore",
    "reader_lag": "hmget xinfo|groups xpending xrange",
    "reader_take reader_release reader_read reader_again reader_settle reader_rewind reader_beat": "del exists hdel hget hmget"
    " hset publish time type xack xadd xautoclaim xclaim xgroup|create xgroup|destroy xinfo|groups xpending xrange zadd zrem"
    " zremrangebyscore zrevrange",
    "bridge_list": "del hmget hset lindex llen lmove time",
    "bridge_stream": "del exists hmget hset time xinfo|stream xrange",
    "bridge_finish": "hmget hset llen lpush ltrim",
    "bridge_fail": "llen lpush ltrim",
    "lease": "del get pttl set",
}


def _calling(*functions: str) -> Rights:
    """The right to call these functions, and what they run."""
    return _rights(" ".join(("fcall", *(FUNCTIONS[names] for names in functions))))


_CONNECTION = _rights("client|setname info ping")
_LINK = _calling("heartbeat") | _rights("subscribe unsubscribe", "node:*", "node:*")
LOADING = _rights("function|delete function|list function|load")
"""To load the function library. A gateway works without where ``gateway install`` loaded it, and cannot replace it where Valkey lost it."""

_PUBLISHING = (
    _CONNECTION
    | _calling("generation rules has_index", "publish index", "notify relay bridge_publish")
    | _rights("get", "{* index:{* %R~rules", "{* index:{*")
)
_PRODUCING = (
    _CONNECTION
    | _LINK
    | _calling("generation rules has_index", "enqueue", "queue", "job jobs cancel purge resend")
    | _rights("get sadd smembers", "queue:{* queues %R~rules", "queue:{*")
)
_GATEWAY = (
    _PUBLISHING
    | _LINK
    | LOADING
    | _calling(
        "publish_all", "publish_each", "history page remove", "inbox read", "control beat presence present", "call", "enqueue", "queue"
    )
    | _rights("hgetall hsetnx set smembers srem zremrangebyrank")
)

ROLES: dict[str, Rights] = {
    "gateway": Rights(_GATEWAY.commands, ("*",), ("*",)),  # all that begins with the prefix is a gateway's own
    "publisher": _PUBLISHING | _calling("restore", "history page remove"),
    "relay": _PUBLISHING | _PRODUCING | _rights("expire hset", "outbox"),  # and reports its backlog
    "producer": _PRODUCING,
    "worker": _PUBLISHING
    | _LINK
    | _calling("take finish fail give_back park held renew reclaim", "enqueue")
    | _rights("hsetnx sadd", "queue:{* queues", "queue:{*"),
    "reader": _CONNECTION
    | _LINK
    | _calling(
        "generation rules has_index",
        "reader_lag",
        "reader_take reader_release reader_read reader_again reader_settle reader_rewind reader_beat",
    )
    | _rights("expire get hset sscan xrevrange", "{* readers readers:{* %R~index:{* %R~rules", "{* readers:{* index:{*"),
    "service": _CONNECTION | _rights("brpop publish set time", "rpc:{* rpc:services", "node:*"),
}
"""``publisher``: ``Publisher``, ``SyncPublisher``, ``gateway publish``. ``relay``: ``gateway relay``, whose outbox may hold jobs too.
``producer``: ``Queue``, ``SyncQueue``, ``gateway queue``. ``worker``: ``gateway worker``; its jobs may report progress, and be periodic.
``reader``: ``Reader``. ``service``: ``rpc.Service``."""

CLUSTER = _rights("asking cluster|info cluster|slots spublish ssubscribe sunsubscribe")
"""What each role needs besides where Valkey is a cluster, on each of its nodes. A replica is never read, so READONLY is not among it."""

_CONSOLE = _calling("job jobs cancel purge resend", "reader_lag") | _rights(
    "hgetall hmget memory|usage sscan xinfo|groups xinfo|stream xlen xpending xrange xrevrange zcard zrangebyscore zscore"
)

_BRIDGING = {
    "pubsub": _calling("bridge_fail", "lease"),
    "pattern": _calling("bridge_fail", "lease") | _rights("psubscribe"),
    "list": _calling("bridge_list", "bridge_finish", "lease") | _rights("blmove type"),
    "stream": _calling("bridge_stream", "bridge_finish", "lease") | _rights("xread type"),
}


def rights_of(role: str, prefix: str, bridges: Iterable[BridgeRules] = (), *, cluster: bool = False, console: bool = False) -> Rights:
    """What ``role`` needs under ``prefix``; a gateway also needs what its ``bridges`` read and take from, and what its ``console`` shows."""
    rights = _below(ROLES[role] | _CONSOLE if console else ROLES[role], _escaped(prefix))
    for bridge in bridges:
        rights |= _bridging(bridge)
    return rights | CLUSTER if cluster else rights


def _below(rights: Rights, prefix: str) -> Rights:
    keys = (f"{key[:3]}{prefix}:{key[3:]}" if key.startswith("%") else f"{prefix}:{key}" for key in rights.keys)
    return replace(rights, keys=tuple(keys), channels=tuple(f"{prefix}:{channel}" for channel in rights.channels))


def _bridging(bridge: BridgeRules) -> Rights:
    """What a bridge needs beyond the prefix. Functions are called with the key of a List or Stream, so that even a Stream, which is only read, needs both modes."""
    rights, source = _BRIDGING[bridge.kind], _escaped(bridge.source)
    failed = (_escaped(bridge.failed),) if bridge.failed else ()
    if bridge.kind in ("list", "stream"):
        return replace(rights, keys=(source, *failed))
    # Valkey compares the pattern of PSUBSCRIBE with the user's patterns as a text.
    return replace(rights, keys=failed, channels=(bridge.source if bridge.kind == "pattern" else source,))


def _escaped(name: str) -> str:
    """A name as a pattern that matches it alone. Valkey takes no pattern with white space or NUL: one letter of any kind has to match it."""
    letters = ("?" if letter in " \t\n\v\f\r\0" else f"\\{letter}" if letter in "*?[]\\" else letter for letter in name)
    return "".join(letters)


def acl_line(role: str, rights: Rights) -> str:
    """The command for ``valkey-cli`` that makes a user with exactly these rights, named after its role."""
    user = "gateway" if role == "gateway" else f"gateway-{role}"
    return " ".join(_quoted(word) for word in acl_words(user, rights, "PASSWORD"))


def acl_words(user: str, rights: Rights, secret: str) -> Sequence[str]:
    """The same as words, for any name and password."""
    return ["ACL", "SETUSER", user, "reset", "on", f">{secret}", *rights.words()]


def _quoted(word: str) -> str:
    """As ``valkey-cli`` reads it: a name never ends the line, and has no other letters than it has here."""
    if word.isprintable() and not any(letter in word for letter in " \"'\\"):
        return word
    return '"' + "".join(_in_quotes(letter) for letter in word) + '"'


def _in_quotes(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else "".join(f"\\x{byte:02x}" for byte in letter.encode())
