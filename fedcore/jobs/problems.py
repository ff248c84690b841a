"""What is wrong with a file: where, which value, what is allowed and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.errors import JobError, nearest

Keys = tuple[str | int, ...]
"""The way to a value from the root of a file: keys of mappings and positions in lists."""


@dataclass(frozen=True)
class Problem:
    """One thing to put right in a file.

    Args:
        file: The file as the person named it.
        line, column: Where, counted from 1; None when the file could not be opened.
        key: The setting, such as `local.epochs` or `participants[2]`; empty for the whole file.
        value: What stands there, when it is a single value.
        message: What is wrong and, where words are needed, the cure.
        allowed: The words that may stand there; empty when they cannot be listed.
        nearest: The allowed word that was probably meant.
    """

    file: Path
    line: int | None
    column: int | None
    key: str
    value: Any
    message: str
    allowed: tuple[str, ...] = ()
    nearest: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        said = ": ".join(part for part in (where, self.key, self.message) if part)
        hints = [f'did you mean "{self.nearest}"?'] if self.nearest else []
        if self.allowed:
            hints.append("allowed: " + ", ".join(self.allowed))
        whole = "; ".join([said, " ".join(hints)]) if hints else said
        # One line per problem, also when a text of several lines is told.
        return whole.replace("\n", "\\n").replace("\r", "\\r")

    def as_json(self) -> dict[str, Any]:
        """The problem as JSON values, its sentence under `text`."""
        return {
            "file": str(self.file),
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "value": self.value,
            "message": self.message,
            "allowed": list(self.allowed),
            "nearest": self.nearest,
            "text": str(self),
        }


def spell(keys: Keys) -> str:
    """The way to a value as a person writes it.

    Example:
        >>> spell(("policy", "rules", 0, "jobs"))
        'policy.rules[0].jobs'
    """
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key}" if text else key
    return text


def hint(word: Any, allowed: Iterable[str]) -> dict[str, Any]:
    """The `allowed` and `nearest` fields of a problem with `word`."""
    names = tuple(sorted(set(allowed)))
    return {"allowed": names, "nearest": nearest(word, names) if isinstance(word, str) else None}


def refuse(problems: Sequence[Problem]) -> None:
    """Raise one error that lists all problems, if there are any.

    Raises:
        JobError: With one line per problem.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise JobError(str(problems[0]))
    listed = "".join(f"\n  {problem}" for problem in problems)
    raise JobError(f"{len(problems)} problems:{listed}")
