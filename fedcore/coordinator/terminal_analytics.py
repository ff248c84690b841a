"""An analytics job as a person sees it in the terminal: the question that is asked while it goes on, the answers at its end."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedcore.analytics.disclosure import SUPPRESSED
from fedcore.coordinator.record_analytics import Answered, AnswerTable, answers_of
from fedcore.coordinator.terminal import RoundProgress
from fedcore.coordinator.wording_analytics import cure, noise_text, status_of, sum_text
from fedcore.drawing.markup import plain
from fedcore.drawing.numbers import bytes_text, count_text, people, seconds_text

SUPPRESSED_STYLE = "italic magenta"
MOST_ROWS = 20
_MOST_LEFT_OUT = 5


class AnswerProgress(RoundProgress):
    """Shows which question is asked, in which round, and who has replied, as `RoundProgress` does for rounds.

    In a terminal it is a bar of questions with the stages of the secure sum below; elsewhere one plain line for each
    question and each participant that is lost.

    Args:
        questions: Their names, in the order of the job.
        options: As of `RoundProgress`.
    """

    def __init__(self, questions: Sequence[str], **options: Any) -> None:
        super().__init__(len(questions), **options)
        self.questions = list(questions)
        self._question = ""

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        """A round of a question, or something before it, was sent to `cohort` participants."""
        super().phase_started(number, phase, cohort)
        name = phase.partition(":")[0].split(" ")[-1]
        if name not in self.questions or name == self._question:
            return
        with self._lock:
            self._question = name
            place = self.questions.index(name) + 1
            told = f"question {place} of {len(self.questions)}"
            self._bar.update(self._task, completed=place - 1, count=told)
            if self._plain and not self.silent:
                self.console.print(Text(f"{told}: {plain(name)}"), soft_wrap=True)

    def round_finished(self, record: Mapping[str, Any]) -> None:
        """Questions have no record of a round."""

    def finished(self, result: Mapping[str, Any]) -> None:
        """The run ended, whatever its status."""
        with self._lock:
            self._bar.update(self._task, completed=len(self.questions))
        super().finished(result)


def shown(result: Mapping[str, Any]) -> list[RenderableType]:
    """What the summary of an analytics job has between its sentence and its protections.

    Args:
        result: The object of `result.json`.
    """
    parts: list[RenderableType] = []
    for answer in answers_of(result).values():
        parts += [Text(), *answer_parts(answer)]
    return parts


def table(told: AnswerTable, *, title: bool = True, most: int = MOST_ROWS) -> Table:
    """A table of an answer; a suppressed cell is the word `suppressed` in a style of its own.

    Args:
        told: Its heads, cells and notes may come from participants.
        title: Whether it stands above.
        most: Rows that are shown.
    """
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left", pad_edge=False)
    if told.title and title:
        made.title = Text(plain(told.title), style="bold")
    columns = []
    for place, head in enumerate(told.heads):
        texts = told.texts(place)[:most]
        right = place > 0 and told.numeric(place)
        made.add_column(
            Text(_head(head, texts) if right else plain(head)), justify="right" if right else "left"
        )
        made.columns[-1].overflow, made.columns[-1].vertical = "fold", "top"
        columns.append([cell(row[place], text) for row, text in zip(told.rows, texts, strict=False)])
    for row in zip(*columns, strict=True):
        made.add_row(*row)
    return made


def cell(value: Any, text: str) -> Text:
    """A cell of a table."""
    return Text(text, style=SUPPRESSED_STYLE if value is SUPPRESSED else "")


def _head(head: str, texts: Sequence[str]) -> str:
    """A head in lines that are no wider than the numbers below it, as far as its words allow."""
    words = plain(head).replace(" %", "\u00a0%").split(" ")
    widest = max(map(len, [*words, *texts]))
    return "\n".join(textwrap.wrap(" ".join(words), widest)) or plain(head)


def answer_parts(answer: Answered, most: int = MOST_ROWS) -> list[RenderableType]:
    """One question with its tables, notes and protections; or why it has no answer.

    Args:
        answer: Of the question.
        most: Rows of a table that are shown.
    """
    head = Text.assemble((plain(answer.name), "bold"), "  ", (plain(answer.text), "dim"))
    if not answer.answered:
        return [head, *_refused(answer)]
    parts: list[RenderableType] = [head]
    for place, each in enumerate(answer.tables):
        parts += [Text()] if place else []
        parts.append(table(each, title=each.title != answer.text, most=most))
        if len(each.rows) > most:
            parts.append(_quiet(f"{count_text(len(each.rows) - most)} more rows stand in the files"))
        parts += [_quiet(note) for note in each.notes]
    parts.append(_quiet(f"{sum_text(answer)} · {noise_text(answer.noise)}"))
    if answer.suppressed:
        cells = people(answer.suppressed, "cell")
        parts.append(
            Text.assemble(
                (f"{cells} suppressed", SUPPRESSED_STYLE),
                ": counts below the minimum, or what would tell them",
            )
        )
    for party, reason in answer.left_out[:_MOST_LEFT_OUT]:
        parts.append(Text.assemble(("without ", "yellow"), f"{plain(party)}: {plain(reason)}"))
    if len(answer.left_out) > _MOST_LEFT_OUT:
        parts.append(_quiet(f"without {len(answer.left_out) - _MOST_LEFT_OUT} more, who stand in the report"))
    parts.append(_quiet(_cost(answer)))
    if answer.files:
        parts.append(_quiet(f"files: {', '.join(answer.files)}"))
    return parts


def _refused(answer: Answered) -> list[RenderableType]:
    why, how = cure(answer.reason or "no reason recorded")
    where = ", ".join(str(answer.error[key]) for key in ("party", "step") if answer.error.get(key))
    said = f"{where}: {why}" if where and not why.startswith(where) else why
    parts: list[RenderableType] = [Text.assemble((status_of(answer), "bold red"), f"  {plain(said)}")]
    if how:
        parts.append(Text.assemble(("cure", "bold"), f"  {plain(how)}"))
    return parts


def _cost(answer: Answered) -> str:
    rounds = people(answer.rounds, "round") if answer.rounds else ""
    traffic = None if answer.down is None and answer.up is None else (answer.down or 0) + (answer.up or 0)
    known = [seconds_text(answer.seconds), bytes_text(traffic)]
    return " · ".join(each for each in (rounds, *known) if each and each != "–")


def _quiet(text: str) -> Text:
    return Text(plain(text), style="dim")
