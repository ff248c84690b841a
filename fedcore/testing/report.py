"""What a conformance kit found."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Args:
        name: What must hold.
        passed: Whether it does.
        message: Why not, and the cure; or what to know.
    """

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class ConformanceReport:
    """All that was tried.

    Args:
        subject: What was tested.
        checks: In the order they were made; when one of the first two fails, the others are left out.
        summable: For a strategy: whether the weighted mean of the replies was all it needed, as measured;
            None when that was not reached.
    """

    subject: str
    checks: tuple[Check, ...]
    summable: bool | None = None

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {'passed' if self.passed else 'FAILED'}"]
        for check in self.checks:
            lines.append(f"  {'ok    ' if check.passed else 'FAILED'}  {check.name}")
            lines += [f"          {line}" for line in check.message.splitlines()]
        return "\n".join(lines)


class NotConforming(Exception):
    """A check does not hold; the message says why and the cure."""


def attempt(name: str, check: Callable[[], str | None]) -> Check:
    """Make a check.

    Args:
        name: What must hold.
        check: Raises when it does not; may return what to know.
    """
    try:
        return Check(name, True, check() or "")
    except NotConforming as finding:
        return Check(name, False, str(finding))
    except Exception as error:  # noqa: BLE001 - somebody's code may raise anything, which is the finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
        return Check(name, False, f"{type(error).__name__}: {error} ({where})")
