"""The landing page and the files of ``static/``, compressed for clients that take gzip.

Each file is compressed once, when it is first asked for, and again only if it has changed.
"""

from __future__ import annotations

import gzip
import os
import re
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, PathLike, StaticFiles
from starlette.types import Scope

__all__ = ["FRESH", "STATIC", "console_files", "files", "folder", "landing", "takes_gzip"]

_PACKAGED = Path(__file__).parent.parent / "static"  # in a wheel; in a checkout it is at the top
STATIC = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parent.parent / "static"

FRESH = {"cache-control": "no-cache"}  # browsers ask each time whether it changed; the answer is 304 if it did not
PATH_MOST = 200  # characters of a file's path that is looked for
TEXTS = {".css", ".html", ".js", ".md", ".svg", ".ts"}
_REFUSED = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*")


class _Pages(StaticFiles):
    """The files of a folder."""

    more_headers = FRESH

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        # The standard library resolves a path in a time that grows with the square of its length: for 60 KiB of "a/" it held the process for 0.2 s.
        return super().lookup_path(path) if len(path) <= PATH_MOST else ("", None)

    def file_response(self, full_path: PathLike, stat_result: os.stat_result, scope: Scope, status_code: int = 200) -> Response:
        response: Response = FileResponse(full_path, status_code, self.more_headers, stat_result=stat_result)
        asked = Headers(scope=scope)
        if Path(full_path).suffix in TEXTS:
            response.headers["vary"] = "Accept-Encoding"
            # A range is one of the file itself.
            if takes_gzip(asked.get("accept-encoding", "")) and "range" not in asked:
                response = _compressed_response(response, _compressed(Path(full_path), stat_result.st_mtime_ns))
        if self.is_not_modified(response.headers, asked):
            response = NotModifiedResponse(response.headers)
            response.headers.update(self.more_headers)
        return response


class _Files(_Pages):
    """Files that pages of other origins may load, as ``gateway.js``: they hold no secret."""

    more_headers = FRESH | {"access-control-allow-origin": "*"}


@lru_cache(maxsize=256)
def _compressed(path: Path, changed_ns: int) -> bytes:
    """The file's gzip, which is the same in every process. ``changed_ns`` is when it changed, so that the cache holds no older one."""
    return gzip.compress(path.read_bytes(), mtime=0)


def _compressed_response(plain: Response, body: bytes) -> Response:
    """``body`` with the headers of the ``plain`` response, but for those that are of its bytes."""
    same = {name: value for name, value in plain.headers.items() if name not in ("content-length", "accept-ranges")}
    etag = f'{plain.headers["etag"][:-1]}-gzip"'  # other bytes, so another tag
    return Response(body, plain.status_code, same | {"content-encoding": "gzip", "etag": etag})


def takes_gzip(accept_encoding: str) -> bool:
    listed = {name.strip().lower(): quality for name, _, quality in (part.partition(";") for part in accept_encoding.split(","))}
    quality = listed.get("gzip", listed.get("*"))
    return quality is not None and not _REFUSED.fullmatch(quality)


class _ConsoleFiles(_Pages):
    """The console's page, which connects to this gateway alone, whatever the page of another project may."""

    more_headers = FRESH | {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
        " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    }


files = _Files(directory=STATIC, check_dir=False)
console_files = _ConsoleFiles(directory=STATIC / "admin", html=True, check_dir=False)
_pages = _Pages(directory=STATIC, check_dir=False)


def folder(name: str) -> StaticFiles:
    """A folder of ``static/`` as a site of its own, with its ``index.html``."""
    return _Files(directory=STATIC / name, html=True, check_dir=False)


async def landing(request: Request) -> Response:
    """``GET /``."""
    return await _pages.get_response("index.html", request.scope)
