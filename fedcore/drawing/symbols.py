"""Marks of plots and the samples of a legend."""

from __future__ import annotations

from fedcore.drawing.markup import Markup, coordinate, element


def symbol(style: str, x: float, y: float, size: float) -> Markup:
    """The mark of a kind of model: a disc is federated, a ring alone, a diamond pooled, a square central."""
    if style == "pooled":
        far = size * 1.25
        corners = f"M{coordinate(x)} {coordinate(y - far)}l{far} {far}l{-far} {far}l{-far} {-far}z"
        return element("path", d=corners, class_="dot pooled")
    if style == "central":
        return element(
            "rect",
            x=x - size * 0.85,
            y=y - size * 0.85,
            width=size * 1.7,
            height=size * 1.7,
            class_="dot central",
        )
    return element("circle", cx=x, cy=y, r=size, class_=f"dot {style}")


def key(style: str) -> Markup:
    """A legend's sample of a style."""
    if style.startswith("line "):
        drawn = element("g", element("path", d="M1 7H25"), class_=style)
    elif style.startswith(("band", "phase", "bar")):
        drawn = element("rect", x=1, y=2, width=24, height=10, class_=style)
    else:
        drawn = symbol(style, 13.0, 7.0, 5.0)
    return element("svg", drawn, viewBox="0 0 26 14", width=26, height=14, aria_hidden="true")
