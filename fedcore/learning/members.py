"""Who waits at a rendezvous: a seat for the thread, and what it wants to have trained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from torch import nn

from fedcore.errors import JobError
from fedcore.jobs.job import LocalTraining
from fedcore.learning.examples import Examples
from fedcore.learning.task import Task
from fedcore.learning.training import Trained, load_arrays, take_arrays, train
from strategies.base import ClientHalf

if TYPE_CHECKING:
    from fedcore.learning.rendezvous import Rendezvous

NDArray = npt.NDArray[Any]

_here = threading.local()


def seat_here() -> Seat | None:
    """That of this thread, if it has one."""
    seat: Seat | None = getattr(_here, "seat", None)
    return seat


class Seat:
    """A thread's place at a rendezvous while it works on one message.

    Args:
        meeting: Where.
        wanted: Whether anybody still waits for the reply.
    """

    def __init__(self, meeting: Rendezvous, wanted: Callable[[], bool]) -> None:
        self.meeting, self.wanted = meeting, wanted
        self._lock = threading.Lock()
        self._works = self._left = False

    @property
    def empty(self) -> bool:
        """Whether it was left."""
        return self._left

    def __enter__(self) -> Seat:
        self.work()
        _here.seat = self
        return self

    def __exit__(self, *_: object) -> None:
        _here.seat = None
        self.leave()

    def work(self) -> None:
        """Wait for a turn, and take it."""
        self.meeting.turns.acquire()
        with self._lock:
            if not self._left:
                self._works = True
                return
        self.meeting.turns.release()

    def pause(self) -> None:
        """Hand the turn on."""
        with self._lock:
            works, self._works = self._works, False
        if works:
            self.meeting.turns.release()

    def leave(self) -> None:
        """The message is done with, or nobody waits for it; may be said by any thread, and again."""
        with self._lock:
            left, self._left = self._left, True
        self.pause()
        if not left:
            self.meeting.left()


@dataclass(frozen=True)
class Together:
    """What came out for one participant.

    Args:
        done: As from `fedcore.learning.training.train`.
        arrays: The model's, by name. They share memory with those of the others; not to be written to.
    """

    done: Trained
    arrays: dict[str, NDArray]


@dataclass(eq=False)
class Member:
    """What a participant's thread brings, and what it takes away once `over` is set."""

    seat: Seat
    task: Task
    rows: Examples
    local: LocalTraining
    arrays: Mapping[str, NDArray]
    seed: tuple[str | int, ...]
    half: ClientHalf | None
    config: dict[str, Any]
    pull: float
    over: threading.Event = field(default_factory=threading.Event)
    result: Together | None = None
    error: Exception | None = None

    def fail(self, error: BaseException) -> None:
        """To be raised in the participant's own thread, which nothing but an error of the task may end."""
        if isinstance(error, Exception):
            self.error = error
        else:
            self.error = JobError(
                f"the task raised {type(error).__name__}, which would end the process; raise an Exception instead"
            )


def end(members: Sequence[Member], error: BaseException | None = None) -> None:
    """Tell each to go on."""
    for member in members:
        if error is not None and member.result is None and member.error is None:
            member.fail(error)
        member.over.set()


def fits(model: nn.Module, member: Member) -> bool:
    """Whether the arrays are the model's and there are rows; who brings others is told by training alone."""
    own = model.state_dict()
    return (
        len(member.rows) > 0
        and own.keys() == member.arrays.keys()
        and all(tuple(member.arrays[name].shape) == tuple(own[name].shape) for name in own)
    )


def train_alone(model: nn.Module, member: Member) -> None:
    """With a model of the task."""
    try:
        load_arrays(model, dict(member.arrays))
        done = train(
            model,
            member.task,
            member.rows,
            member.local,
            seed=member.seed,
            half=member.half,
            config=member.config,
        )
        member.result = Together(done, take_arrays(model))
    except BaseException as error:  # noqa: BLE001 - raised again in the participant's own thread
        member.fail(error)
