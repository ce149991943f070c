"""What ``gateway doctor`` runs: all of ``gateway check``, then what it was asked about, the way to the gateway, Valkey, and this machine.

It changes nothing: it reads, and what it sends to a gateway follows no channel and publishes nothing.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from ...auth.tokens import claimed_channel, mint
from ...config import Config
from ...control.revocations import Revocations
from ...errors import GatewayError, StoreError
from ...serve.first_run import with_secrets
from ...store.access import Commands, make_commands
from ...store.connect import Address
from ...store.embedded import configured_url
from ...store.history import History
from ...store.layout import Layout
from ..check import Report, check_settings, read_settings
from ..options import run_async
from ..programs import with_served_origins
from .access_check import Asked, check_access, check_origin
from .diagnosis import Diagnosis, Finding, Weight
from .machine_check import UNLIMITED, Load, machine_findings, read_machine
from .probes import Unanswered
from .proxy_check import Seen, Way, check_way, read_view
from .target import Target
from .valkey_check import read_server, server_findings

__all__ = ["Question", "run_doctor"]

PROBE_SECONDS = 180  # for which the token is valid that connects through the proxy
ANNOUNCED_SECONDS = 3.0  # a longer wait is announced to people
NOWHERE = "unix:///nowhere"  # of commands that are never sent
ANY_HOST = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # where a gateway that listens on all addresses is asked


class Question(NamedTuple):
    """What the command was given. ``target`` is the proxy's, None for none; ``wait`` bounds in seconds how long a connection is held."""

    config: str | None
    valkey_url: str | None
    data_dir: str | None
    asked: Asked
    target: Target | None
    wait: float


def run_doctor(question: Question, *, as_json: bool) -> int:
    """Prints what it found; returns the exit status, which is 1 if there is a fault."""
    diagnosis = Diagnosis()
    settings, report = read_settings(question.config, valkey_url=question.valkey_url, data_dir=question.data_dir)
    if settings is not None:
        run_async(_examine(settings, question, report, diagnosis))
    else:
        diagnosis.add(*(Finding(Weight.FAULT, fault) for fault in report.faults))
    print(diagnosis.as_json() if as_json else diagnosis.as_text())
    return 0 if diagnosis.is_well else 1


async def _examine(given: Config, question: Question, report: Report, diagnosis: Diagnosis) -> None:
    await check_settings(given, "gateway", report, loads=False)
    diagnosis.fine |= report.fine
    diagnosis.add(*(Finding(Weight.FAULT, fault) for fault in report.faults), *report.doubts)
    config = _complete(given, question)
    if question.asked.origin:
        host = question.target.authority if question.target is not None else ""
        check_origin(config, question.asked.origin, host, diagnosis)
    await _check_valkey_and_access(config, question.asked, diagnosis)
    seen = await _check_the_way(config, question, diagnosis)
    _check_machine(config, seen, question.target, diagnosis)


def _complete(given: Config, question: Question) -> Config:
    """As ``gateway serve`` has them: with the secrets of a first run and the origins of this machine's pages."""
    served = with_served_origins(given, question.config)
    try:
        return with_secrets(served, make=False)
    except GatewayError:
        return served  # the fault is reported by the check of the settings


# Valkey, and what it remembers of tokens.


async def _check_valkey_and_access(config: Config, asked: Asked, diagnosis: Diagnosis) -> None:
    commands = await _connected(config)
    revocations = Revocations(History(commands or make_commands(Address(NOWHERE)), Layout(config.prefix)))
    if commands is None:
        diagnosis.untried.append("Valkey's settings, and which tokens were revoked: it cannot be reached")
    else:
        try:
            await _check_servers(commands, not config.valkey_url, diagnosis)
            await revocations.load()
        except StoreError as error:
            diagnosis.untried.append(f"some of Valkey's settings, or which tokens were revoked: {error}")
        finally:
            await commands.close()
    await check_access(config, asked, revocations, diagnosis)


async def _connected(config: Config) -> Commands | None:
    """Commands for Valkey; None where it cannot be reached, a fault that the check of the settings reports."""
    try:
        commands = make_commands(Address(configured_url(config)))
        await commands.start()
    except GatewayError:
        return None
    return commands


async def _check_servers(commands: Commands, embedded: bool, diagnosis: Diagnosis) -> None:
    """Raises StoreError. What is wrong with some shards of a cluster names them."""
    found: dict[Finding, list[str]] = {}
    answering = [shard for shard in commands.shards if shard.connected]  # the others are faults that the check of the settings reports
    for shard in answering:
        facts = await read_server(shard)
        for finding in server_findings(facts, embedded=embedded):
            found.setdefault(finding, []).append(facts.name)
        if facts.settings is None:
            sentence = f"the output buffer limits and snapshots of {facts.name}: CONFIG GET is refused"
            diagnosis.untried.append(f"{sentence}; --valkey-url takes the login of an administrator")
    for finding, names in found.items():
        where = "" if len(names) == len(answering) else f" (at {', '.join(names)})"
        diagnosis.add(finding._replace(sentence=finding.sentence + where))


# The way to the gateway.


async def _check_the_way(config: Config, question: Question, diagnosis: Diagnosis) -> Seen | None:
    """Through the proxy that was named, or straight to the gateway of this configuration, of which then only its limits are read."""
    if question.target is None:
        return await _look_at_the_gateway(config)
    token = _token_for_probes(config, question.asked)
    if question.wait > ANNOUNCED_SECONDS and sys.stderr.isatty():
        print(f"waiting up to {question.wait:g} s for a ping through {question.target.url} …", file=sys.stderr)
    message_bytes = config.limits.message_bytes
    way = Way(question.target, config.api_keys, token, question.asked.origin, question.wait, message_bytes)
    return await check_way(way, diagnosis) or await _look_at_the_gateway(config)


def _token_for_probes(config: Config, asked: Asked) -> str:
    """A token of an anonymous client, which subscribes to nothing, if the secret to make one is here; else the connection token that was given, if any."""
    tokens = config.tokens
    if tokens.hmac_secret:
        return mint(tokens.hmac_secret, seconds=PROBE_SECONDS, audience=tokens.audience, issuer=tokens.issuer)
    return next((token for token in asked.tokens if not claimed_channel(token)), "")


async def _look_at_the_gateway(config: Config) -> Seen | None:
    host = ANY_HOST.get(config.host, config.host)
    try:
        seen = await read_view(Target(bool(config.tls_cert), host, config.port, checks=False), config.api_keys)
    except Unanswered:
        return None
    return seen if isinstance(seen, Seen) else None


# This machine.


def _check_machine(config: Config, seen: Seen | None, target: Target | None, diagnosis: Diagnosis) -> None:
    machine, whose = read_machine(), "this shell's"
    connections, workers = config.limits.connections, config.workers
    if seen is not None:
        process = seen.view.process
        machine, whose = machine._replace(descriptors=process.descriptors or UNLIMITED), "the gateway's"
        connections, workers = process.connections, process.workers
    else:
        diagnosis.untried.append(
            f"the limits of a running gateway: none answers at {config.host}:{config.port} (host, port); those of this shell were read instead"
        )
    proxied = bool(config.trusted_proxies) or (target is not None and not (seen is not None and seen.is_direct))
    diagnosis.add(*machine_findings(machine, Load(connections, workers, proxied), whose=whose))
    diagnosis.fine["machine"] = (
        f"{whose} file descriptors are {'unlimited' if machine.descriptors == UNLIMITED else f'{machine.descriptors:,}'}"
    )
