"""Posts, reviews, reactions, and the outbox."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    settings = op.create_table("settings", sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False))
    # Whose versions these are: another database, with ids that begin at 1 again, is not mistaken for this one.
    op.bulk_insert(settings, [{"name": "outbox", "value": uuid.uuid4().hex}])
    op.create_table(
        "channels",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "posts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("channel", sa.String(100), sa.ForeignKey("channels.name"), nullable=False),
        sa.Column("author", sa.String(100), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("edited_at", sa.BigInteger),
        sa.Column("counts", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("posts_of_channel", "posts", ["channel", "id"])
    op.create_table(
        "reviews",
        sa.Column("id", ID, primary_key=True),
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("author", sa.String(100), nullable=False),
        sa.Column("rating", sa.SmallInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("reviews_of_subject", "reviews", ["subject", "id"])
    op.create_table(
        "responses",
        sa.Column("id", ID, primary_key=True),
        sa.Column("review", ID, sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("author", sa.String(100), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("responses_of_review", "responses", ["review", "id"])
    op.create_table(
        "reactions",
        sa.Column("target", sa.String(40), primary_key=True),
        sa.Column("user", sa.String(100), primary_key=True),
        sa.Column("reaction", sa.String(32)),
        sa.Column("previous", sa.String(32)),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("reactions_by_time", "reactions", ["target", "at"])
    op.create_table(
        "folds",
        sa.Column("id", ID, primary_key=True),
        sa.Column("target", sa.String(40), nullable=False),
        sa.Column("recipient", sa.String(100), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("folds_of_target", "folds", ["target", "started_at"])
    op.create_index("folds_due", "folds", ["due_at"])
    op.create_table(
        "outbox",
        sa.Column("id", ID, primary_key=True),
        sa.Column("channel", sa.String(255), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("keep", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("published", sa.Boolean, nullable=False, server_default=sa.false()),
        sqlite_autoincrement=True,
    )
    pending = sa.text("NOT published")
    op.create_index("outbox_pending", "outbox", ["id"], sqlite_where=pending, postgresql_where=pending)
    op.create_index("outbox_of_channel", "outbox", ["channel", "id"])


def downgrade() -> None:
    for table in ("outbox", "folds", "reactions", "responses", "reviews", "posts", "channels", "settings"):
        op.drop_table(table)
