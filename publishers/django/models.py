"""The outbox's tables as Django's models: their columns are those of ``publishers.tables``, which a test compares."""

from django.db import models
from django.db.models import Index, Q

__all__ = ["OutboxIdentity", "OutboxRow"]


class OutboxRow(models.Model):
    """A publication or a job that waits for the relay. ``channel`` is a channel, or a queue in braces; ``data`` is JSON; ``at`` is unix milliseconds.

    A row is deleted once it is published; one with ``keep`` is marked as ``published`` and stays.
    """

    id = models.BigAutoField(primary_key=True)
    channel = models.CharField(max_length=255)
    data = models.TextField()
    at = models.BigIntegerField()
    keep = models.BooleanField(db_default=False)
    published = models.BooleanField(db_default=False)

    class Meta:
        db_table = "outbox"
        indexes = [
            Index(fields=["id"], name="outbox_pending", condition=Q(published=False)),
            Index(fields=["channel", "id"], name="outbox_of_channel"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.channel}"


class OutboxIdentity(models.Model):
    """One row, which the relay makes: the random text that names this outbox, whose ids are versions of it."""

    name = models.CharField(max_length=64, primary_key=True)
    value = models.CharField(max_length=64)

    class Meta:
        db_table = "outbox_identity"

    def __str__(self) -> str:
        return str(self.value)
