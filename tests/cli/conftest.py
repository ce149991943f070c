"""Fixtures of the tests of this package."""

from ..kit.keys import key_server

__all__ = ["key_server"]
