"""The fixture of centrifuge-python, for these tests alone: the others do not wait for its import."""

from ..kit.python_sdk import python_sdk

__all__ = ["python_sdk"]
