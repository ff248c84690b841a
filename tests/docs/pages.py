"""What stands in the pages a person reads: blocks, links, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]

PAGES = tuple(
    path
    for path in sorted(
        [
            ROOT / "README.md",
            *ROOT.glob("docs/*.md"),
            *ROOT.glob("examples/**/*.md"),
            *ROOT.glob("examples/**/*.ipynb"),
        ]
    )
    if ".fedcore" not in path.parts and "runs" not in path.parts
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: Where it stands.
        line: Of its fence, from 1.
        language: What stands behind the fence.
        text: Its content.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    """The page's path in the repository."""
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """The page's text; of a notebook its text cells."""
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4).cells
        return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The page's fenced blocks."""
    found, fence = [], re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    text = text_of(page)
    for match in fence.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[1], match[2]))
    return [block for block in found if language is None or block.language == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """Targets of links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """The link targets that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_words(page: Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `fedcore` of every command in shell blocks and between backticks."""
    shell = [re.sub(r"\\\n\s*", " ", block.text) for block in blocks(page) if block.language in ("", "sh")]
    lines = [line for text in shell for line in text.splitlines()]
    for line in [*lines, *code_words(page)]:
        for match in re.finditer(r"(?:^|[\s/&;])fedcore ((?:[a-z]|--)[^#;&|]*)", line):
            # Two commands may stand side by side in columns.
            yield shlex.split(re.split(r"\s{3,}", match[1])[0])
