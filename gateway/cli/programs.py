"""The commands that run until they are ended: serve, relay, demo."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any

import click

from .. import __version__
from ..config import Config, Tokens, load
from ..errors import ConfigurationError
from ..origins import origin_fault
from ..runtime import tracing
from ..serve.first_run import DEMO_FILE, FILE, with_secrets
from ..store.connect import Address
from ..store.data_folder import DEMO
from ..store.embedded import EmbeddedServer, configured_url
from .log_setup import set_up_logging
from .options import Function, open_publisher, run_async, settings_options
from .standard_output import announce

__all__ = ["demo", "relay", "serve", "with_served_origins"]

# Pages of this machine: a newcomer's page comes from another port than the gateway's.
LOOPBACK_ORIGINS = [
    f"{scheme}://{host}{port}" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "[::1]") for port in ("", ":*")
]


def _listening(command: Function) -> Function:
    host = click.option("--host", metavar="H", help="Address to listen on.")
    port = click.option("--port", type=int, metavar="N", help="Port to listen on; 0 takes a free one.")
    return host(port(command))


@click.command()
@_listening
@click.option("--workers", type=int, metavar="N", help="Processes that share the port.")
@click.option(
    "--origin", "origins", multiple=True, metavar="URL", help="Let pages of this origin in, besides allowed_origins; may be repeated."
)
@settings_options
def serve(config: str | None, valkey_url: str | None, data_dir: str | None, origins: tuple[str, ...], **listening: Any) -> None:
    """Run the gateway."""
    from ..serve.server import serve as run

    for origin in origins:
        if fault := origin_fault(origin):
            raise click.UsageError(f"--origin: {fault}")
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir, **listening)
    settings = with_served_origins(settings, config, origins)
    complete = _prepared(settings)
    run(complete, _greeting(settings, complete, lambda url: f"{url}/{_token_fragment(settings, complete)}"))


def with_served_origins(settings: Config, file: str | None, origins: tuple[str, ...] = ()) -> Config:
    """The settings with all origins that ``gateway serve`` admits: ``origins`` too, and on a first run, without a ``file``, this machine's pages."""
    first_run = file is None and settings.listens_on_loopback and not settings.allowed_origins
    allowed = [*settings.allowed_origins, *origins, *(LOOPBACK_ORIGINS if first_run else ())]
    return settings.model_copy(update={"allowed_origins": allowed})


@click.command()
@_listening
@settings_options
def demo(config: str | None, valkey_url: str | None, data_dir: str | None, **listening: Any) -> None:
    """Run the gateway with a demo site: posts, reviews, reactions and notifications, made by simulated people."""
    from ..demo.backend import Demo
    from ..demo.reports import MISSING
    from ..demo.work import NAMESPACES
    from ..serve.server import serve as run

    settings = load(config, valkey_url=valkey_url, data_dir=data_dir, **listening)
    if settings.workers != 1:
        raise ConfigurationError("workers: the demo runs in one process")
    if not settings.data_dir:
        settings = settings.model_copy(update={"data_dir": str(settings.data_path / DEMO)})
    # Any visitor may act as any member: what the demo signs must not be valid at the real gateway, whatever is configured for that one.
    settings = settings.model_copy(update={"tokens": Tokens(), "namespaces": NAMESPACES | settings.namespaces})
    complete = _prepared(settings, DEMO_FILE)
    run(complete, _greeting(settings, complete, lambda url: f"{url}/demo/", DEMO_FILE, MISSING), [Demo(complete)])


@click.command()
@click.option("--database-url", metavar="URL", help="Database of the outbox; absent: SQLite in the data folder.")
@settings_options
def relay(config: str | None, valkey_url: str | None, data_dir: str | None, database_url: str | None) -> None:
    """Bring the database's tables up to date, and publish its outbox."""
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir, database_url=database_url)
    set_up_logging(settings)
    with tracing.started(settings.telemetry.traces):
        run_async(_relay(settings))


async def _relay(config: Config) -> None:
    from publishers.database import Database
    from publishers.migrator import migrate
    from publishers.relay_program import run_relay

    work = asyncio.current_task()
    assert work is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):  # the ordinary end
        async with Database(config.database_url, data_dir=config.data_path) as database:
            await migrate(database)
            async with open_publisher(config) as publisher:
                announce(f"the outbox of {database.name} is published to {Address(configured_url(config))}; Ctrl-C ends it")
                await run_relay(database, publisher.history)


def _prepared(settings: Config, file: str = FILE) -> Config:
    """The settings with the secrets of a first run, stored in ``file``; logging is set up."""
    complete = with_secrets(settings, make=True, file=file)
    set_up_logging(complete)
    return complete


def _token_fragment(settings: Config, complete: Config) -> str:
    from ..auth.tokens import mint

    if settings.tokens.hmac_secret or not complete.tokens.hmac_secret or complete.insecure.clients:
        return ""
    token = mint(complete.tokens.hmac_secret, user="you", seconds=86400, audience=complete.tokens.audience, issuer=complete.tokens.issuer)
    return f"#token={token}"


def _greeting(
    settings: Config, complete: Config, link: Callable[[str], str], file: str = FILE, missing: str = ""
) -> Callable[[str, EmbeddedServer | None], None]:
    def on_ready(url: str, embedded: EmbeddedServer | None) -> None:
        if embedded is None:
            where = str(Address(complete.valkey_url))
        else:
            where = f"embedded, {'adopted from an earlier run, ' if embedded.adopted else ''}data in {complete.data_path}"
        announce(f"gateway {__version__} is ready at {url}   (Valkey: {where})")
        announce(f"  open      {link(url)}")
        if not settings.api_keys and complete.api_keys:
            announce(f"  API key   {complete.api_keys[0]}   (stored in {complete.data_path / file})")
        if complete.has_console:
            announce(f"  console   {url}/admin/")
        if missing:
            announce(f"  missing   {missing}")
        announce("  Ctrl-C    ends it")

    return on_ready
