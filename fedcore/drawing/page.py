"""A page that opens offline: one file without scripts, its parts, and the style that they share.

The page asks for nothing: its content security policy forbids it, and allows the one style sheet by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.symbols import key


def document(title: str, parts: Sequence[object], style: str = "", *, pictures: bool = False) -> str:
    """A whole page.

    Args:
        title: Of the browser's tab.
        parts: What stands in it, from the top.
        style: More CSS, below the shared one.
        pictures: Whether there are images in it, written into the page itself; none is loaded from elsewhere.
    """
    shared = resources.files("fedcore.drawing").joinpath("page.css").read_text(encoding="utf-8")
    whole = shared + style
    images = "; img-src data:" if pictures else ""
    digest = base64.b64encode(hashlib.sha256(whole.encode()).digest()).decode()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", title),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src 'sha256-{digest}'{images}",
        ),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("style", Markup(whole)),
    )
    body = element("body", element("main", *parts))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def facts_list(facts: Sequence[tuple[str, str, str]]) -> Markup:
    """The page's first numbers: name, value and a small note of each; one whose value is `–` is left out."""
    shown = [
        element("div", element("dt", name), element("dd", value, element("small", note) if note else ""))
        for name, value, note in facts
        if value != "–"
    ]
    return element("dl", *shown, class_="facts")


def section(title: str, *children: object) -> Markup:
    """A part of the page under its heading."""
    return element("section", element("h2", title), *children)


def figure(picture: Markup, caption: str = "", note: str = "") -> Markup:
    """A picture under its caption."""
    words = [element("b", caption)] if caption else []
    words += [element("span", note)] if note else []
    return element(
        "figure", element("figcaption", *words) if words else "", element("div", picture, class_="wide")
    )


def keys(entries: Sequence[tuple[str, str]]) -> Markup:
    """A legend."""
    return element("ul", *(element("li", key(style), text) for style, text in entries), class_="legend")


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], *, words: int = 1, caption: str = ""
) -> Markup:
    """A table whose first columns are words and whose others are numbers.

    Args:
        head: The columns' names.
        rows: The cells.
        words: How many columns, from the left, hold words.
        caption: Above it.
    """

    def cells(kind: str, row: Sequence[object]) -> list[Markup]:
        return [
            element(kind, each, class_="n" if place >= words else "w" if place == 0 else None)
            for place, each in enumerate(row)
        ]

    top = element("thead", element("tr", *cells("th", head)))
    lines = element("tbody", *(element("tr", *cells("td", row)) for row in rows))
    titled = element("caption", caption) if caption else ""
    return element("div", element("table", titled, top, lines), class_="wide")


def short(text: str, most: int) -> str:
    """Text cut to so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def middle_cut(text: str, most: int) -> str:
    """Text cut to so many characters in its middle, so that names that differ at their ends still do."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"
