"""A template and facts → the file that is printed.

In a template, ``{{name}}`` is replaced by the text of a fact. The lines from ``%if name`` to ``%end`` are printed if the fact is there,
those from ``%if not name`` to ``%end`` if it is not. Blocks are not nested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from ..config import Config
from .facts import Installation, facts_of

__all__ = ["RECIPES", "filled", "recipe"]

RECIPES = {  # what ``gateway recipe`` takes → the file in this package
    "nginx": "nginx.conf",
    "caddy": "Caddyfile",
    "haproxy": "haproxy.cfg",
    "systemd": "gateway.service",
    "docker": "Dockerfile",
    "compose": "compose.yaml",
    "kubernetes": "kubernetes.yaml",
    "prometheus": "prometheus.yml",
    "alerts": "prometheus_alerts.yml",
    "grafana": "grafana_dashboard.json",
}
AS_THEY_ARE = ("alerts", "grafana")  # Prometheus and Grafana have templates of their own in them

_NAME = re.compile(r"\{\{(\w+)\}\}")


def recipe(kind: str, config: Config, installation: Installation) -> str:
    """The text of a file of RECIPES for this configuration. It names secrets, and holds none."""
    text = (files(__package__) / RECIPES[kind]).read_text()
    return text if kind in AS_THEY_ARE else filled(text, facts_of(kind, config, installation))


def filled(template: str, facts: dict[str, str]) -> str:
    """The template with its facts; "" is a fact that is not there. Raises KeyError for a name that no fact has."""
    return "".join(f"{line}\n" for line in _printed(template, facts))


def _printed(template: str, facts: dict[str, str]) -> Iterator[str]:
    prints = True
    for line in template.splitlines():
        if line.startswith("%if "):
            *negated, name = line.split()[1:]
            prints = bool(facts[name]) is not bool(negated)
        elif line == "%end":
            prints = True
        elif prints:
            yield _NAME.sub(lambda match: facts[match[1]], line)
