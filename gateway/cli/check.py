"""``gateway check``: everything that is wrong with a configuration and its Valkey, at once."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..auth.fingerprint import fingerprint
from ..auth.keys import Keys
from ..auth.tokens import SHORT_SECRET
from ..config import Config, examine
from ..control.secrets_check import differing
from ..errors import ConfigurationError, GatewayError, NotPermitted
from ..runtime import tracing
from ..runtime.logs import printable
from ..serve.certificate import certificate_end, certificate_fault
from ..serve.first_run import with_secrets
from ..store.access import Commands, make_commands
from ..store.connect import Address
from ..store.embedded import configured_url
from ..store.layout import Layout
from ..store.library import Library
from ..store.link import Link
from ..store.rights import ROLES, Rights, rights_of
from ..store.tls_options import tls_options
from ..work.bridges import slot_fault
from .check_rights import check_rights
from .check_shards import check_shards
from .doctor.diagnosis import Finding, Weight
from .doctor.valkey_check import doubts_of_a_server, facts_of
from .options import run_async

__all__ = ["Report", "check_settings", "read_settings", "run_check"]

RENEWAL_DAYS = 14  # certbot renews 30 days before the end, so nothing has renewed it


@dataclass
class Report:
    """What was found. ``fine`` is what works, by its name; ``faults`` are a sentence each, ``doubts`` warnings with the line that ends them.

    ``server_doubts`` are those about Valkey's own settings, which ``gateway doctor`` judges by more than INFO.
    """

    fine: dict[str, str] = field(default_factory=dict)
    doubts: list[Finding] = field(default_factory=list)
    server_doubts: list[Finding] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """The sentences of the doubts, each once."""
        return list(dict.fromkeys(doubt.sentence for doubt in (*self.doubts, *self.server_doubts)))

    def warn(self, sentence: str, change: str = "") -> None:
        self.doubts.append(Finding(Weight.WARNING, sentence, change))


def run_check(config: str | None, *, valkey_url: str | None, data_dir: str | None, as_json: bool, role: str = "gateway") -> int:
    """Prints what it found; returns the exit status, which is 1 if anything is wrong. Warnings do not count.

    ``role`` is what the user of Valkey is for, one of ``store.rights.ROLES``.
    """
    settings, report = read_settings(config, valkey_url=valkey_url, data_dir=data_dir)
    if settings is not None:
        run_async(check_settings(settings, role, report))
    if as_json:
        found = {"ok": not report.faults, "fine": report.fine, "warnings": report.warnings, "faults": report.faults}
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(report)
    return 1 if report.faults else 0


def read_settings(config: str | None, *, valkey_url: str | None, data_dir: str | None) -> tuple[Config | None, Report]:
    """The settings, None if they are wrong, and a report with what is wrong with them. From now on little is logged: it is in the report."""
    report = Report()
    for what in ("rights", "store", "link", "tokens"):  # what is missing, or away, is in the report
        logging.getLogger(f"gateway.{what}").setLevel(logging.CRITICAL)
    settings, report.faults = examine(config, valkey_url=valkey_url, data_dir=data_dir)
    if settings is not None:
        report.fine["configuration"] = f"{config or 'defaults and environment'}, {len(settings.namespaces)} namespaces"
    return settings, report


def _print(report: Report) -> None:
    for name, text in report.fine.items():
        print(f"{name:<15} fine ({text})")
    for warning in report.warnings:
        print(f"{'warning':<15} {warning}")
    sys.stdout.flush()
    for fault in report.faults:
        print(f"gateway: {printable(' '.join(fault.split()))}", file=sys.stderr)


async def check_settings(given: Config, role: str, report: Report, *, loads: bool = True) -> None:
    """Checks what the settings name: secrets, keys, certificates, Valkey. A fault of one does not hide those of the others.

    ``loads``: the gateway's functions are loaded into a Valkey that lacks them; without it that is a fault.
    """
    config = given
    try:
        config = with_secrets(given, make=False)
        await _check_key_server(Keys(config.tokens), report)
    except GatewayError as error:
        report.faults.append(str(error))
    report.faults += filter(None, [certificate_fault(config)])
    _check_certificate(config, report)
    report.faults += _trace_faults(config)
    _doubt_settings(config, report)
    try:
        await _check_valkey(config, configured_url(config), role, report, loads=loads)
    except GatewayError as error:
        report.faults.append(str(error))


async def _check_key_server(keys: Keys, report: Report) -> None:
    """A gateway starts without it, and refuses all tokens that it has the keys for."""
    if not keys.has_url:
        return
    await keys.learn()
    if keys.fault:
        report.warn(f"tokens.jwks_url cannot be read from here: {keys.fault}")
    elif not keys.fetched:
        report.warn("tokens.jwks_url answers no key that can be used")
    else:
        report.fine["key server"] = f"{keys.fetched} key{'s' * (keys.fetched != 1)} can be used"


def _check_certificate(config: Config, report: Report) -> None:
    """Whether it is still valid; a gateway starts with one that is not."""
    if (end := certificate_end(config)) is None:
        return
    days = (end - datetime.now(UTC)).total_seconds() / 86400
    if days <= 0:
        report.faults.append(
            f"the certificate in tls_cert was valid until {end:%Y-%m-%d}: clients refuse it; renew it, and restart the gateways"
        )
    elif days < RENEWAL_DAYS:
        report.warn(f"the certificate in tls_cert is valid until {end:%Y-%m-%d}", "renew it, and restart the gateways after that")


def _trace_faults(config: Config) -> list[str]:
    try:
        with tracing.started(config.telemetry.traces):
            return []
    except GatewayError as error:
        return [str(error)]


def _doubt_settings(config: Config, report: Report) -> None:
    """Warns of settings that work and are risky."""
    if config.insecure.clients:
        report.warn("insecure.clients is on: anybody may connect and do anything", "insecure.clients = false")
    if config.insecure.api:
        report.warn("insecure.api is on: anybody may call the server API", "insecure.api = false")
    if 0 < len(config.tokens.hmac_secret.encode()) < SHORT_SECRET:
        report.warn(
            f"tokens.hmac_secret is short; {SHORT_SECRET} bytes or more are safe", f"tokens.hmac_secret: openssl rand -hex {SHORT_SECRET}"
        )
    if any(secret != secret.strip() for secret in (config.tokens.hmac_secret, *config.tokens.previous_hmac_secrets)):
        report.warn(
            "tokens.hmac_secret, or one of tokens.previous_hmac_secrets, begins or ends with white space, as the end of a file's last line: a "
            "backend whose secret does not makes tokens that are refused"
        )
    if config.valkey_url and config.valkey_port:
        report.warn("valkey_port has no effect: it is of the embedded Valkey, and valkey_url names another", "valkey_port = 0")
    if "pong_seconds" in config.model_fields_set and config.pong_seconds > 0.9 * config.ping_seconds:
        report.warn(
            f"pong_seconds = {config.pong_seconds:g} has no effect: a ping is answered before the next one, within {0.9 * config.ping_seconds:g} s",
            f"ping_seconds = {math.ceil(config.pong_seconds / 0.9)}",
        )
    if "*" in config.allowed_origins:
        report.warn(
            "allowed_origins holds *: pages of any site may connect with a token of theirs, and as anonymous clients",
            'allowed_origins = ["https://app.example.org"]',
        )


def _doubt_tls(url: str, report: Report) -> None:
    """Warns of options of an address by which any server may take the place of Valkey, and learn the login."""
    options = tls_options(url)
    if options.get("ssl_cert_reqs", "required") == "none":
        report.warn(
            "valkey_url: with ssl_cert_reqs=none any server that takes the connection is believed to be Valkey, and is sent the login",
            "valkey_url: remove ssl_cert_reqs=none; ssl_ca_certs=FILE names the authority of your own certificates",
        )
    elif options and not options["ssl_check_hostname"]:
        report.warn(
            "valkey_url: the host in the server's certificate is not checked: whoever has a trusted certificate is sent the login",
            "valkey_url: remove ssl_check_hostname=false and ssl_cert_reqs=optional",
        )


def _doubt_database(address: Address, prefix: str, report: Report) -> None:
    """Warns of a number that separates keys, and nothing else: publications that are only announced would reach the other gateway's clients."""
    if address.database:
        report.warn(
            f"valkey_url: names database {address.database}, but Pub/Sub is one for all databases of a server: a gateway that has the prefix {prefix!r} "
            "in another database gets what is announced here, and is disconnected, revoked and subscribed with this one's clients",
            "prefix: another one for each gateway of the server",
        )


async def _check_valkey(config: Config, url: str, role: str, report: Report, *, loads: bool) -> None:
    address, rights = Address(url), ROLES[role]
    _doubt_tls(url, report)
    _doubt_database(address, config.prefix, report)
    # Without rules of its own: where the functions are older than this program, as after an upgrade, those of the gateways that run stay in force.
    commands = make_commands(address, functions=Library(None, config.prefix, loads=loads) if "fcall" in rights.commands else None)
    try:
        await commands.start()
    except NotPermitted as error:
        report.faults.append(str(error))
        await _check_rights(config, address, role, report)
        return
    try:
        serves = await _examine_servers(address, commands, report)
        if await _check_rights(config, address, role, report) and serves:
            await _check_bridges(config, commands, report)
            await _check_link(config, address, commands, rights, report)
            if role == "gateway":
                await _compare_keys(config, commands, report)
    finally:
        await commands.close()


async def _check_rights(config: Config, address: Address, role: str, report: Report) -> bool:
    """Whether the user of the address has the rights of the role; each that is missing is a fault."""
    bridges, console = (config.bridges, config.has_console) if role == "gateway" else ((), False)
    rights = rights_of(role, config.prefix, bridges, cluster=address.is_cluster, console=console)
    found = await check_rights(address, role, rights)
    report.faults += found.faults
    for warning in found.warnings:
        report.warn(warning)
    if found.complete:
        report.fine["rights"] = f"the user {address.user!r} of Valkey has all that a {role} needs"
    return not found.faults


async def _examine_servers(address: Address, commands: Commands, report: Report) -> bool:
    """What the servers say of themselves, and whether they take commands, which a cluster may not; a user that may not ask has a right
    missing, which is reported elsewhere."""
    serves = True
    try:
        infos = [(await shard.call("INFO", "server", "memory", "persistence")).decode() for shard in commands.shards if shard.connected]
        if commands.sharded:
            serves, fine, faults = await check_shards(commands)
            report.fine |= fine
            report.faults += faults
    except NotPermitted:
        return serves
    facts = [facts_of(text) for text in infos]
    versions = sorted({each.get("valkey_version") or each.get("redis_version") or "unknown" for each in facts})
    report.fine["valkey"] = f"{address}, version {' and '.join(versions)}"
    report.server_doubts += [doubt for each in facts for doubt in doubts_of_a_server(each)]
    return serves


async def _check_link(config: Config, address: Address, commands: Commands, rights: Rights, report: Report) -> None:
    if "subscribe" not in rights.commands:
        return
    link = Link(address, commands, Layout(config.prefix).own_channel("check"))
    try:
        began = time.perf_counter()
        await link.start()
        took = (time.perf_counter() - began) * 1000
        report.fine["live link"] = f"a heartbeat came through in {took:.1f} ms"
    finally:
        await link.close()


async def _compare_keys(config: Config, commands: Commands, report: Report) -> None:
    """A configuration without any key has nothing to compare: it is one of a machine where no gateway runs."""
    try:
        if not Keys(config.tokens):
            return
    except ConfigurationError:  # which is reported already
        return
    others = await differing(commands, config.prefix, fingerprint(config.tokens, config.prefix))
    if others:
        report.faults.append(
            f"{len(others)} of the gateways that run on this Valkey check tokens with other secrets or keys than this configuration "
            f"(processes {', '.join(others)}): give all gateways the same [tokens]"
        )
    else:
        report.fine["token keys"] = "the gateways that run have the same, or none runs"


async def _check_bridges(config: Config, commands: Commands, report: Report) -> None:
    """Shows each bridge. A List or Stream that is not there yet is one that nobody has used yet."""
    for bridge in config.bridges:
        if commands.sharded and (fault := slot_fault(bridge)):
            report.faults.append(fault)
            continue
        found = (await commands.call("TYPE", bridge.source)).decode()
        if bridge.kind in ("list", "stream") and found not in (bridge.kind, "none"):
            report.faults.append(f"bridge {bridge.title}: the key {bridge.source!r} is no {bridge.kind} but a {found}")
        else:
            report.fine[f"bridge {bridge.title}"] = f"{bridge.kind} {bridge.source} to {bridge.channel}"
