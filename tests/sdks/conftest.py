"""The fixture of centrifuge-python, for these tests alone: the others do not wait for its import."""

from ..kit.sdks import connect

__all__ = ["connect"]
