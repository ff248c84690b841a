"""The report's sections on an intersection: the parties and their sizes, where the time went, who learned what."""

from __future__ import annotations

import math

from fedcore.coordinator.record import Record
from fedcore.coordinator.record_psi import parties_of
from fedcore.coordinator.wording import phase_text, status_text
from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import bytes_text, count_text, seconds_text
from fedcore.drawing.page import section, short, table


def parties(record: Record) -> Markup:
    """Sizes, traffic and memory of each party."""
    found = parties_of(record.raw)
    if not found:
        return section("Parties", element("p", "Neither had finished when the run stopped.", class_="quiet"))
    head = ["Party", "role", "protocol", "rows", "keys", "sent", "received", "memory"]
    rows = [
        [
            short(each.name, 40),
            each.role,
            each.protocol,
            count_text(each.rows),
            count_text(each.items),
            bytes_text(each.sent),
            bytes_text(each.received),
            bytes_text(each.memory),
        ]
        for each in found
    ]
    return section("Parties", table(head, rows, words=3))


def time(record: Record) -> Markup:
    """Seconds of each phase."""
    found = parties_of(record.raw)
    if not found:
        return Markup("")
    names = list(dict.fromkeys(name for each in found for name in each.seconds))
    rows = [
        [phase_text(name).capitalize(), *(seconds_text(each.seconds.get(name)) for each in found)]
        for name in names
    ]
    total = [math.fsum(value for value in each.seconds.values() if math.isfinite(value)) for each in found]
    rows.append(["In all", *(seconds_text(value) for value in total)])
    compiled = max((each.compiling or 0.0 for each in found), default=0.0)
    note = (
        f"{seconds_text(compiled)} of it went into compiling kernels, once per machine."
        if compiled > 1
        else ""
    )
    return section(
        "Where the time went",
        table(["Phase", *(short(each.name, 40) for each in found)], rows),
        element("p", note, class_="quiet") if note else "",
    )


def results(record: Record) -> Markup:
    """Where each party's result is, and what the coordinator holds of it."""
    found = parties_of(record.raw)
    if not found:
        return Markup("")
    text = (
        "The results are at the parties. A commitment is the SHA-256 over a random salt, which the party keeps beside "
        "its result, and the files: it shows later that they were not changed, and tells nothing of them before."
    )
    rows = [[short(each.name, 40), each.folder, element("code", each.commitment)] for each in found]
    return section("Results", element("p", text), table(["Party", "folder", "commitment"], rows, words=3))


def facts(record: Record) -> list[tuple[str, str, str]]:
    """Name, value and note of what stands at the top of the page."""
    found = parties_of(record.raw)
    shared = record.raw.get("intersection")
    sent = [each.sent for each in found if each.sent is not None]
    told = ("Shared keys", count_text(shared), "told to the coordinator") if isinstance(shared, int) else None
    return [
        ("Status", status_text(record), ""),
        *([told] if told else []),
        ("Parties", count_text(len(found) or None), ""),
        ("Rows", count_text(record.rows), "in all"),
        ("Time", seconds_text(record.seconds), f"engine {record.engine}"),
        ("Traffic", bytes_text(sum(sent) if sent else None), "between the parties"),
    ]
