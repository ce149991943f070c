"""Posts in channels that users create. ``posts:{channel}`` receives each post as it is written, edited and deleted:

    {"type": "post.created" | "post.edited", "post": {"id", "channel", "author", "text", "created_at", "edited_at", "reactions"}}
    {"type": "post.deleted", "post": {"id", "channel"}}

Times are unix milliseconds, ``reactions`` are counts by kind. Functions that write take a ``Database``, or a ``Transaction`` to be
part of; those that read take a ``Database``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from .database import Database, Transaction, now_ms, within
from .faults import Invalid, NotAllowed, NotFound, checked_id, checked_name, checked_page, checked_text, checked_user
from .tables import channels, posts, reactions

__all__ = ["create_channel", "create_post", "delete_post", "edit_post", "list_channels", "list_posts"]

TITLE_MOST = 100
PAGE_MOST = 200

_COLUMNS = (posts.c.id, posts.c.channel, posts.c.author, posts.c.text, posts.c.created_at, posts.c.edited_at, posts.c.counts)


async def create_channel(database: Database | Transaction, *, name: str, owner: str, title: str = "") -> dict[str, Any]:
    """Creates a channel and returns it: ``{"name", "title", "owner"}``. Raises Invalid, also where the name is taken."""
    name, owner = checked_name(name, "channel"), checked_user(owner, "owner")
    if ":" in name:
        raise Invalid("a channel's name has no colon, which separates posts and the name in posts:NAME")
    row = {"name": name, "owner": owner, "title": name if title == "" else checked_text(title, "title", TITLE_MOST)}

    async def work(transaction: Transaction) -> None:
        if (await transaction.execute(select(channels.c.name).where(channels.c.name == name))).first():
            raise Invalid(f"there is a channel {name!r} already")
        await transaction.execute(insert(channels).values(**row, created_at=now_ms()))

    try:
        await within(database, work)
    except IntegrityError:  # another transaction created it at the same moment
        raise Invalid(f"there is a channel {name!r} already") from None
    return row


async def create_post(database: Database | Transaction, *, channel: str, author: str, text: str) -> dict[str, Any]:
    """Writes a post and returns it. Raises Invalid, or NotFound if there is no such channel."""
    channel, author, text = checked_name(channel, "channel"), checked_user(author, "author"), checked_text(text)
    values = {"channel": channel, "author": author, "text": text, "created_at": now_ms(), "counts": "{}"}

    async def work(transaction: Transaction) -> dict[str, Any]:
        if not (await transaction.execute(select(channels.c.name).where(channels.c.name == channel))).first():
            raise NotFound(f"there is no channel {channel!r}")
        post = _post((await transaction.execute(insert(posts).values(**values).returning(*_COLUMNS))).one())
        transaction.publish(f"posts:{channel}", {"type": "post.created", "post": post})
        return post

    return await within(database, work)


async def edit_post(database: Database | Transaction, *, post: int, editor: str, text: str) -> dict[str, Any]:
    """Gives a post a new text and returns it. Raises Invalid, NotFound, and NotAllowed unless ``editor`` is its author."""
    post, editor, text = checked_id(post, "post"), checked_user(editor, "editor"), checked_text(text)

    async def work(transaction: Transaction) -> dict[str, Any]:
        found = await _locked(transaction, post)
        if found.author != editor:
            raise NotAllowed(f"post {post} is {found.author}'s: only they can edit it")
        changed = update(posts).where(posts.c.id == post).values(text=text, edited_at=now_ms()).returning(*_COLUMNS)
        edited = _post((await transaction.execute(changed)).one())
        transaction.publish(f"posts:{edited['channel']}", {"type": "post.edited", "post": edited})
        return edited

    return await within(database, work)


async def delete_post(database: Database | Transaction, *, post: int, by: str) -> None:
    """Deletes a post and its reactions. Raises NotFound, and NotAllowed unless ``by`` is its author or the channel's owner."""
    post, by = checked_id(post, "post"), checked_user(by)

    async def work(transaction: Transaction) -> None:
        found = await _locked(transaction, post)
        owner = (await transaction.execute(select(channels.c.owner).where(channels.c.name == found.channel))).scalar_one()
        if by not in (found.author, owner):
            raise NotAllowed(f"post {post} is {found.author}'s: only they and the channel's owner can delete it")
        await transaction.execute(delete(reactions).where(reactions.c.target == f"post:{post}"))
        await transaction.execute(delete(posts).where(posts.c.id == post))
        transaction.publish(f"posts:{found.channel}", {"type": "post.deleted", "post": {"id": post, "channel": found.channel}})

    await within(database, work)


async def list_channels(database: Database) -> list[dict[str, Any]]:
    """All channels, oldest first: ``[{"name", "title", "owner"}]``."""
    async with database.reading() as connection:
        found = await connection.execute(select(channels.c.name, channels.c.title, channels.c.owner).order_by(channels.c.created_at))
        return [dict(row._mapping) for row in found]


async def list_posts(database: Database, *, channel: str, before: int = 0, limit: int = 30) -> list[dict[str, Any]]:
    """Up to ``limit`` posts of a channel, newest first; with ``before``, a post's id, those that are older. Raises Invalid."""
    before, limit = checked_page(before, limit, PAGE_MOST)
    wanted = select(*_COLUMNS).where(posts.c.channel == checked_name(channel, "channel")).order_by(posts.c.id.desc()).limit(limit)
    if before:
        wanted = wanted.where(posts.c.id < before)
    async with database.reading() as connection:
        return [_post(row) for row in await connection.execute(wanted)]


async def _locked(transaction: Transaction, post: int) -> Any:
    """The post's row, locked until the transaction ends. Raises NotFound."""
    row = (await transaction.execute(select(*_COLUMNS).where(posts.c.id == post).with_for_update())).first()
    if row is None:
        raise NotFound(f"there is no post {post}")
    return row


def _post(row: Any) -> dict[str, Any]:
    fields = dict(row._mapping)
    counts = fields.pop("counts")
    return {**fields, "reactions": msgspec.json.decode(counts)}
