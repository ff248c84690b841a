"""The errors fedcore raises on purpose, each with the value, what is allowed and the cure.

A message of a `FedcoreError` may travel: a participant puts it into the reply it sends to the coordinator.
It therefore names columns, counts, files and settings, never a value that stands in a row. What only the
site may read goes into `detail`, which stays in the site's log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedcoreError(Exception):
    """Base of every error that a user can cause or cure.

    Args:
        message: What went wrong, what is allowed and the cure. May leave the site.
        party: The participant (or `coordinator`) at which it happened, if known.
        step: The step of the job (`prepare`, `train round 3`, ...), if known.
        detail: More for the one who owns the data. Never leaves the site.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, party: str | None = None, step: str | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.party = party
        self.step = step
        self.detail = detail

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.party, self.step) if part)
        return f"{where}: {self.message}" if where else self.message


class JobError(FedcoreError):
    """A job, federation or participant file (or a command's arguments) cannot be used as written."""

    exit_code = 2


class DataError(FedcoreError):
    """The data at a participant cannot serve the job."""

    exit_code = 3


class PolicyRefused(FedcoreError):
    """A participant's own policy does not allow the request."""

    exit_code = 4


class TaskFailed(FedcoreError):
    """The task's code raised at a participant; the trace is in that participant's log."""

    exit_code = 5


class PeerLost(FedcoreError):
    """A party stopped answering before its deadline."""

    exit_code = 6


class RunInterrupted(FedcoreError):
    """The run stopped before its end and can be resumed from its last completed round."""

    exit_code = 7


class IdentityError(FedcoreError):
    """A key, certificate or roster entry is missing, unsafe or does not match."""

    exit_code = 8


class EngineError(FedcoreError):
    """Flower, Ray or one of their processes did not do what the engine needs."""

    exit_code = 9


class ProtocolFailed(FedcoreError):
    """Two parties do not agree on a protocol, a message was not what it allows, or its self-check failed."""

    exit_code = 10


class PlanRefused(FedcoreError):
    """A plan is older than one that was seen, is not of these offers, or does not hold what it says."""

    exit_code = 11


class NoPlacement(JobError):
    """No placement keeps every hard constraint; `fedcore.network.relax` names the fewest to give up."""

    exit_code = 12


class BudgetExhausted(FedcoreError):
    """A data set's privacy budget does not reach for the request; nothing was released, nothing was charged."""

    exit_code = 13


def error_kind(name: str) -> type[FedcoreError]:
    """The class of an error that another party told by its class's name; the base where there is no such class."""
    kind = globals().get(name)
    return kind if isinstance(kind, type) and issubclass(kind, FedcoreError) else FedcoreError


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word most like `word`, or None when none is close."""
    names = {name.lower().replace("-", "_"): name for name in allowed}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(names), n=1, cutoff=0.55)
    return names[found[0]] if found else None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """A clause for an error message: the nearest word and the whole list.

    Example:
        >>> did_you_mean("fedadm", ["fedavg", "fedadam"])
        'did you mean "fedadam"? allowed: fedadam, fedavg'
    """
    names = sorted(set(allowed))
    best = nearest(word, names)
    listed = "allowed: " + (", ".join(names) or "none")
    return f'did you mean "{best}"? {listed}' if best else listed
