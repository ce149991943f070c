"""``GET /docs/…``: the pages, and what their search looks through.

The folder is read when the first page is asked for, and anew when a file in it has changed. A page is rendered once, in a thread,
since that takes some milliseconds in which publications would wait. What reads Markdown is imported there too, with the first page:
a gateway that starts does not wait for it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..edges.pages import FRESH, STATIC, takes_gzip

if TYPE_CHECKING:
    from .book import Book

__all__ = ["FOLDER", "routes"]

FOLDER = STATIC / "docs"
NAME_MOST = 200  # characters of an address that is answered with a page: each slash in it is in every link of that page


class _Body(NamedTuple):
    plain: bytes
    compressed: bytes
    digest: str


def routes() -> list[BaseRoute]:
    return [
        Route("/docs", _to_the_first_page),
        Route("/docs/search.json", _search),
        Route("/docs/{name:path}", _page),
    ]


async def _to_the_first_page(request: Request) -> Response:
    return RedirectResponse("docs/")


async def _search(request: Request) -> Response:
    return _response(request, await asyncio.to_thread(_index, _stamp()), "application/json")


async def _page(request: Request) -> Response:
    name: str = request.path_params["name"]
    stamp = _stamp()
    book = await asyncio.to_thread(_book, stamp)
    if name in book:
        return _response(request, await asyncio.to_thread(_document, stamp, name), "text/html")
    bare = name.removesuffix(".md").removesuffix("index")
    if name != bare and bare in book:  # a link of the files was copied
        return RedirectResponse(bare.rpartition("/")[2] or "./")
    if len(name) > NAME_MOST:
        return Response("there is no such page\n", 404, FRESH, "text/plain")
    from .frame import not_found

    return Response(not_found(book, name), 404, FRESH, "text/html")


def _response(request: Request, body: _Body, media_type: str) -> Response:
    compressed = takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{body.digest}-gzip"' if compressed else f'"{body.digest}"'
    headers = FRESH | {"vary": "Accept-Encoding", "etag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    if compressed:
        return Response(body.compressed, 200, headers | {"content-encoding": "gzip"}, media_type)
    return Response(body.plain, 200, headers, media_type)


def _stamp() -> int:
    """Another number when a page was added, changed or removed; it is looked for once a second at most."""
    return _stamp_of(int(time.monotonic()))


@lru_cache(maxsize=1)
def _stamp_of(second: int) -> int:
    return hash(tuple((path.as_posix(), path.stat().st_mtime_ns) for path in sorted(FOLDER.rglob("*.md"))))


@lru_cache(maxsize=1)
def _book(stamp: int) -> Book:
    from .book import Book

    return Book(FOLDER)


@lru_cache(maxsize=256)
def _document(stamp: int, name: str) -> _Body:
    from .frame import framed

    book = _book(stamp)
    return _body(framed(book, book[name]).encode())


@lru_cache(maxsize=1)
def _index(stamp: int) -> _Body:
    """``[{"page", "title", "heading", "anchor", "terms", "asked", "text"}, …]``, a row for each section of each page."""
    rows = [{"page": page.name, "title": page.title, **section._asdict()} for page in _book(stamp).values() for section in page.sections]
    return _body(msgspec.json.encode(rows))


def _body(plain: bytes) -> _Body:
    return _Body(plain, gzip.compress(plain, mtime=0), hashlib.sha256(plain).hexdigest()[:24])
