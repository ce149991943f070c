"""The outbox in Django, on either kind of database. That of a project which Django's own command made is in tests/documentation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ..kit import django_outbox, forks

Results = dict[str, Any]


@pytest.fixture(scope="module")
def results_of() -> dict[str, Results]:
    """Database URL's kind → what ``django_outbox.exercise`` returned there: one process for the tests of this module."""
    return {}


@pytest.fixture
async def results(database_url: str, results_of: dict[str, Results], tmp_path: Path) -> Results:
    kind = database_url.partition(":")[0]
    if kind not in results_of:
        file = tmp_path / "results.json"
        process = forks.start(django_outbox.exercise, database_url, str(file))
        await asyncio.to_thread(process.join, 60)
        assert process.exitcode == 0, "its error is on standard error"
        results_of[kind] = json.loads(file.read_text())
    return results_of[kind]


def test_a_missing_table_is_one_sentence_that_says_what_to_run(results: Results) -> None:
    assert results["missing"].startswith("MissingOutbox: the database ")
    assert results["missing"].endswith(" has no table outbox: run `python manage.py migrate gateway_outbox`")


def test_djangos_migrations_make_the_tables_of_the_relay(results: Results) -> None:
    assert results["differs_from_the_tables_of_the_relay"] == []
    assert results["needs_no_further_migration"] == ""


def test_the_relay_uses_the_schema_that_the_settings_name(results: Results) -> None:
    """It looked in another one: it found no table, or that of another program."""
    assert results["relay_has_the_tables"]


def test_a_commit_publishes_notifies_and_enqueues(results: Results) -> None:
    assert results["committed"] == ["posts:a", "notifications:u1", "{default}"]


def test_what_a_savepoint_or_a_transaction_undoes_is_not_published(results: Results) -> None:
    assert results["undone"] == [["posts:a", '"kept"']]


def test_a_recording_has_what_a_commit_would_publish(results: Results) -> None:
    assert results["recorded"] == [[1], [1, 4, 6], 3]


def test_a_transaction_wakes_the_relays_of_postgresql_once(results: Results, database_url: str) -> None:
    assert results["wakes"] == (1 if database_url.startswith("postgresql") else 0)


def test_the_token_is_that_of_the_user_who_is_logged_in(results: Results) -> None:
    statuses, claims, caching = results["tokens"]
    assert statuses == [401, 200, 405]
    assert claims == {"sub": "7", "info": {"name": "Ann"}}
    assert "no-store" in caching


def test_wrong_settings_are_a_sentence_each(results: Results) -> None:
    unknown, secret, claims, text, zero = results["wrong_settings"]
    assert unknown.startswith("ImproperlyConfigured: GATEWAY has no key TOKEN; its keys are DATABASE, VALKEY_URL, PREFIX, TOKEN_SECRET")
    assert (
        secret
        == "ImproperlyConfigured: GATEWAY['TOKEN_SECRET'] is missing: set it to the tokens.hmac_secret of the gateway's configuration; "
        "where that has none, to the hmac_secret of credentials.json in the gateway's data folder"
    )
    assert claims.startswith("ImproperlyConfigured: GATEWAY['TOKEN_CLAIMS'] names no function: ")
    assert text == "ImproperlyConfigured: GATEWAY['TOKEN_SECONDS'] is '3600': set it to a number of seconds, as 3600"
    assert zero.startswith("ImproperlyConfigured: GATEWAY['TOKEN_SECONDS'] is 0: ")
