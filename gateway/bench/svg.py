"""SVG and HTML as text: elements, and about how wide a text is."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from ..runtime.logs import printable

__all__ = ["FONT", "WIDTH", "Drawing", "Markup", "element", "joined", "shortened", "text_width", "wrapped"]

WIDTH = 360  # of a picture: about as many pixels of a phone
FONT = 12  # the size of its text

_AVERAGE = 0.56  # of the font's size: how wide a character is, a little more than in the fonts that pages use
_WIDTHS = dict.fromkeys(" .,:;'|!ijlIft()[]-·", 0.34) | dict.fromkeys("mwMW@%—×", 0.9)


class Markup(str):
    """Text that is SVG or HTML already."""

    __slots__ = ()


class Drawing(NamedTuple):
    """What is in a picture of this size."""

    width: float
    height: float
    content: Markup


def element(tag: str, *content: str, **attributes: object) -> Markup:
    """An element. Content that is not ``Markup`` is text and is escaped; in an attribute's name ``_`` means ``-``, at its end nothing.

    Attributes that are None are left out; fractions get at most two decimals.
    """
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items() if value is not None)
    return Markup(f"<{tag}{written}>{joined(content)}</{tag}>")


def joined(content: Iterable[str]) -> Markup:
    return Markup("".join(each if isinstance(each, Markup) else escape(printable(each), quote=False) for each in content))


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escape(printable(str(value)))


def text_width(text: str, size: float = FONT) -> float:
    """About how wide ``text`` is in a font of ``size``. No picture depends on it but for what would touch."""
    return size * sum(_WIDTHS.get(character, _AVERAGE) for character in text)


def shortened(text: str, width: float, size: float = FONT) -> str:
    """``text``, or its beginning and an ellipsis if it is wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, width: float, size: float, lines: int) -> list[str]:
    """``text`` in at most so many lines, broken between words."""
    found: list[str] = []
    for word in text.split():
        if found and (len(found) == lines or text_width(f"{found[-1]} {word}", size) <= width):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return [shortened(line, width, size) for line in found]
