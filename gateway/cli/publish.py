"""``gateway publish``: one document, or one a line from standard input, pipelined."""

from __future__ import annotations

import json

import click

from ..config import Config
from ..publication import Position
from ..store.layout import PublishOptions
from .arguments import check_channels, document_of
from .input_lines import send_lines
from .options import json_option, load_for_valkey, open_publisher, run_async, settings_options, warn_if_nobody_can_follow

__all__ = ["publish"]


@click.command()
@click.argument("channel")
@click.argument("data")
@click.option("--key", metavar="K", help="Idempotency key: a repeat publishes nothing.")
@click.option("--ephemeral", is_flag=True, help="Only to clients that are live now; history does not remember it.")
@json_option
@settings_options
def publish(
    channel: str,
    data: str,
    key: str | None,
    ephemeral: bool,
    as_json: bool,
    config: str | None,
    valkey_url: str | None,
    data_dir: str | None,
) -> None:
    """Publish to a channel; prints the position.

    DATA is JSON, or - for one JSON document a line from standard input.
    """
    check_channels([channel])
    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    options: PublishOptions = {"idempotency_key": key, "ttl": 0 if ephemeral else None}
    if data != "-":
        document = document_of(data, "DATA")
        run_async(_publish_one(settings, channel, document, options, as_json))
    else:
        if key is not None:
            raise click.UsageError("--key is for one document; it cannot be used with -")
        run_async(_publish_lines(settings, channel, options, as_json))


async def _publish_one(config: Config, channel: str, document: bytes, options: PublishOptions, as_json: bool) -> None:
    async with open_publisher(config) as publisher:
        await warn_if_nobody_can_follow(config, publisher.history.commands.call, channel)
        position = await publisher.publish(channel, document, raw=True, **options)
    if as_json:
        _print_json(channel, position)
    else:
        print(position if position is not None else "announced")


def _print_json(channel: str, position: Position | None, **more: int) -> None:
    """``position`` is what ``--since`` takes, null where the channel remembers nothing."""
    print(json.dumps({"channel": channel, "position": str(position) if position is not None else None, **more}, ensure_ascii=False))


async def _publish_lines(config: Config, channel: str, options: PublishOptions, as_json: bool) -> None:
    async with open_publisher(config) as publisher:
        await warn_if_nobody_can_follow(config, publisher.history.commands.call, channel)
        sent = await send_lines("published", lambda document: publisher.publish(channel, document, raw=True, **options))
    if as_json:
        _print_json(channel, sent.last, published=sent.lines, refused=sent.refused)
    else:
        print(f"published {sent.lines}" + (f", up to {sent.last}" if sent.last is not None else ""))
    sent.check()
