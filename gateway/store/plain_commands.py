"""Commands of programs without asyncio, for one server: each call waits for its reply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

import valkey
from valkey.exceptions import BusyLoadingError, NoPermissionError, ReadOnlyError, ValkeyError

from ..errors import StoreError, Unavailable
from .connect import CONNECT_SECONDS
from .not_permitted import lacking, name_of, not_permitted
from .refused_commands import REDIRECTS, REFUSED_FOR_NOW
from .tls_options import explained
from .wrong_kind import with_remedy

__all__ = ["Call", "Load", "Loading", "PlainCommands", "Redirected", "SyncCommands"]

Call = Callable[..., Any]
Load = Callable[[Call, Call | None], None]  # loads the functions with a server's call and, in a cluster, one that reaches every key


class Loading(Unavailable):
    """Valkey is still reading its file; it answers when it has read it."""


class Redirected(StoreError):
    """A node of a cluster carried nothing out: its text begins with MOVED or ASK where another node is to be asked, else the slot is nowhere now."""


class PlainCommands(Protocol):
    """What one server and a cluster have in common for programs without asyncio. Threads may share it."""

    @property
    def sharded(self) -> bool:
        """Whether it is a cluster."""

    def call(self, *words: Any) -> Any:
        """One command; its reply as Valkey sends it, texts as bytes.

        Raises StoreError for Valkey's error reply, Unavailable if it cannot be reached, breaks off, or carries nothing out for the moment, Loading
        if it reads its file.
        """

    def listening(self, channel: bytes) -> AbstractContextManager[Callable[[float], bytes | None]]:
        """Subscribes to a Pub/Sub channel, over a connection of its own. Gives a function that waits up to so many seconds for a message
        and returns it; None where none came, or the connection was lost and is back: what was published meanwhile was missed.

        Raises Unavailable, StoreError.
        """

    def close(self) -> None:
        """Closes the connections; a command that is called afterwards opens a new one."""


class SyncCommands:
    """``PlainCommands`` describes it. It never repeats a command by itself: what was sent may have happened, whatever came back.

    ``client`` is valkey-py's own, of ``Address.sync_client`` for instance, and belongs to this object: ``close`` closes it.
    ``load`` loads the functions where a call finds that Valkey lacks them; ``shared`` is, in a cluster, the call that reaches every key.
    """

    sharded = False

    def __init__(self, client: valkey.Valkey, load: Load | None = None, shared: Call | None = None) -> None:
        self._client: Any = client
        self._load = load
        self._shared = shared
        pool = client.connection_pool
        self._user: str = pool.connection_kwargs.get("username") or "default"
        self._by_tls = "SSL" in pool.connection_class.__name__

    def call(self, *words: Any) -> Any:
        return self._with_functions(self._once, words)

    def call_asking(self, *words: Any) -> Any:
        """``call`` of a node to which a slot is on its way, and which has asked for this command."""
        return self._with_functions(self._once_asking, words)

    def _with_functions(self, send: Call, words: tuple[Any, ...]) -> Any:
        try:
            return send(*words)
        except StoreError as error:
            if self._load is None or "Function not found" not in str(error):
                raise
        self._load(self._once, self._shared)
        return send(*words)

    def _once(self, *words: Any) -> Any:
        with self._errors(*words):
            return self._client.execute_command(*words)

    def _once_asking(self, *words: Any) -> Any:
        with self._errors(*words), self._client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(b"ASKING")
            pipeline.execute_command(*words)
            answer = pipeline.execute(raise_on_error=False)[1]
            if isinstance(answer, Exception):
                raise answer
            return answer

    @contextmanager
    def _errors(self, *words: Any) -> Iterator[None]:
        """Raises our errors in place of valkey-py's; ``words`` are those of the command."""
        try:
            yield
        except BusyLoadingError as error:
            raise Loading(str(error)) from None
        except ReadOnlyError as error:  # it is not the primary any more: the next command asks for the address again
            self._client.connection_pool.disconnect()
            raise Unavailable(f"Valkey is not the primary any more: {error}") from None
        except (valkey.ConnectionError, valkey.TimeoutError, OSError) as error:
            raise Unavailable(f"no Valkey: {explained(error, self._by_tls)}") from None
        except ValkeyError as error:
            raise self._refusal(f"NOPERM {error}" if isinstance(error, NoPermissionError) else str(error), *words) from None

    def _refusal(self, text: str, *words: Any) -> StoreError:
        if lacking(text):
            return not_permitted(text, name_of(*words), self._user)
        if text.startswith(REFUSED_FOR_NOW) and not text.startswith(REDIRECTS):
            return Unavailable(f"Valkey carries nothing out for the moment: {text}")
        in_cluster = self._shared is not None
        return Redirected(text) if in_cluster and text.startswith(REDIRECTS) else StoreError(with_remedy(text))

    @contextmanager
    def listening(self, channel: bytes) -> Iterator[Callable[[float], bytes | None]]:
        with self._listening(channel, sharded=False) as announced:
            yield announced

    @contextmanager
    def listening_sharded(self, channel: bytes) -> Iterator[Callable[[float], bytes | None]]:
        """The same in a cluster, by sharded Pub/Sub. Raises Unavailable where the channel went to another shard."""
        with self._listening(channel, sharded=True) as announced:
            yield announced

    @contextmanager
    def _listening(self, channel: bytes, *, sharded: bool) -> Iterator[Callable[[float], bytes | None]]:
        pubsub: Any = self._client.pubsub()

        def announced(seconds: float) -> bytes | None:
            with self._errors("SSUBSCRIBE" if sharded else "SUBSCRIBE"):
                message = pubsub.get_message(timeout=seconds)
            if message is not None and message["type"] == "sunsubscribe":
                raise Unavailable("the Pub/Sub channel went to another shard")
            return cast(bytes, message["data"]) if message is not None and message["type"] in ("message", "smessage") else None

        try:
            with self._errors("SSUBSCRIBE" if sharded else "SUBSCRIBE"):
                (pubsub.ssubscribe if sharded else pubsub.subscribe)(channel)
                pubsub.get_message(timeout=CONNECT_SECONDS)  # the confirmation
            yield announced
        finally:
            pubsub.close()

    def close(self) -> None:
        self._client.close()
