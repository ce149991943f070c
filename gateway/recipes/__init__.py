"""Files for the programs around the gateway, which ``gateway recipe`` prints for the present configuration.

filling    a template and facts → the file
facts      what a template may name, from the configuration
others     the templates, and prometheus_alerts.yml and grafana_dashboard.json, which are printed as they are
"""

from .facts import Installation
from .filling import RECIPES, recipe

__all__ = ["RECIPES", "Installation", "recipe"]
