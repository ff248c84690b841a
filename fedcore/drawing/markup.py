"""HTML and SVG, escaped unless said otherwise.

Names, reasons and metric names come from participants; none of them is trusted. `element` escapes every child
and attribute that is not `Markup`, so that forgetting to escape is not possible, and `plain` removes the
characters that could act on a terminal or turn the reading direction.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

_VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})
_KEPT = frozenset("\n\t\u200c\u200d")  # the joiners are letters' neighbours in Persian, Hindi and emoji


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def plain(text: object) -> str:
    """Text without control, format (bidi), surrogate and unassigned characters: each becomes U+FFFD.

    Args:
        text: Anything; its `str` is taken.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        "\ufffd" if unicodedata.category(each).startswith("C") and each not in _KEPT else each
        for each in text
    )


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: Its tag.
        children: Markup is taken as it is; anything else is escaped.
        attributes: `class_` is class and `stroke_width` is stroke-width; None and False are left out, True
            stands alone, floats lose what a pixel does not show.

    Example:
        >>> element("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other; those that are not Markup are escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else escape(part) for part in parts))


def escape(text: object) -> Markup:
    """Text for between tags and inside quotes."""
    return Markup(html.escape(plain(text), quote=True))


def coordinate(value: float) -> str:
    """A number of pixels, to a tenth, as short as possible."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value else "0"


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    return f' {key}="{coordinate(value) if isinstance(value, float) else escape(value)}"'
