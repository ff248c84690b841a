"""The coordinator's sections on a vertical job: the parties and their sizes, the steps, what the coordinator learned.

The report of the models is each party's own (`fedcore.vertical.report`), and stands in its folder of results.
"""

from __future__ import annotations

from fedcore.coordinator.record import Record
from fedcore.coordinator.record_vertical import Share, planned, steps_in
from fedcore.coordinator.wording import status_text
from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import bytes_text, count_text, seconds_text
from fedcore.drawing.page import section, short, table


def parties(record: Record) -> Markup:
    """Sizes, traffic and memory of each party, over all steps."""
    steps = steps_in(record.raw)
    if not steps:
        return section("Parties", element("p", "No step was finished when the run stopped.", class_="quiet"))
    head = ["Party", "role", "rows", "keys", "sent", "received", "memory", "folder"]
    rows = []
    for last in steps[-1].shares:
        own = [share for step in steps for share in step.shares if share.name == last.name]
        rows.append(
            [
                short(last.name, 40),
                last.role,
                count_text(last.rows),
                count_text(last.items),
                bytes_text(sum(each.sent or 0 for each in own)),
                bytes_text(sum(each.received or 0 for each in own)),
                bytes_text(max((each.memory or 0 for each in own), default=0)),
                last.folder,
            ]
        )
    return section("Parties", table(head, rows, words=2))


def steps(record: Record) -> Markup:
    """Seconds and bytes of each step, and the commitments to what each party keeps of it."""
    found = steps_in(record.raw)
    if not found:
        return Markup("")
    head = ["Step", "time", "between the parties"]
    rows = [[short(each.name, 40), seconds_text(each.seconds), bytes_text(each.sent)] for each in found]
    all_ = [
        [
            "In all",
            seconds_text(sum(each.seconds or 0 for each in found)),
            bytes_text(sum(s.sent for s in found)),
        ]
    ]
    kept = [
        [short(step.name, 40), short(share.name, 40), element("code", share.commitment)]
        for step in found
        for share in step.shares
    ]
    text = (
        "The results are at the parties, each with a report of its own. A commitment is the SHA-256 over a random salt, "
        "which the party keeps beside its result, and the files of a step: it shows later that they were not changed, and "
        "tells nothing of them before."
    )
    return section(
        "Steps",
        table(head, [*rows, *all_]),
        element("p", text),
        table(["Step", "Party", "commitment"], kept, words=3),
    )


def learned(record: Record) -> Markup:
    """What the coordinator was told."""
    matched = _matched(record)
    count = (
        f"That all parties share {count_text(matched)} rows, which the label holder’s policy lets it know."
        if matched is not None
        else "How many rows match: it was not told."
    )
    said = [
        "The job, and which party takes part with which data set and columns, as the job names them.",
        "Of each party and step: rows and distinct keys of its data set, seconds, bytes, memory, a commitment.",
        count,
        "No key, row, label, bin, coefficient, tree or score: these stay at the parties.",
    ]
    return section("What the coordinator learned", element("ul", *(element("li", each) for each in said)))


def facts(record: Record) -> list[tuple[str, str, str]]:
    """Name, value and note of what stands at the top of the page."""
    found = steps_in(record.raw)
    matched = _matched(record)
    told = ("Shared rows", count_text(matched), "told to the coordinator") if matched is not None else None
    of = planned(record.job)
    return [
        ("Status", status_text(record), ""),
        *([told] if told else []),
        ("Parties", count_text(len(record.job.get("parties") or ()) or None), ""),
        ("Rows", count_text(record.rows), "in all"),
        ("Steps", str(len(found)), f"of {of}" if of else ""),
        ("Time", seconds_text(record.seconds), f"engine {record.engine}"),
        ("Traffic", bytes_text(sum(each.sent for each in found) if found else None), "between the parties"),
    ]


def _matched(record: Record) -> int | None:
    shares: list[Share] = [share for step in steps_in(record.raw) for share in step.shares]
    return next((share.matched for share in shares if share.matched is not None), None)
