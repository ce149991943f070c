"""``gateway queue`` and ``gateway worker``: what operators see of the work queues, and mend."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
import valkey

from gateway.cli.queue_commands import _send_all_again
from gateway.cli.queue_views import queue_list
from gateway.cli.worker_command import worker as worker_command
from gateway.errors import GatewayError, Unavailable
from gateway.store.connect import Address
from gateway.store.layout import Layout
from gateway.work import Queue, SyncQueue
from gateway.work.queues import Overview, Queues

from ..kit.forks import Program
from ..kit.programs import ENVIRONMENT, GATEWAY, Outcome, forked, process, run
from ..kit.waiting import wait_until

ESCAPES = "\x1b]0;stolen\x07\x1b[2J\x9b31m\u202ereversed\u2028"


class Operator:
    """Calls commands on the queues of one prefix; ``producer`` enqueues there without them."""

    def __init__(self, url: str, prefix: str, folder: Path, store: valkey.Valkey) -> None:
        self.environment = {"GATEWAY_PREFIX": prefix, "GATEWAY_VALKEY_URL": url}
        self.producer = SyncQueue(url, prefix=prefix)
        self._layout, self._folder, self._store, self._calls = Layout(prefix), folder, store, 0

    def begin(self, *words: str) -> Callable[[], Outcome]:
        self._calls += 1
        return forked(self._folder / f"{self._calls}", "queue", *words, environment=self.environment)

    def __call__(self, *words: str) -> str:
        return self.begin(*words)().succeeds()

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def function(self, name: str, queue: str, *words: Any) -> Any:
        keys = [*self._layout.queue(queue), self._layout.taken(queue, "w")]
        return self._store.fcall(name, len(keys), *keys, "w", *words)

    def take(self, queue: str, most: int = 1000) -> list[tuple[str, str]]:
        """Id and token of the jobs that a worker takes."""
        return [(job[0].decode(), job[1]) for job in self.function("gateway_take", queue, 60_000, most)[1:]]

    def bury(self, queue: str, reason: str) -> list[str]:
        """All ready jobs fail for good."""
        taken = self.take(queue)
        for id, token in taken:
            self.function("gateway_fail", queue, id, token, reason, "")
        return [id for id, _ in taken]

    def strays(self, queue: str, count: int) -> None:
        """Another program pushes into a list what are no jobs: dead letters."""
        self.producer.enqueue("x", queue=queue).cancel()
        self._store.lpush(self._layout.queue(queue)[12], *[f"stray {number}" for number in range(count)])
        for _ in range(0, count, 1000):
            self.take(queue)


@pytest.fixture
def operator(valkey_url: str, prefix: str, tmp_path: Path, store: valkey.Valkey) -> Iterator[Operator]:
    operator = Operator(valkey_url, prefix, tmp_path, store)
    with operator.producer:
        yield operator


def test_a_job_is_enqueued_found_and_cancelled(operator: Operator) -> None:
    assert operator("list") == "there are no queues\n"
    options = ("--queue", "mail", "--key", "k", "--priority", "3", "--delay", "30m", "--attempts", "7", "--timeout", "2.5")
    more = ("--expires", "1h", "--result-ttl", "90", "--channel", "orders:1", "--serial", "s")
    id = operator("enqueue", "send", '{"to": ["a"]}', *options, *more).strip()
    assert operator.json("enqueue", "send", "1", *options) == {"queue": "mail", "id": id, "new": False}
    assert operator("enqueue", "send", "1", *options) == f"{id}  (a job with this key waits or runs already)\n"
    (listed,) = operator.json("list")["queues"]
    assert (listed["queue"], listed["delayed"], listed["ready"], listed["start_mean_ms"]) == ("mail", 1, 0, None)
    job = operator.json("show", "mail", id)
    assert job.pop("queue") == "mail"
    shown = {
        "name": "send",
        "data": {"to": ["a"]},
        "key": "k",
        "priority": 3,
        "attempts": 7,
        "timeout": 2.5,
        "result_ttl": 90,
        "serial": "s",
    }
    assert shown.items() <= job.items() and (job["state"], job["channel"]) == ("delayed", "orders:1")
    assert job["expires"] - job["due"] == 3_600_000 and 1_790_000 < job["due"] - job["enqueued"] <= 1_800_000
    assert operator.json("show", "mail")["jobs"] == [job] == operator.json("show", "mail", "--state", "delayed")["jobs"]
    assert operator.json("show", "mail", "--state", "ready")["jobs"] == []
    assert operator("cancel", "mail", id) == f"{id}: cancelled\n"
    again = operator.begin("cancel", "mail", id)()
    assert (again.status, again.out, again.error) == (1, f"{id}: there is no such job\n", "gateway: 1 of 1 are no jobs of queue mail\n")


def test_the_numbers_of_queues_are_listed(operator: Operator) -> None:
    for queue in ("busy", "idle"):
        for _ in range(4):
            operator.producer.enqueue("x", queue=queue)
    operator.producer.enqueue("x", queue="busy", delay=60)
    for id, token in operator.take("busy", 3)[:2]:
        operator.function("gateway_finish", "busy", id, token, "")
    header, busy, idle = operator("list").splitlines()
    assert header.split() == "queue ready delayed parked running dead oldest workers to start to finish".split()
    assert busy.split()[:6] == ["busy", "1", "1", "0", "1", "0"] and busy.endswith("ms")
    assert idle.split()[:6] == ["idle", "4", "0", "0", "0", "0"]
    fields = operator.json("list")["queues"][0]
    assert (fields["finished"], fields["workers"]) == (2, 1) and {"finish_mean_ms", "start_mean_ms"} <= fields.keys()


def test_people_are_shown_a_thousand_queues(operator: Operator, store: valkey.Valkey) -> None:
    operator.producer.enqueue("x", queue="a")
    store.sadd(operator._layout.queues, *[f"q{number}" for number in range(1001)])
    lines = operator("list").splitlines()
    assert len(lines) == 1002 and lines[-1] == "and 2 more, which --json lists"


def test_dead_letters_are_shown_with_their_reasons_and_sent_again(operator: Operator) -> None:
    for number in range(3):
        operator.producer.enqueue("send", {"n": number}, queue="mail", key=f"k{number}")
    first, second, third = operator.bury("mail", "ValueError: no such address")
    operator.producer.enqueue("send", queue="mail", key="k2")  # has the key of the third
    table = operator("dead", "mail").splitlines()
    assert {line.split()[1] for line in table[4:]} == {first, second, third}
    assert all(line.startswith("dead ") and line.endswith("ValueError: no such address") for line in table[4:])
    letters = operator.json("dead", "mail", "--limit", "2")["jobs"]
    assert len(letters) == 2 and letters[0]["failures"][0]["error"] == "ValueError: no such address"
    assert "attempt 1" in operator("show", "mail", first) and "ValueError" in operator("show", "mail", first)
    assert operator("retry", "mail", first) == "sent 1 again\n"
    outcome = operator.begin("retry", "mail", "--all", "--json")()
    assert (outcome.status, json.loads(outcome.out)) == (1, {"queue": "mail", "sent_again": 1, "refused": 1})
    assert outcome.error == "gateway: 1 were not sent again: they are no dead letters, or another job has their key\n"
    assert operator.json("show", "mail", third)["state"] == "dead"


def test_many_dead_letters_are_sent_again_and_many_jobs_removed_page_by_page(operator: Operator) -> None:
    operator.strays("mail", 2300)
    assert operator("retry", "mail", "--all") == "sent 2300 again\n"
    assert operator.json("purge", "mail", "ready", "--yes") == {"queue": "mail", "state": "ready", "removed": 2300, "left": 0}
    assert len(operator.json("show", "mail", "--limit", "1000")["jobs"]) == 0


def test_letters_that_cannot_be_sent_again_hold_up_none_after_them(operator: Operator) -> None:
    """One call of Valkey looks at 8 MiB of them, or at 10,000: where all of these were refused, nothing was sent at all."""
    keys = [f"k{number}" for number in range(10)]
    for key in keys:
        operator.producer.enqueue("send", "x" * 1_000_000, queue="mail", key=key)
    while operator.bury("mail", "why"):
        pass  # the next 8 MiB
    for key in keys:
        operator.producer.enqueue("send", queue="mail", key=key, delay=60)
    (last,) = [operator.producer.enqueue("send", queue="mail").id]
    assert operator.bury("mail", "why") == [last]
    outcome = operator.begin("retry", "mail", "--all", "--json")()
    assert json.loads(outcome.out) == {"queue": "mail", "sent_again": 1, "refused": 10}
    assert operator.json("show", "mail", last)["state"] == "ready"


async def test_a_letter_that_fails_again_meanwhile_is_not_sent_a_second_time(
    operator: Operator, valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was, in place of each that another job's key holds back."""
    for number in range(3):
        operator.producer.enqueue("send", number, queue="mail", key=f"k{number}")
    first, *others = operator.bury("mail", "why")
    operator.producer.enqueue("send", queue="mail", key="k0", delay=60)
    sent_again: list[int] = []

    def fail_again(done: int) -> None:
        sent_again.append(len(operator.bury("mail", "again")))

    monkeypatch.setattr("gateway.work.queues.RESENT_MOST", 2)
    async with Queue(valkey_url, prefix=prefix) as queue:
        assert await _send_all_again(queue.queues, "mail", 3, fail_again) == (2, 1)
    assert sent_again == [1, 1]
    assert {id: operator.json("show", "mail", id)["state"] for id in (first, *others)} == dict.fromkeys((first, *others), "dead")


def test_large_jobs_are_shown_up_to_the_limit(operator: Operator) -> None:
    for _ in range(11):
        operator.producer.enqueue("send", "x" * 1_000_000, queue="mail")
    shown = operator("show", "mail", "--state", "ready", "--limit", "10").splitlines()
    assert sum(line.startswith("ready ") and " send " in line for line in shown) == 10


def test_a_queue_is_mended_though_the_names_of_all_queues_cannot_be_read(operator: Operator, store: valkey.Valkey, prefix: str) -> None:
    """On a cluster they are in a shard of their own, which may be away."""
    store.set(f"{prefix}:queues", "another program's")
    operator.producer.enqueue("x", queue="mail")
    operator.bury("mail", "why")
    assert operator.json("retry", "mail", "--all")["sent_again"] == 1
    assert operator.json("show", "mail")["ready"] == 1


async def test_a_queue_whose_shard_is_away_hides_no_other_in_the_list() -> None:
    class Away(Queues):
        def __init__(self) -> None:
            hanging = SimpleNamespace(connected=True)  # which was not noticed yet
            super().__init__(cast(Any, SimpleNamespace(sharded=True, shard=lambda key: hanging)), Layout("gw"))

        async def names(self) -> list[str]:
            return ["first", "second"]

        async def overview(self, queue: str) -> Overview:
            if queue == "first":
                raise Unavailable("the shard is away")
            return Overview(**dict.fromkeys(Overview.__struct_fields__, 0) | {"by_priority": []})

    first, second = (await queue_list(Away())).fields["queues"]
    assert (first, second["ready"]) == ({"queue": "first", "error": "the shard is away"}, 0)


def test_a_queue_that_is_not_there_is_warned_of(operator: Operator) -> None:
    operator.producer.enqueue("x", queue="mail")
    begun = [operator.begin(*words.split()) for words in ("show mial", "dead mial --json", "retry mial --all", "purge mial ready --yes")]
    for outcome in (each() for each in begun):
        assert (outcome.status, outcome.error) == (0, "gateway: warning: there is no queue mial yet; the queues are mail\n")


def test_a_data_dir_that_names_another_valkey_is_warned_of(operator: Operator, valkey_url: str) -> None:
    """The variable GATEWAY_VALKEY_URL is set as well: an operator took the jobs of one Valkey for those of the other."""
    operator.producer.enqueue("x", queue="mail")
    begun = [operator.begin(*words.split(), "--data-dir", "/nowhere") for words in ("list", "purge mail ready --yes")]
    for outcome in (each() for each in begun):
        assert (outcome.status, outcome.error) == (
            0,
            f"gateway: warning: --data-dir has no effect: valkey_url is set, and the Valkey is {Address(valkey_url)}\n",
        )


def test_more_jobs_than_one_page_are_shown(operator: Operator) -> None:
    for number in range(450):
        operator.producer.enqueue("x", number, queue="long")
    shown = operator.json("show", "long", "--limit", "430", "--state", "ready")["jobs"]
    assert [job["data"] for job in shown] == list(range(430))


def test_no_control_character_reaches_the_terminal(operator: Operator, store: valkey.Valkey) -> None:
    """Not of data, names, reasons, results and keys, nor of what another program wrote in their place."""
    name = "n\x9b31m\u202e"  # what a name may hold
    raw = json.dumps({"text": ESCAPES}, ensure_ascii=False)
    operator.producer.enqueue(name, {"text": ESCAPES}, queue="q\u202e", key=name, serial=name, result_ttl=60)
    (id,) = operator.bury("q\u202e", ESCAPES)
    jobs = operator._layout.queue("q\u202e")[1]
    document = store.hget(jobs, id).replace(json.dumps({"text": ESCAPES}, separators=(",", ":")).encode(), raw.encode())
    store.hset(jobs, id, document.replace(b',"data":', b',\n "data":\t'))
    store.hset(jobs, "foreign\x1b[2J", ESCAPES)
    store.zadd(operator._layout.queue("q\u202e")[7], {"foreign\x1b[2J": 1e18, "for ever": float("inf"), "never": float("-inf")})
    commands = [("list",), ("show", "q\u202e"), ("dead", "q\u202e"), ("show", "q\u202e", id), ("show", "q\u202e", "foreign\x1b[2J")]
    begun = [operator.begin(*words, *more) for words in commands for more in ((), ("--json",))]
    outcomes = [each() for each in begun]
    for outcome in outcomes:
        assert (outcome.out + outcome.error).replace("\n", "").isprintable(), outcome
    assert [outcome.status for outcome in outcomes] == [0] * 8 + [1, 1]
    (letter,) = [job for job in json.loads(outcomes[5].out)["jobs"] if job["id"] == id]
    assert (letter["name"], letter["failures"][0]["error"]) == (name, ESCAPES), "programs read what is there"


def test_a_queue_that_another_program_broke_is_listed_with_its_error(operator: Operator, store: valkey.Valkey) -> None:
    operator.producer.enqueue("x", queue="sound")
    operator.producer.enqueue("x", queue="broken")
    store.sadd(operator._layout.queues, "{braces}", b"\xff")
    store.delete(operator._layout.queue("broken")[1])
    store.set(operator._layout.queue("broken")[1], "text")
    outcome = operator.begin("list", "--json")()
    broken, sound = json.loads(outcome.out)["queues"]
    assert outcome.status == 0 and "{braces}" in outcome.error
    assert "WRONGTYPE" in broken["error"] and sound["ready"] == 1
    assert operator.begin("list")().out.splitlines()[1].startswith("broken  WRONGTYPE")


def test_lines_are_jobs_in_their_order_and_bad_ones_are_reported(operator: Operator) -> None:
    lines = b"1\nnonsense\n\n" + b"".join(b"%d\n" % number for number in range(2, 1000))
    outcome = run("queue", "enqueue", "x", "-", "--queue", "lines", stdin=lines, environment=operator.environment)
    assert outcome.status == 1 and outcome.out.startswith("enqueued 999, up to ")
    assert outcome.error.splitlines() == [
        "gateway: line 2 is not JSON: 'nonsense'; it was not enqueued",
        "gateway: 1 of 1000 lines were not JSON",
    ]
    taken = operator.json("show", "lines", "--limit", "1000", "--state", "ready")["jobs"]
    assert [job["data"] for job in taken] == list(range(1, 1000))
    large = b'"%s"\n' % (b"x" * (1 << 20))
    outcome = run("queue", "enqueue", "x", "-", stdin=b"1\n" + large, environment=operator.environment)
    assert outcome.error.splitlines()[0] == "gateway: line 2 was not enqueued; all before it were", "where to go on"
    run("queue", "enqueue", "x", "-", stdin=large, environment=operator.environment).fails(1, "at most 1048576 bytes")


# What cannot work: its words, its status and what its error names.
FAILURES: dict[str, tuple[str, int, str]] = {
    "data that is no JSON": ("enqueue x hello", 2, "DATA is not JSON"),
    "priority": ("enqueue x 1 --priority 10", 2, "priority is a whole number from 0 to 9"),
    "negative delay": ("enqueue x 1 --delay -1", 2, "delay is a number of seconds"),
    "delay": ("enqueue x 1 --delay soon", 2, "'soon' is not a duration"),
    "time without zone": ("enqueue x 1 --at 2026-12-24T18:00", 2, "has no time zone"),
    "no time": ("enqueue x 1 --at tomorrow", 2, "'tomorrow' is no time"),
    "queue": ("enqueue x 1 --queue {q}", 2, "without braces"),
    "no number": ("enqueue x 1 --timeout nan", 2, "timeout is a number of seconds"),
    "key of many": ("enqueue x - --key k", 2, "--key is for one job"),
    "result of many": ("enqueue x - --wait", 2, "--wait is for one job"),
    "no result": ("enqueue x 1 --wait --result-ttl 0", 2, "--result-ttl 0"),
    "queue to show": ("show {q}", 2, "without braces"),
    "state of one": ("show mail some-id --state ready", 2, "--state is for a list of jobs"),
    "no such job": ("show mail some-id", 1, "queue mail has no job some-id"),
    "what to retry": ("retry mail", 2, "or give --all"),
    "where to read on": ("retry mail", 2, " queue retry --help)"),
    "all and one": ("retry mail some-id --all", 2, "or give --all"),
    "purge of what runs": ("purge mail running --yes", 2, "'running'"),
    "purge without a terminal": ("purge mail ready", 2, "give --yes"),
    "watch without a terminal": ("list --watch", 2, "--watch needs a terminal"),
    "nobody serves": ("list --data-dir /nowhere", 1, "no gateway runs on /nowhere"),
}


def test_what_cannot_work_is_one_line_and_its_status(operator: Operator) -> None:
    own = operator.environment
    begun = {}
    for name, (words, _, _) in FAILURES.items():
        operator.environment = own if name != "nobody serves" else {}
        begun[name] = operator.begin(*words.split())
    for name, (_, status, sentence) in FAILURES.items():
        begun[name]().fails(status, sentence)


# At a terminal.


@contextlib.contextmanager
def at_a_terminal(operator: Operator, *words: str, columns: int = 200) -> Iterator[tuple[Program, Callable[[str], str], int]]:
    """A command whose input, output and errors are a terminal; ``seen(text)`` is what it wrote when this text is there."""
    ours, theirs = pty.openpty()
    terminal = Path(os.ttyname(theirs))
    environment = operator.environment | {"TERM": "xterm", "COLUMNS": str(columns)}
    program = Program("gateway.cli", terminal, terminal, "queue", *words, environment=environment, given=terminal)
    written = b""

    def seen(text: str) -> str:
        nonlocal written
        until = time.monotonic() + 20
        while text not in written.decode(errors="replace"):
            assert select.select([ours], [], [], until - time.monotonic())[0], written
            written += os.read(ours, 65536)
        return written.decode()

    try:
        yield program, seen, ours
    finally:
        program.kill()
        program.wait()
        os.close(ours)
        os.close(theirs)


def test_a_live_view_shows_what_changes_and_ends_at_control_c(operator: Operator) -> None:
    operator.producer.enqueue("x", queue="mail")
    with at_a_terminal(operator, "list", "--watch") as (program, seen, _):
        seen("mail")
        operator.producer.enqueue("x", queue="another")
        seen("another")
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 0
        assert "Traceback" not in seen("another")


def test_the_ids_of_jobs_are_whole_at_a_narrow_terminal(operator: Operator) -> None:
    operator.producer.enqueue("reports.monthly.of.all.shops", queue="mail")
    (id,) = operator.bury("mail", f"{'long ' * 100}\nTraceback")
    with at_a_terminal(operator, "dead", "mail", columns=80) as (program, seen, _):
        assert program.wait(10) == 0
        shown = seen("long")
    assert id in shown and "reports.mo" in shown and "Traceback" not in shown


def test_a_live_view_in_json_is_a_line_each_time(operator: Operator) -> None:
    operator.producer.enqueue("x", queue="mail")
    with process("queue", "show", "mail", "--watch", "--json", environment=operator.environment) as watching:
        assert [json.loads(watching.line())["ready"] for _ in range(2)] == [1, 1]
        ended = watching.end()
    assert (ended.status, ended.error) == (0, "")


@pytest.mark.parametrize("answer, status, late, left", [("n", 1, 1, 1501), ("y", 0, 7, 7)])
def test_a_purge_asks_at_a_terminal(operator: Operator, answer: str, status: int, late: int, left: int) -> None:
    operator.strays("mail", 1500)
    with at_a_terminal(operator, "purge", "mail", "dead") as (program, seen, terminal):
        seen("Remove 1,500 dead letters of queue mail?")
        operator.strays("mail", late)  # those that come meanwhile are not meant
        os.write(terminal, f"{answer}\n".encode())
        assert "Traceback" not in seen("removed 1500 dead letters" if answer == "y" else "gateway: interrupted")
        assert program.wait(10) == status
    assert operator.json("list")["queues"][0]["dead_letters"] == left


# gateway worker.

SHOP = """
import os
from gateway.work import Worker
worker = Worker(queues=["elsewhere"])
other = 17
URL = "valkey://:secret@localhost"
idle = Worker()

@worker.job("double")
async def double(job, data: int) -> dict:
    return {"double": 2 * data, "folder": os.getcwd()}
"""


def test_a_worker_runs_jobs_whose_results_a_command_waits_for(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    words = [*GATEWAY, "worker", "shop:worker", "--queue", "mail", "--concurrency", "2"]
    with subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT | operator.environment, stderr=subprocess.PIPE) as working:
        try:
            wait_until(lambda: any(queue["workers"] for queue in operator.json("list")["queues"]), "the worker works")
            result = operator("enqueue", "double", "21", "--queue", "mail", "--wait")
            assert json.loads(result) == {"double": 42, "folder": str(tmp_path)}
            assert operator.json("enqueue", "double", "1", "--queue", "mail", "--wait")["result"]["double"] == 2
            waiting = operator.begin("enqueue", "double", '"x"', "--queue", "mail", "--wait")
            waiting().fails(1, "int")
        finally:
            working.send_signal(signal.SIGTERM)
            _, log = working.communicate(timeout=30)
    assert working.returncode == 0 and b"Traceback" not in log, log


def test_a_command_that_waits_says_that_no_worker_works(operator: Operator) -> None:
    with process("queue", "enqueue", "double", "1", "--queue", "mail", "--wait", environment=operator.environment) as waiting:
        warning = waiting.complaint()
        (id,) = operator.bury("mail", "too late")
        assert warning == f"gateway: no worker works on queue mail now; job {id} waits for one\n"
        assert waiting.complaint() == "gateway: too late\n"


# The place of a worker, what is wrong with it.
PLACES = {
    "shop": "is not MODULE:NAME",
    "shop:": "is not MODULE:NAME",
    "shoop:worker": "there is no module 'shoop' in .*; did you mean 'shop'",
    "pack.jops:worker": r"there is no module 'pack\.jops' in .*; did you mean 'jobs'",
    "nowhere.at.all:worker": "there is no module 'nowhere' in ",
    "shop:wroker": "shop:wroker is not there; did you mean 'worker'",
    "shop:other": "shop:other is 17, which is no Worker; its workers are worker, idle",
    "shop:URL": "shop:URL is of the type str, which is no Worker; its workers are worker, idle",
    "shop:idle": "shop:idle has no handler",
    "empty:worker": "the module has no Worker",
    "broken:worker": r"module broken cannot be imported: NameError: name 'undefined' is not defined \(.*broken.py, line 2\)",
    "lacking:worker": r"module lacking cannot be imported: ModuleNotFoundError: No module named 'absent' \(.*lacking.py, line 1\)",
    "wrong:worker": r"module wrong cannot be imported: SyntaxError: ",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_worker_that_is_not_there_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    for file, text in {
        "shop.py": SHOP,
        "empty.py": "",
        "broken.py": "1\nundefined\n",
        "lacking.py": "import absent\n",
        "wrong.py": "def\n",
        "pack/__init__.py": "",
        "pack/jobs.py": "",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("shop", "empty", "broken", "lacking", "wrong", "pack", "pack.jobs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises((GatewayError, click.UsageError), match=PLACES[place]) as raised:
        worker_command.main([place, "--valkey-url", "valkey://127.0.0.1:1"], standalone_mode=False)
    assert "\n" not in str(raised.value).strip() or place == "wrong:worker"


def test_a_gateway_that_starts_does_not_import_what_workers_terminals_and_readers_need() -> None:
    code = "import sys, gateway.cli, gateway.serve.server; print(*sys.modules)"
    loaded = {*subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()}
    assert not loaded & {
        "rich",
        "markdown_it",
        "pygments",
        "gateway.cli.queue_views",
        *(f"gateway.work.{name}" for name in ("worker", "engine", "handlers", "processes", "periodic")),
    }
