"""What a run says of its answers in words; the terminal and the report share these sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedcore.coordinator.record import Record
from fedcore.coordinator.record_analytics import Answered, Noise, answers_of
from fedcore.drawing.numbers import count_text, number_word, people

_NEIGHBOURS = {
    "row": "one row",
    "person": "one person",
    "add-remove-row": "one row, there or not",
    "add-remove-person": "one person, there or not",
    "add-remove-client": "one participant, there or not",
    "replace-row": "one row, with other values",
    "replace-person": "one person, with other values",
    "replace-client": "one participant, with other values",
}
_STATUS = {"answered": "answered", "refused": "refused", "failed": "failed"}


def headline(record: Record) -> str:
    """An analytics run in one sentence: who answered what, and what the coordinator saw of it."""
    answers = list(answers_of(record.raw).values())
    planned = record.job.get("ask")
    names = (
        [str(name) for name in planned] if isinstance(planned, Mapping) else [each.name for each in answers]
    )
    data = f" about “{record.job['data']}”" if record.job.get("data") else ""
    what = f"{people(len(names), 'question')}{data}" if names else f"questions{data}"
    given = sum(each.answered for each in answers)
    who = people(len(record.members)) if record.members else "the participants"
    if not given:
        verb = {"refused": "was refused", "interrupted": "was interrupted"}.get(record.status, "failed")
        where = f" at {record.error['party']}" if record.error.get("party") else ""
        were = "was" if len(record.members) == 1 else "were"
        return f"No answer: {who} {were} to answer {what}, but the run {verb}{where}."
    counted = what if given == len(names) else f"{number_word(given)} of {what}"
    lead = f"{who} answered {counted}"
    return f"{lead[0].upper()}{lead[1:]}; {_place(record)}, {_seen(record)}{_noisy(record)}."


def status_of(answer: Answered) -> str:
    """What became of a question, in a word."""
    return _STATUS.get(answer.status, answer.status)


def sum_text(answer: Answered) -> str:
    """Who is in the answer, and how it was added: `sum of 15 of 18 participants under secagg+`."""
    inside = len(answer.sites) if answer.summed is None else answer.summed
    of = f" of {count_text(answer.asked)}" if answer.asked > inside else ""
    number = f"{count_text(inside)}{of} participants"
    protocol = str(answer.protection.get("protocol") or "")
    if answer.protection:
        return f"secure sum of {number}{f' under {protocol}' if protocol else ''}"
    return f"{number}, each one’s part seen by the coordinator"


def noise_text(noise: Noise | None) -> str:
    """What differential privacy an answer has: `epsilon 0.5, delta 1e-06, neighbours: one row more or less`."""
    if noise is None:
        return "no noise"
    said = [
        f"{name} {value:g}" for name, value in (("epsilon", noise.epsilon), ("delta", noise.delta)) if value
    ]
    said += [f"neighbours: {neighbours_text(noise.neighbours)}"] if noise.neighbours else []
    said += [f"{noise.mode} noise"] if noise.mode else []
    said += [noise.mechanism] if noise.mechanism else []
    said += [f"scale {noise.scale:g}"] if noise.scale is not None else []
    return ", ".join(said) or "noise, of which the record says no more"


def neighbours_text(told: str) -> str:
    """Whose presence is hidden."""
    return _NEIGHBOURS.get(told, told)


def cure(reason: str) -> tuple[str, str]:
    """A reason, and what is said in it of how to cure it."""
    why, _, how = reason.partition("Cure: ")
    return why.strip().rstrip("."), how.strip().rstrip(".")


def epsilon(record: Record) -> float | None:
    """What all answers cost together; None without differential privacy."""
    spent = [
        each.noise.epsilon for each in answers_of(record.raw).values() if each.noise and each.noise.epsilon
    ]
    return sum(spent) if spent else None


def suppressed(record: Record) -> int:
    """Cells that were suppressed, in all answers."""
    return sum(each.suppressed for each in answers_of(record.raw).values())


def protocol(record: Record) -> str:
    """What the answers were summed under; `none` where the coordinator saw each participant's."""
    asked: Any = record.protection.get("secure_aggregation")
    if isinstance(asked, Mapping):
        asked = asked.get("protocol")
    return str(asked or "none")


def _place(record: Record) -> str:
    if record.engine == "deployment":
        return "rows stayed at the participants"
    ran = "in simulation" if record.engine == "simulation" else "on one machine"
    return f"all ran {ran} (engine {record.engine})"


def _seen(record: Record) -> str:
    if protocol(record) == "none":
        return "and the coordinator saw each one’s part of the answers, small cells kept back"
    return "and the coordinator saw sums over all of them only"


def _noisy(record: Record) -> str:
    spent = epsilon(record)
    return "" if spent is None else f", with noise (epsilon {spent:g} in all)"
