"""The outbox's identity has a table of its own, since a program that has an outbox in its own database may well have one called settings."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbox_identity", sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.String(64), nullable=False)
    )
    op.execute("INSERT INTO outbox_identity (name, value) SELECT name, value FROM settings WHERE name = 'outbox'")


def downgrade() -> None:
    op.drop_table("outbox_identity")
