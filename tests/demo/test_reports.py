"""What the demo's reports count, and how their files are stored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from gateway.demo.month import Month, count_month
from gateway.demo.reports import Reports
from publishers.database import Database
from publishers.tables import channels, orders, posts, reactions, reviews


async def test_a_month_counts_what_happened_from_its_first_moment_to_its_last(database: Database) -> None:
    begins, ends = (int(datetime(2026, number, 1, tzinfo=UTC).timestamp() * 1000) for number in (2, 3))
    moments = (begins - 1, begins, begins + 86_400_000, ends - 1, ends)
    one = {"author": "ann", "text": "x", "counts": "{}"}
    async with database.transaction() as transaction:
        await transaction.execute(insert(channels).values(name="t", title="Town", owner="ann", created_at=0))
        await transaction.execute(insert(posts), [{**one, "channel": "t", "created_at": at} for at in moments])
        await transaction.execute(
            insert(reviews), [{**one, "subject": "nori", "rating": n + 1, "created_at": at} for n, at in enumerate(moments)]
        )
        taken_back = [{"target": "post:1", "user": f"u{n}", "reaction": None, "at": begins} for n in range(3)]
        await transaction.execute(insert(reactions), [*taken_back, {"target": "post:1", "user": "bob", "reaction": "like", "at": begins}])
        order = {"buyer": "ann", "item": "x", "quantity": 1, "amount": 1, "state": "placed", "created_at": ends - 1, "changed_at": ends}
        await transaction.execute(insert(orders).values(order))
    steps: list[float] = []

    async def progress(done: float, sentence: str) -> None:
        steps.append(done)

    numbers = await count_month(database, Month(2026, 2), progress)
    assert numbers.totals == [3, 3, 1, 1] and len(numbers.days) == 28
    assert [numbers.days[day].counts for day in (0, 1, 2, 27)] == [(1, 1, 1, 0), (1, 1, 0, 0), (0, 0, 0, 0), (1, 1, 0, 1)]
    assert numbers.channels == [("Town", 3)] and numbers.subjects == [("nori", 3, 3.0)]
    assert steps == sorted(steps) and steps[-1] == 1 and len(steps) == 28


def test_a_report_that_cannot_be_written_leaves_the_one_before_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, month = Reports(tmp_path / "reports"), Month(2026, 2)
    reports.write("ann", month, b"one")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk"):
        patched.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("the disk is full")))
        reports.write("ann", month, b"two")
    path = reports.path("ann", month)
    assert path.read_bytes() == b"one" and list(path.parent.iterdir()) == [path]
    (path.parent / "2026-02.1.draft").write_bytes(b"thr")  # of a process that was killed
    assert reports.find("ann", month) and reports.find("bob", month) is None
    reports.remove_drafts()
    assert list(path.parent.iterdir()) == [path]
