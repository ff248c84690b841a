"""The report's sections on an analytics job: each question with its tables and pictures, who took part, who learned what."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from pathlib import Path

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.coordinator.record import Record
from fedcore.coordinator.record_analytics import Answered, AnswerTable, answers_of
from fedcore.coordinator.wording import status_text
from fedcore.coordinator.wording_analytics import (
    cure,
    epsilon,
    neighbours_text,
    noise_text,
    protocol,
    status_of,
    sum_text,
    suppressed,
)
from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import bytes_text, count_text, people, seconds_text
from fedcore.drawing.page import section, short

log = logging.getLogger("fedcore.coordinator")

STYLE = """
.suppressed { color: var(--central); font-style: italic; }
.answer caption { color: var(--ink); font-weight: 600; padding: 10px 0 6px; }
.answer td, .answer th { white-space: nowrap; }
.answer + .facts-table, .answer + .answer, div + .facts-table, details + .facts-table { margin-top: 18px; }
.facts-table + p { margin-top: 12px; }
.notes { margin: 6px 0 16px; padding: 0; list-style: none; color: var(--quiet); font-size: 13px; }
.picture img { display: block; max-width: 100%; height: auto; padding: 10px; }
"""
_MOST_ROWS = 400
_LONG = 40
_MOST_PARTIES = 60
_LARGEST = 2_000_000


def questions(record: Record, run_dir: Path | None) -> list[Markup]:
    """A section for each question: tables and pictures, or why it has no answer."""
    found = list(answers_of(record.raw).values())
    if not found:
        return [
            section(
                "Answers", element("p", "No question was answered before the run stopped.", class_="quiet")
            )
        ]
    return [_question(each, run_dir) for each in found]


def took_part(record: Record) -> Markup:
    """Who took part in which question, and why others did not."""
    answers = list(answers_of(record.raw).values())
    names = list(
        dict.fromkeys(
            [member.name for member in record.members]
            + [party for each in answers for party in (*each.sites, *(p for p, _ in each.left_out))]
        )
    )
    without = [(each.party, "all", each.reason) for each in record.left_out]
    without += [(party, each.name, reason) for each in answers for party, reason in each.left_out]
    if not names and not without:
        return section(
            "Participants", element("p", "None had answered when the run stopped.", class_="quiet")
        )
    warnings = [element("p", warning, class_="notice") for warning in record.warnings[:_MOST_PARTIES]]
    given = [each for each in answers if each.answered]
    counted = [
        [short(name, 40), f"{sum(name in each.sites for each in given)} of {len(given)}"]
        for name in names[:_MOST_PARTIES]
    ]
    parts: list[object] = [*warnings, _plain_table(["Participant", "answers it took part in"], counted)]
    if len(names) > _MOST_PARTIES:
        parts.append(element("p", f"{len(names) - _MOST_PARTIES} more stand in result.json.", class_="quiet"))
    if without:
        rows = [[short(a, 40), short(b, 40), short(why, 300)] for a, b, why in without[:_MOST_PARTIES]]
        parts.append(element("h3", "Who did not, and why"))
        parts.append(_plain_table(["Participant", "question", "reason"], rows, wrap=True))
        if len(without) > _MOST_PARTIES:
            parts.append(
                element("p", f"{len(without) - _MOST_PARTIES} more stand in result.json.", class_="quiet")
            )
    return section("Participants", *parts)


def learned(record: Record) -> Markup:
    """What the coordinator was told, and what the answers promise."""
    answers = [each for each in answers_of(record.raw).values() if each.answered]
    said = [
        "The names, kinds and units of the columns, which values columns of categories may have, and each site’s least cell."
    ]
    if protocol(record) == "none":
        said.append(
            "Of each participant its part of each answer, with cells below its minimum kept back; no row."
        )
    else:
        said.append(
            f"Sums over the participants under {protocol(record)}, round by round, and nothing of a single one: no row, no "
            "count, no coefficient. Which cells were kept back follows from the sums."
        )
    said.append(
        "Which participants took part in which question, with seconds and bytes, and the reasons of the others."
    )
    told = next((each.noise for each in answers if each.noise), None)
    if told is not None:
        whom = neighbours_text(told.neighbours) or "what the record calls neighbours"
        said.append(
            f"Differential privacy holds for these answers together with epsilon {epsilon(record):g}: two data sets that "
            f"differ in {whom} give each set of answers with nearly the same probability."
        )
    elif answers:
        said.append(
            "The answers are exact. Suppression hides small cells in these tables; it does not bound what somebody learns "
            "who also knows other things about the same people."
        )
    return section("What the coordinator learned", element("ul", *(element("li", each) for each in said)))


def facts(record: Record) -> list[tuple[str, str, str]]:
    """Name, value and note of what stands at the top of the page."""
    answers = list(answers_of(record.raw).values())
    given, spent, kept = sum(each.answered for each in answers), epsilon(record), suppressed(record)
    planned = len(record.job.get("ask") or ()) or len(answers)
    rounds = sum(each.rounds or 0 for each in answers)
    known = [way for each in answers for way in (each.down, each.up) if way is not None]
    delta = max((each.noise.delta or 0.0 for each in answers if each.noise), default=0.0)
    return [
        ("Status", status_text(record), ""),
        ("Answers", str(given), f"of {people(planned, 'question')}" if planned else ""),
        ("Participants", count_text(len(record.members) or None), ""),
        ("Suppressed", count_text(kept) if answers else "–", "cells" if kept != 1 else "cell"),
        ("Epsilon", "–" if spent is None else f"{spent:g}", f"delta {delta:g}" if delta else ""),
        ("Rounds", count_text(rounds or None), "in all"),
        ("Time", seconds_text(record.seconds), f"engine {record.engine}"),
        ("Traffic", bytes_text(sum(known) if known else None), "in both directions"),
    ]


def unanswered(record: Record) -> str:
    """Which questions have no answer."""
    without = [each for each in answers_of(record.raw).values() if not each.answered]
    names = ", ".join(f"{short(each.name, 40)} ({status_of(each)})" for each in without[:_MOST_PARTIES])
    return f"Without an answer: {names}"


def _question(answer: Answered, run_dir: Path | None) -> Markup:
    kind = f" · {answer.kind}" if answer.kind else ""
    parts: list[object] = [element("p", f"{answer.text}{kind}", class_="quiet")]
    if not answer.answered:
        why, how = cure(answer.reason or "no reason recorded")
        where = ", ".join(str(answer.error[key]) for key in ("party", "step") if answer.error.get(key))
        told = [element("b", f"{status_of(answer).capitalize()}. "), f"{where}: " if where else "", f"{why}."]
        parts.append(element("p", *told, class_="notice warn"))
        parts.append(element("p", element("b", "Cure: "), f"{how}.") if how else "")
        return section(answer.name, *parts)
    long = [each for each in answer.tables if len(each.rows) > _LONG]
    parts += [_table(each, title=each.title != answer.text) for each in answer.tables if each not in long]
    parts += [_picture(run_dir, file) for file in answer.files if file.endswith(".svg")]
    for each in long:
        rows = f"{each.title}: {count_text(len(each.rows))} rows"
        parts.append(element("details", element("summary", rows), _table(each, title=False)))
    parts.append(_protected(answer))
    others = [element("code", file) for file in answer.files]
    if others:
        listed = [part for each in others for part in (each, " ")]
        parts.append(element("p", "Files in the run folder: ", *listed, class_="quiet"))
    return section(answer.name, *parts)


def _table(told: AnswerTable, *, title: bool = True) -> Markup:
    right = [place > 0 and told.numeric(place) for place in range(len(told.heads))]
    head = [element("th", name, class_="n" if n else None) for name, n in zip(told.heads, right, strict=True)]
    lines = []
    columns = [told.texts(place) for place in range(len(told.heads))]
    for row, texts in zip(told.rows[:_MOST_ROWS], zip(*columns, strict=True), strict=False):
        cells = []
        for value, text, number in zip(row, texts, right, strict=True):
            words = ["n"] if number else []
            words += ["suppressed"] if value is SUPPRESSED else []
            cells.append(element("td", text, class_=" ".join(words) or None))
        lines.append(element("tr", *cells))
    more = len(told.rows) - _MOST_ROWS
    notes = [*told.notes, *([f"{count_text(more)} more rows stand in the files"] if more > 0 else [])]
    made = element(
        "table",
        element("caption", told.title) if told.title and title else "",
        element("thead", element("tr", *head)),
        element("tbody", *lines),
    )
    below = element("ul", *(element("li", note) for note in notes), class_="notes") if notes else ""
    return element("div", element("div", made, class_="wide answer"), below)


def _picture(run_dir: Path | None, file: str) -> Markup:
    """A picture of the run folder, in a document of its own, so that nothing in it acts on the page."""
    if run_dir is None:
        return Markup("")
    path = (run_dir / file).resolve()
    try:
        if run_dir.resolve() not in path.parents or path.stat().st_size > _LARGEST:
            return Markup("")
        drawn = path.read_bytes()
    except OSError as error:
        log.warning("report: %s cannot be read: %s", file, error)
        return Markup("")
    source = f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"
    picture = element("img", src=source, alt=f"Plot of {path.stem}")
    return element("figure", element("div", picture, class_="wide picture"))


def _protected(answer: Answered) -> Markup:
    rows = [("Participants", _sentence(sum_text(answer))), ("Noise", _sentence(noise_text(answer.noise)))]
    if answer.suppressed:
        cells = people(answer.suppressed, "cell").capitalize()
        rows.append(
            ("Suppressed", f"{cells}: counts below the minimum, or what would tell them by subtraction.")
        )
    traffic = None if answer.down is None and answer.up is None else (answer.down or 0) + (answer.up or 0)
    cost = [
        people(answer.rounds, "round") if answer.rounds else "",
        seconds_text(answer.seconds),
        bytes_text(traffic),
    ]
    told = ", ".join(each for each in cost if each and each != "–")
    rows += [("Cost", _sentence(told))] if told else []
    lines = [element("tr", element("th", name, scope="row"), element("td", text)) for name, text in rows]
    return element("table", element("tbody", *lines), class_="facts-table")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _plain_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, wrap: bool = False) -> Markup:
    top = element("thead", element("tr", *(element("th", each) for each in head)))
    body = element("tbody", *(element("tr", *(element("td", each) for each in row)) for row in rows))
    return element("div", element("table", top, body), class_="wide" if not wrap else None)
