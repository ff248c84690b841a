"""Figures of matplotlib as SVG that may stand in a page without styles: for a file, and inside the report.

A page whose content security policy forbids styles drops what matplotlib writes into `style` attributes; here the same
values are attributes of their own. Letters are outlines, so that the picture is as wide as it was measured to be.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from fedcore.errors import JobError
from fedcore.network.canvas import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
FORMS = (".svg", ".png", ".pdf")
PNG_DPI = 200


def svg_text(figure: Figure, title: str, *, prefix: str = "") -> str:
    """A figure as one `svg` element.

    Args:
        figure: Drawn.
        title: For those who hear it.
        prefix: Of all ids; two pictures of one page need different ones.
    """
    import matplotlib

    written = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "fedcore"}):
        figure.savefig(
            written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"), None)
        )
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    # Written by matplotlib a moment ago, from text that it escaped.
    root = ElementTree.fromstring(written.getvalue())
    _plain(root)
    for each in root.iter():
        _unstyled(each)
        _renamed(each, prefix)
    root.set("role", "img")
    title = shown(title)
    root.set("aria-label", title)
    root.set("stroke-linejoin", "round")
    told = ElementTree.Element(f"{{{SVG}}}title")
    told.text = title
    root.insert(0, told)
    return ElementTree.tostring(root, encoding="unicode")


def save_figure(figure: Figure, file: str | Path, title: str) -> Path:
    """Write a figure as SVG, PNG or PDF, as the file's name says.

    Raises:
        JobError: The name ends otherwise.
    """
    path = Path(file)
    if path.suffix.lower() not in FORMS:
        raise JobError(f"{path.name} ends in {path.suffix or 'nothing'}; allowed: {', '.join(FORMS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        path.write_text(svg_text(figure, title) + "\n", encoding="utf-8")
    else:
        metadata = {"Title": title, **({"CreationDate": None} if path.suffix.lower() == ".pdf" else {})}
        figure.savefig(path, dpi=PNG_DPI, metadata=metadata)
    return path


def _plain(root: ElementTree.Element) -> None:
    """Without the style sheet and what says how the file was made."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)


def _unstyled(each: ElementTree.Element) -> None:
    for part in each.attrib.pop("style", "").split(";"):
        name, _, value = part.partition(":")
        if value:
            each.set(name.strip(), value.strip())


def _renamed(each: ElementTree.Element, prefix: str) -> None:
    if not prefix:
        return
    for name, value in list(each.attrib.items()):
        if name == "id":
            each.set(name, prefix + value)
        elif name.endswith("href") and value.startswith("#"):
            each.set(name, f"#{prefix}{value[1:]}")
        elif "url(#" in value:
            each.set(name, re.sub(r"url\(#", f"url(#{prefix}", value))
