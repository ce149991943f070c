"""``allowed_origins``: which pages are admitted, and which of them are trusted with their visitor's cookie."""

from __future__ import annotations

import pytest

from gateway.config import load
from gateway.errors import ConfigurationError
from gateway.origins import ORIGIN_MOST, Origins, origin_fault


@pytest.mark.parametrize(
    ("pattern", "admitted", "refused"),
    [
        (
            "https://*.example.org",
            [
                "https://a.example.org",
                "https://a.b.example.org",
                "https://A.EXAMPLE.org",
                "https://a-b_c.example.org",
                "https://a.example.org:443",
            ],
            [
                *("https://example.org", "https://evil-example.org", "https://.example.org", "https://a..example.org"),
                *(
                    "http://a.example.org",
                    "https://a.example.org:8443",
                    "https://a.example.org.evil.test",
                    "https://evil.test/.example.org",
                ),
                *("https://evil.test#.example.org", "https://evil.test:1.example.org", "https://u@a.example.org", "null"),
            ],
        ),
        ("http://[::1]:3000", ["http://[::1]:3000"], ["http://[::1]", "http://[::1]:30000", "http://::1:3000", "http://:3000"]),
        (
            "http://localhost:*",
            ["http://localhost", "http://localhost:5173"],
            ["https://localhost", "http://localhost:", "http://localhost:80.evil.test"],
        ),
        ("http://[::1]:*", ["http://[::1]", "http://[::1]:1"], ["http://[::2]:1"]),
        ("https://*.*.example.org", ["https://a.b.example.org"], ["https://a.example.org"]),
        ("https://app.example.org:443", ["https://app.example.org"], ["https://app.example.org:80"]),
        ("capacitor://localhost", ["capacitor://localhost"], ["capacitor://localhost:1"]),
        ("null", ["null"], ["https://null"]),
        ("*", ["https://any.test", "null"], []),
    ],
)
def test_a_wildcard_matches_whole_labels_of_the_host(pattern: str, admitted: list[str], refused: list[str]) -> None:
    origins = Origins([pattern])
    assert [origin for origin in admitted if not origins.admit(origin, "gateway.test")] == []
    assert [origin for origin in refused if origins.admit(origin, "gateway.test")] == []


def test_only_named_origins_are_trusted_with_a_cookie() -> None:
    origins = Origins(["*", "null", "https://*", "https://app.example.org", "https://*.example.net"])
    for origin in ("https://app.example.org", "https://a.example.net", "http://gateway.test:8000"):
        assert origins.name(origin, "gateway.test:8000")
    for origin in ("https://evil.test", "null", "http://gateway.test", ""):
        assert not origins.name(origin, "gateway.test:8000")
        assert origins.admit(origin, "gateway.test:8000")


def test_nothing_listed_admits_the_own_host_alone() -> None:
    origins = Origins([])
    assert origins.admit("http://Gateway.test:8000", "gateway.test:8000")
    assert not origins.admit("http://gateway.test", "gateway.test:8000") and not origins.admit("null", "gateway.test")
    assert not origins.admit("", "")


def test_a_long_origin_is_refused_at_once() -> None:
    origins = Origins(["https://*.*.*.example.org"])
    assert not origins.admit("https://" + "a." * 40_000 + "example.test")
    assert origins.admit("https://" + "a." * ((ORIGIN_MOST - 30) // 2) + "example.org")


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("https://*example.org", "whole label"),
        ("https://app-*.example.org", "whole label"),
        ("https://app.example.org/", "not an origin"),
        ("https://app.example.org/path", "not an origin"),
        ("app.example.org", "not an origin"),
        ("https://?.example.org", "not an origin"),
        ("https://[a-z].example.org", "not an origin"),
        ("https://*.example.org https://b.test", "not an origin"),
        ("", "not an origin"),
    ],
)
def test_an_entry_that_would_match_nothing_or_too_much_is_refused_in_a_sentence(pattern: str, fault: str) -> None:
    assert fault in origin_fault(pattern)
    with pytest.raises(ConfigurationError, match=f"allowed_origins: .*{fault}"):
        load(allowed_origins=[pattern])
