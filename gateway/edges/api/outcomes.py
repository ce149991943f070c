"""What the calls of one request come to: each has a result or an error of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

from ...errors import BadRequest, ClientError, Internal, StoreError
from ...rules.json_text import raw_object
from ...rules.protocol import error_json

__all__ = ["TOGETHER", "Malformed", "Outcome", "outcome_of", "replies", "responses", "together"]

TOGETHER = 200  # commands of one request that are under way at once
Outcome = tuple[bytes, bytes | None]  # a result, and the error where there is none; both are JSON


class Malformed(Exception):
    """The body is not JSON."""


def responses(results: list[Outcome]) -> bytes:
    """The result of a request that has several answers."""
    return b'{"responses":[%b]}' % b",".join(
        raw_object({"result": result} if error is None else {"error": error}) for result, error in results
    )


def replies(outcomes: list[tuple[str, Outcome]]) -> bytes:
    """The answer to a batch; ``outcomes`` has the name of each command's method, and its outcome."""
    texts = [raw_object({name: result} if error is None else {"error": error}) for name, (result, error) in outcomes]
    return b'{"replies":[%b]}' % b",".join(texts)


async def together(calls: list[Coroutine[Any, Any, bytes]]) -> list[Outcome]:
    """The outcomes of calls that are made at once, TOGETHER at a time: a request of megabytes must not take Valkey from all others."""
    outcomes: list[Outcome] = []
    for first in range(0, len(calls), TOGETHER):
        outcomes += await asyncio.gather(*map(outcome_of, calls[first : first + TOGETHER]))
    return outcomes


async def outcome_of(call: Awaitable[bytes]) -> Outcome:
    """The result, or the error as JSON."""
    try:
        return await call, None
    except ClientError as error:
        return b"", error_json(error)
    except StoreError as error:
        return b"", error_json(Internal.of(error))
    except Malformed as error:
        return b"", error_json(BadRequest(str(error)))
