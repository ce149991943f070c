"""``gateway queue``: looks at work queues and mends them. ``queue_views`` prints what is found; it and rich are imported when they are needed."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from ..config import Config
from ..errors import GatewayError, StoreError
from ..runtime.logs import printable
from .enqueueing import enqueue
from .options import json_option, load_for_valkey, open_queue, run_async, settings_options

if TYPE_CHECKING:
    from ..work.queues import Overview, Queues
    from .queue_views import View

__all__ = ["queue"]

STATES = ("ready", "delayed", "running", "dead")


@click.group()
def queue() -> None:
    """Look at work queues, and mend them: their jobs, and their dead letters."""


queue.add_command(enqueue)


def _command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command of the group. Its first parameter is the configuration, which the shared options name."""

    def register(command: Callable[..., None]) -> click.Command:
        @functools.wraps(command)
        def run(config: str | None, valkey_url: str | None, data_dir: str | None, **options: Any) -> None:
            command(load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir), **options)

        return queue.command(name)(json_option(settings_options(run)))

    return register


def _queue_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    from ..work.jobs import check_queue_name

    try:
        return check_queue_name(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


_queue_argument = click.argument("name", metavar="QUEUE", callback=_queue_name)
_watch_option = click.option("--watch", is_flag=True, help="Show it anew each second, until Ctrl-C; with --json, a line a second.")
_limit_option = click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="Show at most N jobs.")


# Looking.


@_command("list")
@_watch_option
def list_queues(config: Config, as_json: bool, watch: bool) -> None:
    """List all queues, with how many jobs of each are in which state."""
    from .queue_views import queue_list

    _show(config, queue_list, as_json=as_json, watch=watch)


@_command("show")
@_queue_argument
@click.argument("job", metavar="[ID]", default="")
@click.option("--state", type=click.Choice(STATES), help="Only the jobs in this state.")
@_limit_option
@_watch_option
def show(config: Config, name: str, job: str, state: str | None, limit: int, as_json: bool, watch: bool) -> None:
    """Show the jobs of a queue, or one job with its data and its failures."""
    from .queue_views import jobs_of_queue, one_job

    if job and state:
        raise click.UsageError("--state is for a list of jobs; it cannot be used with an ID")
    states = (state,) if state else STATES

    async def look(queues: Queues) -> View:
        return await (one_job(queues, name, job) if job else jobs_of_queue(queues, name, states, limit))

    _show(config, look, as_json=as_json, watch=watch, name="" if job else name)


@_command("dead")
@_queue_argument
@_limit_option
@_watch_option
def dead(config: Config, name: str, limit: int, as_json: bool, watch: bool) -> None:
    """Show the dead letters of a queue, the newest first, with the reason of each."""
    from .queue_views import jobs_of_queue

    _show(config, lambda queues: jobs_of_queue(queues, name, ("dead",), limit), as_json=as_json, watch=watch, name=name)


def _show(config: Config, look: Callable[[Queues], Awaitable[View]], *, as_json: bool, watch: bool, name: str = "") -> None:
    from .queue_views import follow, print_view

    if watch and not as_json and not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal; with --json it prints a line a second anywhere")

    async def run() -> None:
        async with open_queue(config) as producer:
            if name:
                await _warn_of_no_queue(producer.queues, name)
            if watch:
                await follow(lambda: look(producer.queues), as_json=as_json)
            else:
                print_view(await look(producer.queues), as_json=as_json)

    with contextlib.suppress(KeyboardInterrupt) if watch else contextlib.nullcontext():  # the ordinary end
        run_async(run())


async def _warn_of_no_queue(queues: Queues, name: str) -> None:
    """Warns where there is no queue of this name: a misspelled queue looks like an empty one."""
    try:
        names = await queues.names()
    except StoreError:  # on a cluster they are in another shard than the queue, which may be away
        return
    if name not in names:
        there = f"the queues are {', '.join(names)}" if names else "there are none"
        print(printable(f"gateway: warning: there is no queue {name} yet; {there}"), file=sys.stderr)


# Mending.


@_command("retry")
@_queue_argument
@click.argument("jobs", metavar="[ID]…", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All dead letters.")
def retry(config: Config, name: str, jobs: tuple[str, ...], all_of_them: bool, as_json: bool) -> None:
    """Make dead letters jobs again, with all their attempts."""
    if bool(jobs) == all_of_them:
        raise click.UsageError("name the dead letters by their IDs, or give --all")
    run_async(_retry(config, name, jobs, as_json))


async def _retry(config: Config, name: str, jobs: tuple[str, ...], as_json: bool) -> None:
    from ..work.queues import RESENT_MOST
    from .queue_views import print_line, progress

    async with open_queue(config) as producer:
        await _warn_of_no_queue(producer.queues, name)
        if jobs:
            pages = [jobs[first : first + RESENT_MOST] for first in range(0, len(jobs), RESENT_MOST)]
            answers = [await producer.queues.resend(name, *page) for page in pages]
            sent, refused = sum(answer[0] for answer in answers), sum(answer[1] for answer in answers)
        else:
            most = (await producer.queues.overview(name)).dead_letters
            with progress("dead letters are sent again", most) as advance:
                sent, refused = await _send_all_again(producer.queues, name, most, advance)
    print_line({"queue": name, "sent_again": sent, "refused": refused}, f"sent {sent} again", as_json=as_json)
    if refused:
        raise GatewayError(f"{refused} were not sent again: they are no dead letters, or another job has their key")


async def _send_all_again(queues: Queues, name: str, most: int, advance: Callable[[int], None]) -> tuple[int, int]:
    """How many were sent, and how many cannot be: of the oldest ``most``, each once. Those that fail again meanwhile come after them."""
    sent = refused = skip = 0
    while left := most - sent - refused:
        done, cannot, skip = await queues.resend_oldest(name, left, skip=skip)
        if not done + cannot:
            break  # another operator was faster
        sent, refused = sent + done, refused + cannot
        advance(done + cannot)
    return sent, refused


@_command("cancel")
@_queue_argument
@click.argument("jobs", metavar="ID…", nargs=-1, required=True)
def cancel(config: Config, name: str, jobs: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs: one that waits is removed, one that runs is ended by its worker, a dead letter is removed."""
    run_async(_cancel(config, name, jobs, as_json))


_CANCELLED = {
    "cancelled": "cancelled",
    "running": "its worker ends it",
    "removed": "the dead letter is removed",
    "none": "there is no such job",
}


async def _cancel(config: Config, name: str, jobs: tuple[str, ...], as_json: bool) -> None:
    from .queue_views import print_line

    none = 0
    async with open_queue(config) as producer:
        for job in jobs:
            state = await producer.queues.cancel(name, job)
            none += state == "none"
            print_line({"queue": name, "id": job, "state": state}, f"{job}: {_CANCELLED[state]}", as_json=as_json)
    if none:
        raise GatewayError(f"{none} of {len(jobs)} are no jobs of queue {name}")


@_command("purge")
@_queue_argument
@click.argument("state", type=click.Choice(("ready", "delayed", "dead")))
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(config: Config, name: str, state: str, yes: bool, as_json: bool) -> None:
    """Remove all jobs of a queue that are ready or delayed, or all its dead letters. It asks first."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("purge removes jobs for good; where it cannot ask, give --yes")
    run_async(_purge(config, name, state, yes, as_json))


async def _purge(config: Config, name: str, state: str, yes: bool, as_json: bool) -> None:
    from .queue_views import print_line, progress

    async with open_queue(config) as producer:
        await _warn_of_no_queue(producer.queues, name)
        most = _count(await producer.queues.overview(name), state)
        what = "dead letters" if state == "dead" else f"{state} jobs"
        if not yes:
            click.confirm(f"Remove {most:,} {what} of queue {name}?", abort=True, err=True)
        removed, left = 0, most
        with progress(f"{what} are removed", most) as advance:
            while left and removed < most:  # those that come meanwhile are not meant
                done, left = await producer.queues.purge(name, state, most - removed)
                removed += done
                advance(done)
                if not done:
                    break
    print_line({"queue": name, "state": state, "removed": removed, "left": left}, f"removed {removed} {what}", as_json=as_json)


def _count(overview: Overview, state: str) -> int:
    return {"ready": overview.ready, "delayed": overview.delayed, "dead": overview.dead_letters}[state]
