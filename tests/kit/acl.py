"""Users of Valkey with the least rights, and what Valkey refused to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import valkey

from gateway.store.rights import ROLES, acl_words, rights_of

__all__ = ["LeastRights"]

SECRET = "secret"


class LeastRights:
    """One user for each role, for one prefix, on the server that ``client`` reaches; ``url`` is that server's, by its socket."""

    def __init__(self, client: valkey.Valkey, url: str, prefix: str) -> None:
        self.client = client
        self._path = url.removeprefix("unix://")
        self._prefix = prefix
        for role in ROLES:
            self.give(role)

    def user(self, role: str) -> str:
        return f"{role}-{self._prefix}"

    def url(self, role: str) -> str:
        """The address for that user."""
        return f"unix://{self.user(role)}:{SECRET}@{self._path}"

    def give(self, role: str, *, but: Iterable[str] = (), more: Iterable[str] = ()) -> None:
        """Exactly the role's rights, without the words ``but``, with the words ``more``."""
        words = acl_words(self.user(role), rights_of(role, self._prefix), SECRET)
        self.client.execute_command(*(word for word in words if word not in but), *more)

    def refused(self) -> list[Any]:
        """What Valkey refused to these users, newest first."""
        entries = [entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in self.client.acl_log()]
        own = [{_text(name): _text(value) for name, value in entry.items()} for entry in entries]
        return [(entry["username"], entry["reason"], entry["object"]) for entry in own if entry["username"].endswith(f"-{self._prefix}")]

    def remove(self) -> None:
        self.client.acl_deluser(*(self.user(role) for role in ROLES))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
