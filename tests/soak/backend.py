"""What the application's servers do during the soak: for every so many visitors some calls of the server API, over one connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

from ..kit.gateways import API_KEY
from .visitors import USERS, names_of
from .wires import Line, opened, request

__all__ = ["Backend"]

REVOKED_SECONDS = 30.0  # until a revoked token would have ended by itself


class Backend:
    """``did`` counts its calls."""

    def __init__(self, port: int) -> None:
        self.did: Counter[str] = Counter()
        self._port = port
        self._line: Line | None = None
        self._turn = asyncio.Lock()

    async def follow(self, number: int) -> None:
        """The calls that belong to this visitor. Raises what ``call`` raises."""
        for method, fields in _calls(number):
            await self.call(method, **fields)

    async def call(self, method: str, /, **fields: Any) -> Any:
        """Its result. Raises AssertionError for an error, what ``Line`` raises, OSError."""
        async with self._turn:
            return await self._call(method, fields)

    async def _call(self, method: str, fields: dict[str, Any]) -> Any:
        if self._line is None:
            self._line = await opened(self._port)
        self._line.send(request("POST", f"/api/{method}", json.dumps(fields).encode(), X_API_Key=API_KEY))
        head = (await self._line.until(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        answer = json.loads(await self._line.take(size))
        assert "result" in answer, (method, fields, answer)
        self.did[method] += 1
        return answer["result"]

    def close(self) -> None:
        if self._line is not None:
            self._line.close()


def _calls(number: int) -> list[tuple[str, dict[str, Any]]]:
    """What is called when so many visitors came."""
    names, user = names_of(number), f"u{number // 20 % USERS}"
    calls: list[tuple[str, dict[str, Any]]] = []
    if number % 20 == 0:
        document = {"title": "x" * 200, "count": number, "more": "y" * 200}
        calls.append(("publish", {"channel": names["doc"], "data": document}))
        calls.append(("publish", {"channel": names["topic"], "data": number, "tags": {"of": str(number % 50)}}))
    if number % 20 == 10:
        calls.append(("notify", {"user": user, "data": {"id": f"i{number % 7000}", "text": "z" * 50}}))
        calls.append(("publish", {"channel": f"indexed:{number % USERS}", "data": 1, "idempotency_key": f"k{number}"}))
    if number % 100 == 0:
        # Of a visitor that may be here still, and of one that left long ago.
        calls.append(("revoke", {"token_id": f"c{number - 5}", "expire_at": time.time() + REVOKED_SECONDS}))
        calls.append(("revoke", {"user": f"n{number - 1000}", "expire_at": time.time() + REVOKED_SECONDS}))
    if number % 200 == 50:
        calls.append(("disconnect", {"user": f"u{(number + 3) % USERS}"}))
        calls.append(("subscribe", {"user": user, "channel": names["room"]}))
    if number % 1000 == 0:
        calls.append(("history_remove", {"channel": names["doc"]}))
        calls.append(("info", {}))
    return calls
