"""The fixtures of keys, for these tests alone."""

from ..kit.keys import key_file, key_server

__all__ = ["key_file", "key_server"]
