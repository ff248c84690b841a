"""What became of the questions of an analytics job, and the files that hold the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.analytics import questions
from fedcore.analytics.question import Answer, Question
from fedcore.coordinator import checkpoint as checkpoints
from fedcore.coordinator.grids.evidence import Lost
from fedcore.errors import BudgetExhausted, FedcoreError, JobError, PolicyRefused


@dataclass
class Answered:
    """What became of one question.

    Args:
        asked: The question; None where it could not be built.
        answer: What is shown; None where there is none.
        sites: Participants in the sums.
        left_out: Those that were not, and why.
        rounds: Of sums.
        error: Why there is no answer.
        account: Of the last protected sum.
        privacy: What was promised of the answer.
    """

    asked: Question | None = None
    answer: Answer | None = None
    sites: tuple[str, ...] = ()
    left_out: list[Lost] = field(default_factory=list)
    rounds: int = 0
    summed: int = 0
    seconds: float = 0.0
    bytes: dict[str, int] = field(default_factory=lambda: {"down": 0, "up": 0})
    error: FedcoreError | None = None
    account: dict[str, Any] | None = None
    privacy: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        refused = isinstance(self.error, PolicyRefused | JobError | BudgetExhausted)
        status = "answered" if self.answer is not None else "refused" if refused else "failed"
        error = self.error
        return {
            "kind": self.asked.kind if self.asked else None,
            "text": self.asked.text if self.asked else "",
            "status": status,
            "reason": str(error) if error else None,
            "error": error
            and {
                "type": type(error).__name__,
                "message": error.message,
                "party": error.party,
                "step": error.step,
                "exit_code": error.exit_code,
            },
            "question": questions.to_json(self.asked) if self.asked else None,
            "sites": list(self.sites),
            "summed": self.summed,
            "left_out": [{"party": one.party, "reason": one.reason} for one in self.left_out],
            "tables": [table.as_dict() for table in self.answer.tables] if self.answer else [],
            "suppressed": self.answer.suppressed if self.answer else 0,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "bytes": self.bytes,
            "privacy": self.privacy,
            "protection": self.account,
        }


def write_answers(folder: Path, answers: Mapping[str, Answered]) -> dict[str, list[str]]:
    """Tables as CSV and JSON, and plots as SVG, in `answers/` of the run folder.

    Returns:
        Per question the files, relative to the run folder.
    """
    where = folder / "answers"
    made: dict[str, list[str]] = {}
    for name, each in answers.items():
        files: list[str] = []
        if each.answer is not None:
            where.mkdir(parents=True, exist_ok=True)
            several = len(each.answer.tables) > 1
            for number, table in enumerate(each.answer.tables, 1):
                file = where / (f"{name}-{number}.csv" if several else f"{name}.csv")
                file.write_text(table.to_csv(), newline="")
                files.append(str(file.relative_to(folder)))
            checkpoints.write_json(where / f"{name}.json", [table.as_dict() for table in each.answer.tables])
            files.append(f"answers/{name}.json")
            for title, svg in each.answer.plots.items():
                (where / f"{name}-{title}.svg").write_text(svg)
                files.append(f"answers/{name}-{title}.svg")
        made[name] = files
    return made
