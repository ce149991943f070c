"""The options of a publish: both publishers take the same ones, and each arrives in Valkey."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import valkey

from gateway.store.layout import PublishOptions
from publishers import Publisher, SyncPublisher

OPTIONS = {
    "idempotency_key": "order-17",
    "version": 7,
    "version_epoch": "shop",
    "size": 1,
    "ttl": 60,
    "tags": {"lang": "de"},
    "info": {"user": "u1"},
}
Publish = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["Publisher", "SyncPublisher"])
async def publish(request: pytest.FixtureRequest, valkey_url: str, prefix: str) -> AsyncIterator[Publish]:
    """``publish`` of either publisher, awaited."""
    async with Publisher(valkey_url, prefix=prefix) as publisher:
        with SyncPublisher(valkey_url, prefix=prefix) as sync_publisher:

            async def waits(*arguments: Any, **options: Any) -> Any:
                return sync_publisher.publish(*arguments, **options)

            yield publisher.publish if request.param == "Publisher" else waits


async def test_every_option_arrives(publish: Publish, valkey_url: str, prefix: str) -> None:
    assert OPTIONS.keys() == PublishOptions.__annotations__.keys()
    await publish("orders:17", 0)
    position = await publish("orders:17", {"status": "shipped"}, **OPTIONS)
    with valkey.Valkey.from_url(valkey_url) as client:
        base = f"{prefix}:{{orders:17}}"
        (entry,) = client.xrange(f"{base}:stream")  # size 1: the first one is trimmed
        assert entry[1] == {b"data": b'{"status":"shipped"}', b"tags": b'{"lang":"de"}', b"info": b'{"user":"u1"}'}
        assert 0 < client.ttl(f"{base}:stream") <= 60
        assert client.zscore(f"{base}:keys", "order-17") == position.offset == 2
    for older in (7, 6):
        await publish("orders:17", "older", version=older, version_epoch="shop")
    assert await publish("orders:17", "again", idempotency_key="order-17") == position


async def test_an_option_that_is_none_is_not_set(publish: Publish) -> None:
    assert (await publish("orders:17", 1, **dict.fromkeys(OPTIONS))).offset == 1


def test_the_docstring_names_each_option() -> None:
    text = inspect.getdoc(Publisher.publish) or ""
    assert [option for option in OPTIONS if f"``{option}``" not in text] == []
