"""The requests of the page of the work queue: rows of the demo's API, each with what the request's body is.

GET work · POST work/reports {month} · GET work/reports/MONTH · POST work/orders {item} · POST work/orders/ID/cancel
POST work/jobs {kind} · POST work/jobs/ID/cancel · POST work/jobs/ID/resend
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from publishers.faults import NotFound

from .bodies import Answer, Body
from .month import read_month
from .work import Work

__all__ = ["REQUESTS", "WorkHandler"]

WorkHandler = Callable[[Work, str, Request, Any], Awaitable[Answer | Response]]  # Any: the Body that REQUESTS names for it


class MonthOfReport(Body):
    """As in 2026-11."""

    month: str


class NewOrder(Body):
    """A thing of the menu."""

    item: str


class NewJobs(Body):
    """As of ``Work.start``."""

    kind: str


async def _state(work: Work, user: str, request: Request, body: Body) -> Answer:
    return await work.state(user)


async def _make_report(work: Work, user: str, request: Request, body: MonthOfReport) -> Answer:
    return await work.make_report(user, body.month)


async def _report(work: Work, user: str, request: Request, body: Body) -> Response:
    """The file of the member whose token it is: nobody can ask for another one's."""
    month = read_month(request.path_params["month"])
    if work.reports.find(user, month) is None:
        raise NotFound(f"{user} has no report of {month.title}")
    headers = {"cache-control": "no-store"}
    return FileResponse(work.reports.path(user, month), 200, headers, "application/pdf", filename=f"Piazza {month}.pdf")


async def _order(work: Work, user: str, request: Request, body: NewOrder) -> Answer:
    return await work.order(user, body.item)


async def _cancel_order(work: Work, user: str, request: Request, body: Body) -> Answer:
    return await work.cancel_order(user, request.path_params["id"])


async def _start(work: Work, user: str, request: Request, body: NewJobs) -> Answer:
    return await work.start(user, body.kind)


async def _cancel(work: Work, user: str, request: Request, body: Body) -> Answer:
    return await work.cancel(user, request.path_params["job"])


async def _resend(work: Work, user: str, request: Request, body: Body) -> Answer:
    return await work.resend(user, request.path_params["job"])


REQUESTS: dict[tuple[str, str], tuple[WorkHandler, type[Body]]] = {
    ("GET", "work"): (_state, Body),
    ("POST", "work/reports"): (_make_report, MonthOfReport),
    ("GET", "work/reports/{month}"): (_report, Body),
    ("POST", "work/orders"): (_order, NewOrder),
    ("POST", "work/orders/{id:int}/cancel"): (_cancel_order, Body),
    ("POST", "work/jobs"): (_start, NewJobs),
    ("POST", "work/jobs/{job}/cancel"): (_cancel, Body),
    ("POST", "work/jobs/{job}/resend"): (_resend, Body),
}
