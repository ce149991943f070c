"""The demo site: its pages, the small API behind them, and what runs beside the gateway for it.

Whoever can reach the site may become any member: it is for looking at, on one's own machine. Everything else is real:
the publishers of this project on a real database, the outbox and its relay, tokens, channels, the inbox.

API, all JSON, with the member's token as ``Authorization: Bearer``; what is refused is 4xx with ``{"error": sentence}``.

    POST enter {name} · GET members · GET state · GET posts?channel&before · GET reviews?subject · GET reviews/ID/history
    POST channels {name, title} · POST posts {channel, text} · PATCH posts/ID {text} · DELETE posts/ID
    POST reviews {subject, rating, text} · POST reviews/ID/responses {text} · PUT reactions {target, reaction}
    POST pace {per_minute}
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy.exc import DBAPIError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from publishers import Publisher
from publishers.database import Database
from publishers.faults import Fault, Invalid, NotAllowed, NotFound
from publishers.migrator import migrate
from publishers.posts import create_channel, create_post, delete_post, edit_post, list_channels, list_posts
from publishers.reactions import REACTIONS, Reactions, my_reactions
from publishers.relay_program import run_relay
from publishers.reviews import create_review, list_reviews, respond, review_history, story_of

from ..app import Gateway
from ..auth.tokens import mint
from ..config import Config
from ..edges.pages import folder
from ..edges.request import body_of, token_of
from ..edges.responses import json_response
from ..errors import ClientError, Disconnect, StoreError
from ..rules.json_text import decode_json, encode
from .people import SUBJECTS, Members

__all__ = ["Demo"]

log = logging.getLogger("gateway.demo")

TOKEN_SECONDS = 3600
PACE_MOST = 120
PAGE = 30
BODY_BYTES = 256 * 1024

Fields = dict[str, Any]
Handler = Callable[["Demo", str, Request, Fields], Awaitable[Any]]


class Demo:
    """A guest of the gateway (``app.Guest``)."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.routes: list[BaseRoute] = [
            *(Route(f"/demo/api/{path}", self._endpoint(handler), methods=[method]) for (method, path), handler in HANDLERS.items()),
            Mount("/demo", folder("demo")),
        ]

    @contextlib.asynccontextmanager
    async def running(self, gateway: Gateway) -> AsyncIterator[None]:
        self.node = gateway.node
        async with Database(self._config.database_url, data_dir=self._config.data_path) as self.database:
            await migrate(self.database)
            self.reactions = Reactions(self.database)
            self.members = Members(self.database, self.reactions, lambda: len(self.node.clients))
            await self.members.seed()
            work = [asyncio.create_task(run_relay(self.database, self.node.history)), asyncio.create_task(self.members.live())]
            for task in work:
                task.add_done_callback(_must_not_end)
            try:
                yield
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)

    def mint(self, user: str) -> str:
        tokens = self._config.tokens
        return mint(tokens.hmac_secret, user=user, seconds=TOKEN_SECONDS, audience=tokens.audience, issuer=tokens.issuer)

    def _endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                user = "" if handler in OPEN else (await self.node.identify(token_of(request.headers, request.query_params))).user
                if not user and handler not in OPEN:
                    return _refused(401, "choose a member first: this token names nobody")
                fields = await _fields(request)
                return fields if isinstance(fields, Response) else json_response(encode(await handler(self, user, request, fields)))
            except (Disconnect, ClientError) as error:
                return _refused(401, f"the token is not accepted: {error}")
            except NotFound as error:
                return _refused(404, str(error))
            except NotAllowed as error:
                return _refused(403, str(error))
            except Fault as error:
                return _refused(422, str(error))
            except (DBAPIError, StoreError) as error:
                log.warning("%s: %s", request.url.path, str(getattr(error, "orig", error)).partition("\n")[0])
                return _refused(503, "the database or Valkey does not answer; try again in a moment")

        return endpoint

    async def position(self, channel: str) -> str:
        return str((await self.node.history.read(channel)).top)


async def _fields(request: Request) -> Fields | Response:
    if request.method in ("GET", "DELETE"):
        return {}
    body = await body_of(request, BODY_BYTES)
    if isinstance(body, Response):
        return body
    try:
        fields = decode_json(body, dict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Invalid("the request is not a JSON object") from None
    return fields


def _refused(status: int, sentence: str) -> Response:
    return json_response(encode({"error": sentence}), status)


def _id(request: Request) -> int:
    return int(request.path_params["id"])


async def _enter(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    name = demo.members.welcome(fields.get("name"))
    return {"user": name, "token": demo.mint(name), "expires_in": TOKEN_SECONDS}


async def _members(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return {"members": demo.members.names}


async def _state(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return {
        "user": user,
        "members": demo.members.names,
        "channels": await list_channels(demo.database),
        "subjects": SUBJECTS,
        "reactions": REACTIONS,
        "pace": demo.members.pace,
    }


async def _posts(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    channel, before = request.query_params.get("channel", ""), request.query_params.get("before", "")
    position = await demo.position(f"posts:{channel}")
    found = await list_posts(demo.database, channel=channel, before=_number(before), limit=PAGE + 1)
    page = found[:PAGE]
    mine = await my_reactions(demo.database, user=user, targets=[f"post:{post['id']}" for post in page])
    shown = [post | {"mine": mine.get(f"post:{post['id']}")} for post in page]
    return {"posts": shown, "more": len(found) > PAGE, "position": position}


async def _reviews(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    subject = request.query_params.get("subject", "")
    positions = {f"reviews:{subject}": await demo.position(f"reviews:{subject}")}
    known = await list_reviews(demo.database, subject=subject, limit=PAGE)
    stories = [story_of(review["id"]) for review in known]
    positions |= zip(stories, await asyncio.gather(*[demo.position(story) for story in stories]), strict=True)
    # Read again, behind the positions: what happened in between is in the answer, or follows it.
    found = [review for review in await list_reviews(demo.database, subject=subject, limit=PAGE) if story_of(review["id"]) in positions]
    mine = await my_reactions(demo.database, user=user, targets=stories)
    return {"reviews": [review | {"mine": mine.get(story_of(review["id"]))} for review in found], "positions": positions}


async def _history(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return {"events": await review_history(_id(request), database=demo.database, publisher=_Borrowed(demo.node.history))}


class _Borrowed(Publisher):
    """The gateway's own connection, as a publisher."""

    def __init__(self, history: Any) -> None:
        self._history = history


async def _create_channel(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return await create_channel(demo.database, name=fields.get("name"), owner=user, title=fields.get("title", ""))


async def _create_post(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return await create_post(demo.database, channel=fields.get("channel"), author=user, text=fields.get("text"))


async def _edit_post(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return await edit_post(demo.database, post=_id(request), editor=user, text=fields.get("text"))


async def _delete_post(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    await delete_post(demo.database, post=_id(request), by=user)
    return {}


async def _create_review(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    if fields.get("subject") not in {subject["id"] for subject in SUBJECTS}:
        raise NotFound(f"there is no restaurant {fields.get('subject')!r:.60}")
    return await create_review(demo.database, subject=fields["subject"], author=user, rating=fields.get("rating"), text=fields.get("text"))


async def _respond(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    return await respond(demo.database, review=_id(request), author=user, text=fields.get("text"))


async def _react(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    counts = await demo.reactions.react(user=user, target=fields.get("target"), reaction=fields.get("reaction"))
    return {"counts": counts}


async def _pace(demo: Demo, user: str, request: Request, fields: Fields) -> Fields:
    wanted = fields.get("per_minute")
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted <= PACE_MOST:
        raise Invalid(f"the pace is a whole number from 0 to {PACE_MOST} acts a minute")
    demo.members.set_pace(wanted)
    return {"pace": wanted}


def _number(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid("an id is a whole number")
    return int(text or 0)


def _must_not_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("a part of the demo ended that must not", exc_info=task.exception())


HANDLERS: dict[tuple[str, str], Handler] = {
    ("POST", "enter"): _enter,
    ("GET", "members"): _members,
    ("GET", "state"): _state,
    ("GET", "posts"): _posts,
    ("GET", "reviews"): _reviews,
    ("GET", "reviews/{id:int}/history"): _history,
    ("POST", "channels"): _create_channel,
    ("POST", "posts"): _create_post,
    ("PATCH", "posts/{id:int}"): _edit_post,
    ("DELETE", "posts/{id:int}"): _delete_post,
    ("POST", "reviews"): _create_review,
    ("POST", "reviews/{id:int}/responses"): _respond,
    ("PUT", "reactions"): _react,
    ("POST", "pace"): _pace,
}
OPEN = (_enter, _members)
