"""The configuration: one TOML file, each key also an environment variable (``GATEWAY_PORT``,
``GATEWAY_TOKENS__HMAC_SECRET``), the command line above both.

The rest of the program sees ``Config`` alone. A namespace takes what it does not set itself from its built-in rules,
then from ``[channels]``; that is done here, so that the rest of the program asks ``config.rules(channel)``.
"""

from __future__ import annotations

from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from .bridging import BridgeRules, bridges_fault
from .channel_rules import (
    ALERTS,
    BUILT_IN,
    CONSOLE_NAMESPACE,
    CONSOLE_RULES,
    Audience,
    ChannelRules,
    Section,
    inherited,
)
from .config_faults import sentences, unknown_variables
from .environment import PREFIX, Environment, log_injected
from .errors import ConfigurationError, UnknownChannel
from .origins import Origins, origin_fault

__all__ = ["Alerts", "Config", "Limits", "Telemetry", "Thresholds", "Tokens", "examine", "is_loopback", "load"]

# What the channel of alerts does not take from [channels]; ``alerts.subscribe`` replaces the first.
_ALERTS_CLOSED = {"subscribe": "nobody", "publish": "nobody", "history": "subscriber", "presence_for": "subscriber"}


class Tokens(Section):
    """How clients' tokens are checked. Where no key is configured, ``gateway serve`` makes a secret and stores it in ``data_dir``.

    ``leeway`` is in seconds.
    """

    hmac_secret: str = ""
    previous_hmac_secrets: list[str] = []
    public_key_file: str = ""
    jwks_url: str = ""
    algorithms: list[str] = []
    audience: str = ""
    issuer: str = ""
    leeway: float = Field(0, ge=0, le=300)


class Insecure(Section):
    """What needs no credentials: ``clients`` may do anything without a token, the server API (``api``) needs no key."""

    clients: bool = False
    api: bool = False


class Limits(Section):
    """Bounds, each per process or per client. ``…_bytes`` are bytes, ``…_seconds`` seconds; 0 is "no limit" where it is the default."""

    message_bytes: int = Field(65536, ge=64)
    api_bytes: int = Field(10 * 1024 * 1024, ge=64)
    channels_per_client: int = Field(128, ge=1)
    connections: int = Field(0, ge=0)
    connections_per_user: int = Field(0, ge=0)
    connections_per_address: int = Field(0, ge=0)
    connects_per_second: float = Field(0, ge=0)
    commands_per_second: float = Field(0, ge=0)
    publishes_per_second: float = Field(0, ge=0)
    first_command_seconds: float = Field(10, gt=0)
    waiting_bytes: int = Field(65536, ge=1024)
    rpc_bytes: int = Field(65536, ge=64)
    rpc_queue: int = Field(1000, ge=1)
    slow_seconds: float = Field(30, gt=0)
    ring_bytes: int = Field(64 * 1024 * 1024, ge=0)
    presence_clients: int = Field(1000, ge=1)


class Telemetry(Section):
    """Traces. ``traces`` exports spans as OpenTelemetry's environment variables say; ``publication_tags`` puts the trace of a request of the
    server API into the tags of what it publishes."""

    traces: bool = False
    publication_tags: bool = False


class Thresholds(Section):
    """The numbers from which on a work queue raises an alert: of ready jobs, of seconds that the oldest of them is due, of dead letters. 0 is "never"."""

    ready: int = Field(0, ge=0)
    oldest_seconds: float = Field(0, ge=0)
    dead: int = Field(0, ge=0)


ADMIN_KEY_LEAST = 16  # characters


class Alerts(Thresholds):
    """The thresholds of all work queues, and in ``queues`` what a queue has instead; ``subscribe`` is who may follow the channel ``alerts``."""

    subscribe: Audience = "token"
    queues: dict[Annotated[str, Field(pattern=r"^[^{}\s\x00-\x1f\x7f]{1,100}$")], Thresholds] = {}

    @property
    def are_on(self) -> bool:
        """Whether any queue has a threshold."""
        return any(each.ready or each.oldest_seconds or each.dead for each in (self, *self.queues.values()))

    def of(self, queue: str) -> Thresholds:
        """The thresholds of one queue."""
        own = self.queues[queue].model_dump(exclude_unset=True) if queue in self.queues else {}
        return Thresholds(**self.model_dump(include=set(Thresholds.model_fields)) | own)


class Config(BaseSettings):
    """Every setting of the gateway; the documentation's page of settings describes them. It is immutable: ``model_copy`` makes another."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,  # nothing is waited for without an end
        nested_model_default_partial_update=True,
        hide_input_in_errors=True,  # it may be a key
    )

    host: str = Field("127.0.0.1", pattern=r"^[A-Za-z0-9_.:%\-]{0,255}$")  # a name or an address; "" is all addresses
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=256)
    valkey_url: str = ""
    data_dir: str = ""
    valkey_port: int = Field(0, ge=0, le=65535)
    database_url: str = ""
    reuse_port: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: list[str] = []  # addresses and networks
    prefix: str = Field("gw", pattern=r"^[A-Za-z0-9_.\-]{1,32}$")
    allowed_origins: list[str] = []
    api_keys: list[str] = []
    admin_keys: list[str] = Field([], repr=False)
    admin_read_keys: list[str] = Field([], repr=False)
    metrics_key: str = ""
    metrics_port: int = Field(0, ge=0, le=65535)
    drain_seconds: float = Field(10, ge=0)
    ping_seconds: float = Field(25, gt=0)
    pong_seconds: float = Field(8, gt=0)
    events: bool = False
    events_size: int = Field(100_000, ge=1)
    rpc: Literal["anyone", "user", "nobody"] = "user"
    rpc_seconds: float = Field(4.5, gt=0, le=300)  # SDKs give a command 5
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    tokens: Tokens = Tokens()
    insecure: Insecure = Insecure()
    limits: Limits = Limits()
    alerts: Alerts = Alerts()
    telemetry: Telemetry = Telemetry()
    channels: ChannelRules = ChannelRules()
    namespaces: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")], ChannelRules] = {}
    bridges: list[BridgeRules] = []

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: dict[str, Any]) -> dict[str, Any]:
        common = values.get("channels") or {}
        if isinstance(common, ChannelRules):
            common = common.model_dump()
        given = values.get("namespaces") or {}
        if not isinstance(common, dict) or not isinstance(given, dict):
            return values  # the field's own check says what is wrong
        merged: dict[str, Any] = {}
        for name in BUILT_IN | given:
            own = given.get(name, {})
            if isinstance(own, ChannelRules):
                own = own.model_dump(exclude_unset=True)
            merged[name] = inherited(name, common) | BUILT_IN.get(name, {}) | own if isinstance(own, dict) else own
        return values | {"namespaces": merged}

    @field_validator("data_dir")
    @classmethod
    def _home(cls, value: str) -> str:
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise ValueError(f"there is no user {value.split('/')[0][1:]!r} whose home {value!r} could be in") from None
        return value

    @field_validator("api_keys", "metrics_key")
    @classmethod
    def _sendable(cls, value: list[str] | str) -> list[str] | str:
        """The keys without white space around them, which no request can send: a key that was read from a file may end with a line break."""
        if isinstance(value, str):
            return value.strip()
        return [key for key in map(str.strip, value) if key]

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, values: list[str]) -> list[str]:
        for value in values:
            ip_network(value, strict=False)  # its ValueError names what is wrong
        return values

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, values: list[str]) -> list[str]:
        for value in values:
            if fault := origin_fault(value):
                raise ValueError(fault)
        return values

    @field_validator("admin_keys", "admin_read_keys")
    @classmethod
    def _admin_keys(cls, values: list[str]) -> list[str]:
        if any(len(value) < ADMIN_KEY_LEAST for value in values):
            raise ValueError(f"a key is shorter than {ADMIN_KEY_LEAST} characters; make one with: openssl rand -hex 16")
        if any("\ud800" <= char <= "\udfff" for value in values for char in value):
            raise ValueError("a key is not text in UTF-8")
        return values

    @cached_property
    def origins(self) -> Origins:
        """``allowed_origins``, as what answers whether a page is admitted."""
        return Origins(self.allowed_origins)

    @cached_property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        """``trusted_proxies`` as networks."""
        return [ip_network(value, strict=False) for value in self.trusted_proxies]

    @model_validator(mode="after")
    def _pairs(self) -> Config:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key go together: one is set, the other is not")
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError(
                f"metrics_port and port are both {self.port}: metrics need a port of their own; /metrics on the other needs a key"
            )
        if fault := bridges_fault(self.bridges, self.prefix, self.namespaces):
            raise ValueError(fault)
        if set(self.admin_keys) & set(self.admin_read_keys):
            raise ValueError("a key is in admin_keys and in admin_read_keys: it has one role only")
        if self.has_console and CONSOLE_NAMESPACE in self.namespaces:
            raise ValueError(f"namespaces.{CONSOLE_NAMESPACE}: this namespace is the console's own while admin_keys is set; rename yours")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls), _file_source(settings_cls)

    @property
    def data_path(self) -> Path:
        """The folder of the embedded server and of the secrets made on a first run."""
        return Path(self.data_dir).expanduser().absolute() if self.data_dir else user_data_path("gateway", appauthor=False)

    @property
    def listens_on_loopback(self) -> bool:
        """Whether programs of other machines cannot reach it."""
        return is_loopback(self.host)

    @property
    def has_console(self) -> bool:
        """Whether there is a console at ``/admin/``: somebody has a key for it."""
        return bool(self.admin_keys or self.admin_read_keys)

    @cached_property
    def personal_namespaces(self) -> list[str]:
        """Those in which each user is subscribed to a channel of their own on connecting."""
        return [name for name, rules in self.namespaces.items() if rules.personal]

    @cached_property
    def admits_anonymous(self) -> bool:
        """Whether anybody may connect without a token: there is something for them, or everything is open."""
        return (
            self.insecure.clients
            or self.rpc == "anyone"
            or any(rules.subscribe == "anyone" for rules in (self.channels, *self.namespaces.values()))
        )

    @cached_property
    def _alerts_rules(self) -> ChannelRules:
        """Gateways alone publish alerts; of the rules for names without a namespace, those of history hold."""
        return self.channels.model_copy(update=_ALERTS_CLOSED | {"subscribe": self.alerts.subscribe})

    def is_reserved(self, channel: str) -> bool:
        """Whether the channel is the console's own: no other client follows it, and gateways alone publish to it."""
        return self.has_console and channel.startswith(f"{CONSOLE_NAMESPACE}:")

    def rules(self, channel: str) -> ChannelRules:
        """The rules of a channel, CONSOLE_RULES for the console's own. Raises UnknownChannel if its namespace is not configured."""
        namespace, colon, _ = channel.partition(":")
        if not colon:
            return self._alerts_rules if channel == ALERTS and self.alerts.are_on else self.channels
        try:
            return self.namespaces[namespace]
        except KeyError:
            if self.is_reserved(channel):
                return CONSOLE_RULES
            raise UnknownChannel(
                f"no namespace {namespace!r} is configured; its rules are a table [namespaces.{namespace}] in gateway.toml"
            ) from None

    def setting_of(self, channel: str, rule: str) -> str:
        """The name of the setting that holds a rule of the channel: ``namespaces.posts.history_size``. "" for a rule that no setting changes, since
        the channel is the gateway's own."""
        if self.is_reserved(channel):
            return ""
        namespace, colon, _ = channel.partition(":")
        if colon:
            return f"namespaces.{namespace}.{rule}"
        if channel == ALERTS and self.alerts.are_on and rule in _ALERTS_CLOSED:
            return "alerts.subscribe" if rule == "subscribe" else ""
        return f"channels.{rule}"

    def setting_line(self, channel: str, rule: str, value: str) -> str:
        """The line of the configuration that gives the rule this ``value``, as TOML writes it; in words where no setting does."""
        setting = self.setting_of(channel, rule)
        return f"{setting} = {value}" if setting else f"{rule} = {value} in the gateway's own channel {channel}, which no setting changes"


_file: Path | None = None


def _file_source(settings_cls: type[BaseSettings]) -> PydanticBaseSettingsSource:
    return TomlConfigSettingsSource(settings_cls, toml_file=_file)


def is_loopback(host: str) -> bool:
    """Whether the host, a name or an address, is this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def load(file: str | Path | None = None, **overrides: Any) -> Config:
    """Reads the configuration: ``overrides`` (those that are not None), then the environment, then the file.

    Raises ConfigurationError with one line that names the key and what is wrong with it.
    """
    config, faults = examine(file, **overrides)
    if config is None:
        more = f' (and {len(faults) - 1} more: "gateway check" lists them)' if len(faults) > 1 else ""
        raise ConfigurationError(faults[0] + more)
    return config


def examine(file: str | Path | None = None, **overrides: Any) -> tuple[Config | None, list[str]]:
    """As ``load``, but it returns all that is wrong, a sentence each; the configuration is None if anything is."""
    global _file
    if file is not None and not Path(file).is_file():
        return None, [f"there is no configuration file {file}"]
    faults = unknown_variables(Config)
    log_injected()
    _file = Path(file) if file is not None else None
    where = f"{file}: " if file is not None else ""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        config = Config(**given)
    except ValidationError as error:
        return None, faults + sentences(error, Config, given, where)
    except ValueError as error:  # TOML that cannot be read, an environment variable that is not JSON
        cause = error.__cause__ or error
        return None, [*faults, f"{where}{error if cause is error else f'{error}: {cause}'}".replace("\n", " ")]
    finally:
        _file = None
    return (None if faults else config), faults
