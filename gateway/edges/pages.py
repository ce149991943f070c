"""The landing page and the files of ``static/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

__all__ = ["FRESH", "STATIC", "files", "folder", "landing"]

_PACKAGED = Path(__file__).parent.parent / "static"  # in a wheel; in a checkout it is at the top
STATIC = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parent.parent / "static"

FRESH = {"cache-control": "no-cache"}  # browsers ask each time whether it changed; the answer is 304 if it did not


class _Files(StaticFiles):
    """The files of a folder. Pages of other origins may import ``gateway.js``: it holds no secret."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(FRESH | {"access-control-allow-origin": "*"})
        return response


files = _Files(directory=STATIC, check_dir=False)


def folder(name: str) -> StaticFiles:
    """A folder of ``static/`` as a site of its own, with its ``index.html``."""
    return _Files(directory=STATIC / name, html=True, check_dir=False)


async def landing(request: Request) -> Response:
    """``GET /``."""
    return FileResponse(STATIC / "index.html", headers=FRESH)
