"""The tables. ``migrations/`` makes them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, MetaData, SmallInteger, String, Table, Text, false, text

__all__ = [
    "channels",
    "folds",
    "metadata",
    "orders",
    "outbox",
    "outbox_identity",
    "outbox_tables",
    "posts",
    "reactions",
    "responses",
    "reviews",
    "settings",
]

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER is SQLite's own row id

# Relays before migration 0003 read the outbox's identity here.
settings = Table("settings", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))
channels = Table(
    "channels",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("title", Text, nullable=False),
    Column("owner", String(100), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
posts = Table(
    "posts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("channel", String(100), ForeignKey("channels.name"), nullable=False),
    Column("author", String(100), nullable=False),
    Column("text", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("edited_at", BigInteger),
    Column("counts", Text, nullable=False),
    Index("posts_of_channel", "channel", "id"),
    sqlite_autoincrement=True,
)
reviews = Table(
    "reviews",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("subject", String(100), nullable=False),
    Column("author", String(100), nullable=False),
    Column("rating", SmallInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("counts", Text, nullable=False),
    Index("reviews_of_subject", "subject", "id"),
    sqlite_autoincrement=True,
)
responses = Table(
    "responses",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("review", _Id, ForeignKey("reviews.id"), nullable=False),
    Column("author", String(100), nullable=False),
    Column("text", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("responses_of_review", "review", "id"),
    sqlite_autoincrement=True,
)
# One row a user and target, which stays when the reaction is taken back; `previous` lets an upsert return what it replaced.
reactions = Table(
    "reactions",
    metadata,
    Column("target", String(40), primary_key=True),
    Column("user", String(100), primary_key=True),
    Column("reaction", String(32)),
    Column("previous", String(32)),
    Column("at", BigInteger, nullable=False),
    Index("reactions_by_time", "target", "at"),
)
folds = Table(
    "folds",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("target", String(40), nullable=False),
    Column("recipient", String(100), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("published_at", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Index("folds_of_target", "target", "started_at"),
    Index("folds_due", "due_at"),
    sqlite_autoincrement=True,
)
# A shop that uses the outbox for its own tables may well have one that is called orders.
orders = Table(
    "shop_orders",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("buyer", String(100), nullable=False),
    Column("item", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Index("shop_orders_of_buyer", "buyer", "id"),
    sqlite_autoincrement=True,
)
# Publications and jobs that wait for the relay; the channel of a job is its queue in braces. A row with `keep` stays once it is published; every other is deleted.
outbox = Table(
    "outbox",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("channel", String(255), nullable=False),
    Column("data", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("keep", Boolean, nullable=False, server_default=false()),
    Column("published", Boolean, nullable=False, server_default=false()),
    Index("outbox_pending", "id", sqlite_where=text("NOT published"), postgresql_where=text("NOT published")),
    Index("outbox_of_channel", "channel", "id"),
    sqlite_autoincrement=True,
)
# One row, whose value is a random text that names this outbox: its rows' ids are versions of this epoch.
outbox_identity = Table(
    "outbox_identity", metadata, Column("name", String(64), primary_key=True), Column("value", String(64), nullable=False)
)

# What a program needs in a database of its own, where `gateway relay` makes no tables: outbox_tables.create_all(engine), or Alembic's target_metadata.
outbox_tables = MetaData()
for _table in (outbox, outbox_identity):
    _table.to_metadata(outbox_tables)
