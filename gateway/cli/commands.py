"""The command line. Exit status 0 on success, 2 for wrong use, 1 otherwise; errors are one line on standard error.

Modules that bring the web server or the token library are imported inside the commands that need them: they would double the
time that ``gateway publish`` takes to start.
"""

from __future__ import annotations

import contextlib
import json
import sys

import click

from .. import __version__
from ..channel_rules import parse_duration
from ..config import Config, load
from ..errors import ConfigurationError, GatewayError
from ..publication import Position
from ..runtime.logs import printable
from ..serve.first_run import with_secrets
from ..store.access import make_commands
from ..store.connect import Address
from ..store.embedded import configured_url
from ..store.history import History
from ..store.layout import Layout
from ..store.library import Library, rules_of
from ..store.rights import ROLES, acl_line, rights_of
from .arguments import check_channels, document_of, position_of
from .bench_command import bench
from .doctor_command import doctor
from .options import config_option, data_dir_option, json_option, line_of, load_for_valkey, run_async, settings_options, since_option
from .programs import demo, relay, serve
from .publish import publish
from .queue_commands import queue
from .recipe_command import recipe_command
from .restored_command import restored
from .standard_output import write_output
from .worker_command import worker

__all__ = ["main"]

PAGE = 500


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gateway")
def app() -> None:
    """A real-time notification gateway, native to Valkey."""


for command in (serve, demo, relay, worker, publish, queue, bench, recipe_command, doctor, restored):
    app.add_command(command)


@app.command()
@click.argument("channels", nargs=-1, required=True)
@since_option
@click.option("--last", type=click.IntRange(min=0), default=0, metavar="N", help="Start N publications back.")
@settings_options
def subscribe(
    channels: tuple[str, ...], since: str | None, last: int, config: str | None, valkey_url: str | None, data_dir: str | None
) -> None:
    """Follow channels: one JSON line a publication. It resumes by itself, and prints what it missed meanwhile."""
    check_channels(list(channels))
    position = position_of(since)
    if position is not None and len(channels) > 1:
        raise click.UsageError("--since is a position in one channel; name one channel")
    from .follow import follow

    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    with contextlib.suppress(KeyboardInterrupt):  # the ordinary end
        run_async(follow(settings, configured_url(settings), list(dict.fromkeys(channels)), position, last))


@app.command()
@click.argument("channel")
@since_option
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="Print at most N publications; 0: all.")
@click.option("--reverse", is_flag=True, help="Newest first.")
@settings_options
def history(
    channel: str, since: str | None, limit: int, reverse: bool, config: str | None, valkey_url: str | None, data_dir: str | None
) -> None:
    """Print a channel's history: one JSON line a publication."""
    check_channels([channel])
    position = position_of(since)
    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    run_async(_print_history(settings, channel, position, limit, reverse))


async def _print_history(config: Config, channel: str, since: Position | None, limit: int, reverse: bool) -> None:
    layout = Layout(config.prefix)
    commands = make_commands(Address(configured_url(config)), functions=Library(None, layout.prefix))
    await commands.start()
    try:
        store = History(commands, layout)
        offset, left, epoch = since.offset if since else 0, limit or sys.maxsize, since.epoch if since else ""
        while left > 0:
            page = await store.read(channel, offset, min(PAGE, left), reverse=reverse)
            if epoch and page.top.epoch != epoch:
                seen = since or f"what was printed, of epoch {epoch},"
                raise GatewayError(f"the history of {channel} began anew: it is at {page.top}, and {seen} is of another life")
            epoch = page.top.epoch
            for publication in page.publications:
                print(line_of(channel, epoch, publication))
            if not page.publications:
                return
            offset = page.publications[-1].offset
            left -= len(page.publications)
            if reverse and offset == 1:
                return
    finally:
        await commands.close()


@app.command()
@click.option("--user", required=True, metavar="U", help="The user's id; empty for an anonymous client.")
@click.option(
    "--expires", default="1h", show_default=True, metavar="DURATION", help='How long it is valid: as in 90s, 30m, 1h, 30d; "" for ever.'
)
@click.option("--channel", metavar="C", help="A subscription token for this channel.")
@click.option("--info", metavar="JSON", help="What others see of the user.")
@config_option
@data_dir_option
def token(user: str, expires: str, channel: str | None, info: str | None, config: str | None, data_dir: str | None) -> None:
    """Make a token and print it."""
    from ..auth.tokens import mint

    try:
        seconds = parse_duration(expires)
    except ValueError as error:
        raise click.UsageError(f"--expires: {error}") from None
    document = None if info is None else json.loads(document_of(info, "--info"))
    if channel is not None:
        check_channels([channel])
    settings = with_secrets(load(config, data_dir=data_dir), make=False)
    if not settings.tokens.hmac_secret:
        raise ConfigurationError(
            f'no tokens.hmac_secret is configured, and none is stored in {settings.data_path}; run "gateway serve" once, or set it'
        )
    if settings.tokens.algorithms and "HS256" not in settings.tokens.algorithms:
        raise ConfigurationError("tokens.algorithms does not allow HS256, with which this command signs: gateways would refuse the token")
    print(
        mint(
            settings.tokens.hmac_secret,
            user=user,
            seconds=seconds,
            channel=channel or "",
            info=document,
            audience=settings.tokens.audience,
            issuer=settings.tokens.issuer,
        )
    )


@app.command()
@click.option("--role", type=click.Choice(list(ROLES)), default="gateway", show_default=True, help="What the user of Valkey is for.")
@json_option
@settings_options
def check(role: str, as_json: bool, config: str | None, valkey_url: str | None, data_dir: str | None) -> int:
    """Check the configuration, the link to Valkey and the user's rights there; reports everything that is wrong at once."""
    from .check import run_check

    return run_check(config, valkey_url=valkey_url, data_dir=data_dir, as_json=as_json, role=role)


@app.command()
@click.argument("roles", nargs=-1, type=click.Choice(list(ROLES)))
@config_option
def rights(roles: tuple[str, ...], config: str | None) -> None:
    """Print the commands that make users of Valkey with the least rights, for valkey-cli; without ROLES, one user for each."""
    settings = load(config)
    for role in roles or ROLES:
        bridges, console = (settings.bridges, settings.has_console) if role == "gateway" else ((), False)
        print(acl_line(role, rights_of(role, settings.prefix, bridges, console=console)))


@app.command()
@settings_options
def install(config: str | None, valkey_url: str | None, data_dir: str | None) -> None:
    """Load the gateway's functions and the rules of the channels into Valkey, for gateways whose user of Valkey may not load them."""
    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    run_async(_install(settings, Address(configured_url(settings))))


async def _install(config: Config, address: Address) -> None:
    commands = make_commands(address)
    await commands.start()
    try:
        await Library(rules_of(config.channels, config.namespaces), config.prefix).install(commands)
        print(f"the functions and the rules of prefix {config.prefix} are in Valkey at {address}")
    finally:
        await commands.close()


def main() -> None:
    """The program ``gateway``."""
    # SIGPIPE stays ignored: it would end a program that writes to a Valkey which is just going away. click ends
    # `gateway history … | head` in silence.
    try:
        status = app(standalone_mode=False)
        write_output()
    except click.exceptions.NoArgsIsHelpError as error:  # a command that was given nothing to do explains itself
        print(error.format_message())
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "gateway"
        _fail(f"{error.format_message()} (see {command} --help)", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 1)
    except BrokenPipeError:
        sys.exit(1)
    except (GatewayError, OSError, UnicodeEncodeError) as error:  # the last: a standard output in another encoding
        _fail(str(error), 1)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    with contextlib.suppress(OSError):  # of what was printed before
        write_output()
    print(f"gateway: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)
