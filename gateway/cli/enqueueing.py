"""``gateway queue enqueue``: one job, or one a line from standard input, pipelined."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..channel_rules import parse_duration
from ..config import Config
from ..errors import GatewayError
from .arguments import document_of
from .input_lines import send_lines
from .options import json_option, load_for_valkey, open_queue, run_async, settings_options, warn_if_nobody_can_follow

if TYPE_CHECKING:
    from ..work import Queue

__all__ = ["enqueue"]

RESULT_SECONDS = 600  # for which --wait has the result stored


class Seconds(click.ParamType[float]):
    """A number of seconds, or a duration as in the configuration: 90, 0.5, 30s, 12h."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value)
        except ValueError:
            pass
        try:
            return float(parse_duration(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class When(click.ParamType[datetime | float]):
    """A time of day with its time zone (ISO 8601), or unix seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | float:
        try:
            return float(value)
        except ValueError:
            pass
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f'{value!r} is no time; write "2026-12-24T18:00+01:00", or unix seconds', param, ctx)
        if at.tzinfo is None:
            self.fail(f"{value!r} has no time zone; add Z or +01:00", param, ctx)
        return at


@click.command()
@click.argument("name")
@click.argument("data")
@click.option("--queue", default="default", show_default=True, metavar="Q", help="The queue.")
@click.option("--key", metavar="K", help="Unique among the jobs that wait or run: a second job with the same key is not enqueued.")
@click.option("--priority", type=int, metavar="P", help="0 (normal) to 9 (first).")
@click.option("--delay", type=Seconds(), metavar="S", help="How long until it is due: seconds, or as in 30s, 12h.")
@click.option("--at", type=When(), metavar="T", help="When it is due: 2026-12-24T18:00Z, or unix seconds.")
@click.option("--attempts", type=int, metavar="N", help="How often it is tried before it is a dead letter.")
@click.option("--timeout", type=Seconds(), metavar="S", help="How long one attempt may take.")
@click.option(
    "--expires",
    type=Seconds(),
    metavar="S",
    help="How long after it is due an attempt may begin; later it is a dead letter.",
)
@click.option("--result-ttl", type=Seconds(), metavar="S", help="How long its result is stored.")
@click.option("--channel", metavar="C", help="Where its progress is published.")
@click.option("--serial", metavar="S", help="Jobs of one serial key run one after another.")
@click.option("--wait", is_flag=True, help="Wait for the result, and print it.")
@json_option
@settings_options
def enqueue(
    name: str,
    data: str,
    queue: str,
    wait: bool,
    as_json: bool,
    config: str | None,
    valkey_url: str | None,
    data_dir: str | None,
    **given: Any,
) -> None:
    """Enqueue a job for the handler NAME; prints its id.

    DATA is JSON, or - for one JSON document a line from standard input, a job each.
    """
    options = {option: value for option, value in given.items() if value is not None}
    if data == "-":
        for option, value in {"--key": "key" in options, "--wait": wait}.items():
            if value:
                raise click.UsageError(f"{option} is for one job; it cannot be used with -")
    if wait:
        options["result_ttl"] = options.get("result_ttl", RESULT_SECONDS)
        if not options["result_ttl"]:
            raise click.UsageError("--wait prints the result, which --result-ttl 0 does not store")
    document = b"null" if data == "-" else document_of(data, "DATA")
    _check(name, document, queue, options)
    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    if data == "-":
        run_async(_enqueue_lines(settings, name, queue, options, as_json))
    else:
        run_async(_enqueue_one(settings, name, document, queue, options, wait, as_json))


def _check(name: str, document: bytes, queue: str, options: dict[str, Any]) -> None:
    """Raises click.UsageError for what cannot be a job, before anything is connected."""
    from ..work.jobs import check_queue_name, job_words

    try:
        check_queue_name(queue)
        job_words(name, msgspec.Raw(document), **options)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


async def _enqueue_one(config: Config, name: str, document: bytes, queue: str, options: dict[str, Any], wait: bool, as_json: bool) -> None:
    from .queue_views import json_line

    async with open_queue(config) as producer:
        await _check_channel(config, producer, options)
        job = await producer.enqueue(name, msgspec.Raw(document), queue=queue, **options)
        fields: dict[str, Any] = {"queue": queue, "id": job.id, "new": job.new}
        if wait:
            if not (await producer.queues.overview(queue)).workers:
                print(f"gateway: no worker works on queue {queue} now; job {job.id} waits for one", file=sys.stderr)
            fields["result"] = await job.result()
    if as_json:
        print(json_line(fields))
    elif wait:
        print(json_line(fields["result"]))
    else:
        print(job.id + ("" if job.new else "  (a job with this key waits or runs already)"))


async def _check_channel(config: Config, producer: Queue, options: dict[str, Any]) -> None:
    """Warns of progress that no client can follow."""
    if "channel" in options:
        await warn_if_nobody_can_follow(config, producer.queues.commands.call, options["channel"])


async def _enqueue_lines(config: Config, name: str, queue: str, options: dict[str, Any], as_json: bool) -> None:
    from .queue_views import json_line

    async with open_queue(config) as producer:
        await _check_channel(config, producer, options)

        async def send(document: bytes) -> str:
            try:
                return (await producer.enqueue(name, msgspec.Raw(document), queue=queue, **options)).id
            except ValueError as error:  # a document that is too large
                raise GatewayError(str(error)) from None

        sent = await send_lines("enqueued", send)
    if as_json:
        print(json_line({"queue": queue, "id": sent.last, "enqueued": sent.lines, "refused": sent.refused}))
    else:
        print(f"enqueued {sent.lines}" + (f", up to {sent.last}" if sent.last else ""))
    sent.check()
