"""The demo site: its pages, the small API that they call, and what runs beside the gateway for it.

Any visitor may act as any member: it is for looking at, on one's own machine. Everything else is real: the publishers of
this project on a real database, the outbox and its relay, tokens, channels, the inbox.

API, all JSON, with the member's token as ``Authorization: Bearer``; a request that is refused is answered with 4xx and
``{"error": sentence}``.

    POST enter {name} · GET members · GET state · GET posts?channel&before · GET reviews?subject · GET reviews/ID/history
    POST channels {name, title} · POST posts {channel, text} · PATCH posts/ID {text} · DELETE posts/ID
    POST reviews {subject, rating, text} · POST reviews/ID/responses {text} · PUT reactions {target, reaction}
    POST pace {per_minute}

The page of the work queue has requests of its own: ``work_requests``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

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
from ..runtime.tasks import run_endlessly
from ..store.history import History
from .bodies import Answer, Body
from .people import SUBJECTS, People
from .work import Work
from .work_requests import REQUESTS, WorkHandler

__all__ = ["Demo"]

log = logging.getLogger("gateway.demo")

TOKEN_SECONDS = 3600
PACE_MOST = 120
PAGE = 30
BODY_BYTES = 256 * 1024


class Entering(Body):
    """``name`` is the member that the visitor becomes."""

    name: str


class NewChannel(Body):
    """A channel for posts; without a title it is shown by its name."""

    name: str
    title: str = ""


class NewPost(Body):
    """A post in ``channel``."""

    channel: str
    text: str


class NewReview(Body):
    """A review of the restaurant ``subject``, with 1 to 5 stars."""

    subject: str
    rating: int
    text: str


class Text(Body):
    """The new text of a post, or a response to a review."""

    text: str


class Reacting(Body):
    """``target`` is post:ID or review:ID; no reaction takes the member's reaction back."""

    target: str
    reaction: str | None = None


class Pace(Body):
    """Acts of the simulated people in a minute."""

    per_minute: int


Handler = Callable[["Demo", str, Request, Any], Awaitable[Answer | Response]]  # Any: the Body that HANDLERS names for it


class Demo:
    """The demo as a guest of the gateway (``app.Guest``): its routes, and what runs as long as the gateway does."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.routes: list[BaseRoute] = [
            *(Route(f"/demo/api/{path}", self._endpoint(*row), methods=[method]) for (method, path), row in HANDLERS.items()),
            *(Route(f"/demo/api/{path}", self._work_endpoint(*row), methods=[method]) for (method, path), row in REQUESTS.items()),
            Mount("/demo", folder("demo")),
        ]

    @contextlib.asynccontextmanager
    async def running(self, gateway: Gateway) -> AsyncIterator[None]:
        """Runs the relay and the simulated people, on a database whose tables are brought up to date first."""
        self.node = gateway.node
        async with Database(self._config.database_url, data_dir=self._config.data_path) as self.database:
            await migrate(self.database)
            self.reactions = Reactions(self.database)
            self.people = People(self.database, self.reactions, lambda: len(self.node.admission.clients))
            await self.people.seed()
            self.work = Work(self._config, gateway, self.database, self._config.data_path / "reports")
            parts = (run_relay(self.database, self.node.history), self.people.live(), *self.work.parts())
            tasks = [run_endlessly(each, "the demo") for each in parts]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def mint(self, user: str) -> str:
        """A token for ``user`` that lives TOKEN_SECONDS."""
        tokens = self._config.tokens
        return mint(tokens.hmac_secret, user=user, seconds=TOKEN_SECONDS, audience=tokens.audience, issuer=tokens.issuer)

    def _work_endpoint(self, handler: WorkHandler, kind: type[Body]) -> Callable[[Request], Awaitable[Response]]:
        return self._endpoint(lambda demo, user, request, body: handler(demo.work, user, request, body), kind)

    def _endpoint(self, handler: Handler, kind: type[Body]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                user = "" if handler in OPEN else await self._user(request)
                if not user and handler not in OPEN:
                    return _refused(401, "choose a member first: this token names nobody")
                body = await _body(request, kind)
                answer = body if isinstance(body, Response) else await handler(self, user, request, body)
                return answer if isinstance(answer, Response) else json_response(encode(answer))
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

    async def _user(self, request: Request) -> str:
        token = token_of(request.headers, request.query_params, self._config.origins)
        return (await self.node.authentication.identify(token)).user

    async def position(self, channel: str) -> str:
        """The channel's newest position, from which a page follows it."""
        return str((await self.node.history.read(channel)).top)


async def _body(request: Request, kind: type[Body]) -> Body | Response:
    """The request's body, or the response to one that is too large. Raises Invalid for a body that is not a ``kind``."""
    if kind is Body:
        return Body()
    text = await body_of(request, BODY_BYTES)
    if isinstance(text, Response):
        return text
    try:
        return decode_json(text, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"the request's JSON does not have the expected fields: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Invalid("the request is not a JSON object") from None


def _refused(status: int, sentence: str) -> Response:
    return json_response(encode({"error": sentence}), status)


def _id(request: Request) -> int:
    return int(request.path_params["id"])


async def _enter(demo: Demo, user: str, request: Request, body: Entering) -> Answer:
    name = demo.people.welcome(body.name)
    return {"user": name, "token": demo.mint(name), "expires_in": TOKEN_SECONDS}


async def _members(demo: Demo, user: str, request: Request, body: Body) -> Answer:
    return {"members": demo.people.names}


async def _state(demo: Demo, user: str, request: Request, body: Body) -> Answer:
    return {
        "user": user,
        "members": demo.people.names,
        "channels": await list_channels(demo.database),
        "subjects": SUBJECTS,
        "reactions": REACTIONS,
        "pace": demo.people.pace,
    }


async def _posts(demo: Demo, user: str, request: Request, body: Body) -> Answer:
    channel, before = request.query_params.get("channel", ""), request.query_params.get("before", "")
    position = await demo.position(f"posts:{channel}")
    found = await list_posts(demo.database, channel=channel, before=_number(before), limit=PAGE + 1)
    page = found[:PAGE]
    mine = await my_reactions(demo.database, user=user, targets=[f"post:{post['id']}" for post in page])
    shown = [post | {"mine": mine.get(f"post:{post['id']}")} for post in page]
    return {"posts": shown, "more": len(found) > PAGE, "position": position}


async def _reviews(demo: Demo, user: str, request: Request, body: Body) -> Answer:
    subject = request.query_params.get("subject", "")
    positions = {f"reviews:{subject}": await demo.position(f"reviews:{subject}")}
    known = await list_reviews(demo.database, subject=subject, limit=PAGE)
    stories = [story_of(review["id"]) for review in known]
    positions |= zip(stories, await asyncio.gather(*[demo.position(story) for story in stories]), strict=True)
    # Read again after the positions: what happened meanwhile is in this answer, or follows its positions.
    found = [review for review in await list_reviews(demo.database, subject=subject, limit=PAGE) if story_of(review["id"]) in positions]
    mine = await my_reactions(demo.database, user=user, targets=stories)
    return {"reviews": [review | {"mine": mine.get(story_of(review["id"]))} for review in found], "positions": positions}


async def _history(demo: Demo, user: str, request: Request, body: Body) -> Answer:
    return {"events": await review_history(_id(request), database=demo.database, publisher=_Borrowed(demo.node.history))}


class _Borrowed(Publisher):
    """A publisher on the gateway's own connection."""

    def __init__(self, history: History) -> None:
        self._history = history


async def _create_channel(demo: Demo, user: str, request: Request, body: NewChannel) -> Answer:
    return await create_channel(demo.database, name=body.name, owner=user, title=body.title)


async def _create_post(demo: Demo, user: str, request: Request, body: NewPost) -> Answer:
    return await create_post(demo.database, channel=body.channel, author=user, text=body.text)


async def _edit_post(demo: Demo, user: str, request: Request, body: Text) -> Answer:
    return await edit_post(demo.database, post=_id(request), editor=user, text=body.text)


async def _delete_post(demo: Demo, user: str, request: Request, body: Body) -> Answer:
    await delete_post(demo.database, post=_id(request), by=user)
    return {}


async def _create_review(demo: Demo, user: str, request: Request, body: NewReview) -> Answer:
    if body.subject not in {subject["id"] for subject in SUBJECTS}:
        raise NotFound(f"there is no restaurant {body.subject!r:.60}")
    return await create_review(demo.database, subject=body.subject, author=user, rating=body.rating, text=body.text)


async def _respond(demo: Demo, user: str, request: Request, body: Text) -> Answer:
    return await respond(demo.database, review=_id(request), author=user, text=body.text)


async def _react(demo: Demo, user: str, request: Request, body: Reacting) -> Answer:
    return {"counts": await demo.reactions.react(user=user, target=body.target, reaction=body.reaction)}


async def _pace(demo: Demo, user: str, request: Request, body: Pace) -> Answer:
    if not 0 <= body.per_minute <= PACE_MOST:
        raise Invalid(f"the pace is a whole number from 0 to {PACE_MOST} acts a minute")
    demo.people.set_pace(body.per_minute)
    return {"pace": body.per_minute}


def _number(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid("an id is a whole number")
    return int(text or 0)


Kind = TypeVar("Kind", bound=Body)


def _taking(kind: type[Kind], handler: Callable[[Demo, str, Request, Kind], Awaitable[Answer | Response]]) -> tuple[Handler, type[Body]]:
    """A row of HANDLERS, so that type checkers compare the handler with its body."""
    return handler, kind


HANDLERS: dict[tuple[str, str], tuple[Handler, type[Body]]] = {
    ("POST", "enter"): _taking(Entering, _enter),
    ("GET", "members"): _taking(Body, _members),
    ("GET", "state"): _taking(Body, _state),
    ("GET", "posts"): _taking(Body, _posts),
    ("GET", "reviews"): _taking(Body, _reviews),
    ("GET", "reviews/{id:int}/history"): _taking(Body, _history),
    ("POST", "channels"): _taking(NewChannel, _create_channel),
    ("POST", "posts"): _taking(NewPost, _create_post),
    ("PATCH", "posts/{id:int}"): _taking(Text, _edit_post),
    ("DELETE", "posts/{id:int}"): _taking(Body, _delete_post),
    ("POST", "reviews"): _taking(NewReview, _create_review),
    ("POST", "reviews/{id:int}/responses"): _taking(Text, _respond),
    ("PUT", "reactions"): _taking(Reacting, _react),
    ("POST", "pace"): _taking(Pace, _pace),
}
OPEN = (_enter, _members)  # need no token
