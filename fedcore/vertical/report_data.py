"""The report's sections on rows: how many matched, and which part each belongs to."""

from __future__ import annotations

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import count_text, percent_text
from fedcore.drawing.page import section, short, table
from fedcore.vertical.results import PartyResult
from fedcore.vertical.table import OUT_OF_TIME, PARTS

_MOST_GROUPS = 60


def match(result: PartyResult) -> Markup:
    """The match rate, also by group."""
    found = result.match
    rows = [[f"{result.party} (this party)", count_text(found.rows), _share(found.matched, found.rows)]]
    rows += [
        [short(name, 40), count_text(number), _share(found.matched, number)]
        for name, number in found.others.items()
    ]
    parts: list[object] = [
        element("p", f"{count_text(found.matched)} rows are in common; all parties hold them in one order."),
        table(["Party", "rows brought", "of them matched"], rows),
    ]
    if found.left_out:
        left = "; ".join(f"{count_text(number)} with {why}" for why, number in found.left_out.items())
        parts.append(element("p", f"Not brought into the match: {left}.", class_="quiet below"))
    if found.groups:
        lines = [
            [
                short(each.name, 40),
                count_text(each.rows),
                count_text(each.matched),
                _share(each.matched, each.rows),
            ]
            for each in found.groups[:_MOST_GROUPS]
        ]
        head = [short(found.group_column, 40) or "Group", "rows", "matched", "match rate"]
        parts.append(element("div", table(head, lines), class_="below"))
    return section("Match", *parts)


def split(result: PartyResult) -> Markup:
    """Rows of training, test and later time."""
    rows_in_all = sum(each.rows for each in result.split)
    if not rows_in_all:
        return Markup("")
    labelled = any(each.bad is not None for each in result.split)
    rows = []
    for each in result.split:
        row = [each.name.capitalize(), count_text(each.rows), _share(each.rows, rows_in_all)]
        if labelled:
            row += [count_text(each.bad), _share(each.bad, each.rows)]
        rows.append(row)
    head = ["Part", "rows", "share", *(["bad", "bad rate"] if labelled else [])]
    note = "A row’s part follows from a keyed hash to whose key all parties contributed: none of them chose."
    if any(each.name == PARTS[OUT_OF_TIME] and each.rows for each in result.split):
        note += " Rows out of time are those of the later time that the job names."
    return section("Split", element("p", note), table(head, rows))


def _share(number: int | None, whole: int) -> str:
    return percent_text(number / whole) if number is not None and whole else "–"
