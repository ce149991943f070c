"""The outbox and its identity."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="OutboxIdentity",
            fields=[
                ("name", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("value", models.CharField(max_length=64)),
            ],
            options={
                "db_table": "outbox_identity",
            },
        ),
        migrations.CreateModel(
            name="OutboxRow",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("channel", models.CharField(max_length=255)),
                ("data", models.TextField()),
                ("at", models.BigIntegerField()),
                ("keep", models.BooleanField(db_default=False)),
                ("published", models.BooleanField(db_default=False)),
            ],
            options={
                "db_table": "outbox",
                "indexes": [
                    models.Index(condition=models.Q(("published", False)), fields=["id"], name="outbox_pending"),
                    models.Index(fields=["channel", "id"], name="outbox_of_channel"),
                ],
            },
        ),
    ]
