"""The app, as Django looks for it."""

from django.apps import AppConfig

__all__ = ["GatewayOutboxConfig"]


class GatewayOutboxConfig(AppConfig):
    """Its label is ``gateway_outbox``, since a project may well have an app called gateway."""

    name = "publishers.django"
    label = "gateway_outbox"
    verbose_name = "gateway outbox"
    default_auto_field = "django.db.models.BigAutoField"
