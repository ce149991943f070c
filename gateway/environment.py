"""Settings from environment variables: which variables are meant for the gateway, and how their values are read.

Kubernetes gives each container variables for the Services of its namespace. Those of a Service that is named ``gateway``, or
``gateway-…``, begin as our settings do: ``GATEWAY_SERVICE_HOST=10.0.0.7``, ``GATEWAY_PORT=tcp://10.0.0.7:80``. Variables of
exactly those forms are ignored; any other variable that names no setting is an error.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

__all__ = ["PREFIX", "Environment", "injected", "log_injected", "setting_variables"]

log = logging.getLogger("gateway.config")

PREFIX = "GATEWAY_"

# Source: Kubernetes, "Accessing the Service", environment variables; after the prefix comes the rest of the Service's name, if any.
_INJECTED = re.compile(
    r"""(?:[A-Z0-9]+_)*(?:
        SERVICE_HOST=[0-9A-Fa-f.:]+
      | SERVICE_PORT(?:_[A-Z0-9]+)*=\d+
      | PORT(?:_\d+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://\S+
      | PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO=(?:tcp|udp|sctp)|PORT=\d+|ADDR=[0-9A-Fa-f.:]+)
    )""",
    re.VERBOSE,
)
_logged: set[str] = set()


def injected() -> list[str]:
    """The names of the variables that Kubernetes made for a Service, and that set nothing here."""
    ours = ((name, value) for name, value in os.environ.items() if name.startswith(PREFIX))
    return [name for name, value in ours if _INJECTED.fullmatch(f"{name[len(PREFIX) :]}={value}")]


def setting_variables() -> list[str]:
    """The names of the variables that should each name a setting."""
    ignored = set(injected())
    return [name for name in os.environ if name.startswith(PREFIX) and name not in ignored]


def log_injected() -> None:
    """Logs once which variables are ignored; nothing while the log takes no line of that level, so that a later call does."""
    if log.isEnabledFor(logging.INFO) and (new := [name for name in injected() if name not in _logged]):
        _logged.update(new)
        log.info("environment variables that Kubernetes made for a Service are ignored: %s", ", ".join(sorted(new)))


class Environment(EnvSettingsSource):
    """The settings' values in the environment. A list is JSON, or its items with commas between them."""

    def __init__(self, settings_cls: Any) -> None:
        super().__init__(settings_cls)
        ignored = {name.lower() for name in injected()}
        self.env_vars = {name: value for name, value in self.env_vars.items() if name.lower() not in ignored}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        # ``field`` is None for a name that no setting has: the check of all names reports it.
        if field is None or get_origin(field.annotation) is not list or value.lstrip().startswith("["):
            return super().decode_complex_value(field_name, field, value)
        return [item for item in (part.strip() for part in value.split(",")) if item]
