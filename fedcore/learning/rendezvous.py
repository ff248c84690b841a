"""Where participants that work in threads of one process meet, to be trained as one batched model.

Each participant's thread comes with its received arrays and its rows, waits, and goes on with the arrays that training made
of them; what it does before and after, its policy and its release gate among it, stays its own. One further thread trains
(`fedcore.learning.cohort`), as soon as all who can come are there: every seat is taken, or nobody else is in work, or nobody
has come for a while, so that one who hangs or fails does not keep the others waiting.

A thread works on a turn, of which there are as many as workers, and hands it on while it waits: hundreds may wait, but
only a few read data or pack replies at a time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from fedcore.errors import JobError
from fedcore.jobs.job import LocalTraining
from fedcore.learning.cohort import kind_of, stacked, train_cohort, why_not
from fedcore.learning.cohort_model import row_wise
from fedcore.learning.examples import Examples
from fedcore.learning.memory import out_of_memory
from fedcore.learning.task import Task
from fedcore.learning.training import (
    Trained,
    load_arrays,
    release_resident,
    resident_model,
    take_arrays,
    train,
)
from strategies.base import ClientHalf
from strategies.fedprox import FedProxClient

NDArray = npt.NDArray[Any]

QUIET = 2.0  # seconds without a newcomer after which those who are there are trained, if the others took no longer

NEVER = threading.Event()
"""An event that nobody sets."""

log = logging.getLogger("fedcore.learning")


@dataclass(frozen=True)
class Together:
    """What came out for one participant.

    Args:
        done: As from `fedcore.learning.training.train`.
        arrays: The model's, by name. They share memory with those of the others; not to be written to.
    """

    done: Trained
    arrays: dict[str, NDArray]


@dataclass
class _Member:
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


def serves(half: type[ClientHalf] | None) -> bool:
    """Whether participants with this client half of a strategy can be trained together: none, or FedProx's."""
    return half is None or half is FedProxClient


def trained_together(
    task: Task,
    rows: Examples,
    local: LocalTraining,
    arrays: Mapping[str, NDArray],
    *,
    seed: tuple[str | int, ...],
    half: ClientHalf | None = None,
    config: dict[str, Any] | None = None,
) -> Together | None:
    """Wait for the others and be trained with them.

    Args:
        task, rows, local, seed, half, config: As for `fedcore.learning.training.train`.
        arrays: The model that was received, by name.

    Returns:
        The trained arrays, or None where this thread is to train by itself: it works for no rendezvous, or what it has to
        do cannot be done together.

    Raises:
        FedcoreError: As training alone raises, for this participant.
    """
    seat: Seat | None = getattr(_here, "seat", None)
    if seat is None or seat.meeting.refused is not None or not serves(type(half) if half else None):
        return None
    pull = float((config or {})["proximal-mu"]) if half else 0.0
    return seat.meeting.join(_Member(seat, task, rows, local, arrays, seed, half, config or {}, pull))


_here = threading.local()


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


class Rendezvous:
    """Gathers participants and trains them.

    Args:
        seats: Participants that are trained together at most.
        turns: Threads that work at a time, apart from the one that trains.
        threads: That torch may use for one operation of the training; as it is when None.

    Attributes:
        refused: Why participants of this run cannot be trained together, once that is known.
    """

    def __init__(self, seats: int, turns: int, threads: int | None = None) -> None:
        self.refused: str | None = None
        self.turns = threading.Semaphore(turns)
        self._seats, self._threads = seats, threads
        self._most = seats  # that fit into the device's memory
        self._changed = threading.Condition()
        self._waiting: list[_Member] = []
        self._first = self._last = 0.0
        self._inside = 0
        self._until: threading.Event | None = None
        self._closed = False
        self._trainer: threading.Thread | None = None

    def entered(self) -> None:
        """A message was given to the threads; `Seat.leave` says that it is done with."""
        with self._changed:
            self._inside += 1

    def left(self) -> None:
        """A message is done with."""
        with self._changed:
            self._inside -= 1
            self._changed.notify()

    def until(self, answered: threading.Event | None) -> None:
        """Say when the next messages may be given to the threads.

        Args:
            answered: Is set when they may; never for `NEVER`, and at once for None.
        """
        if answered is not self._until:
            with self._changed:
                self._until = answered
                self._changed.notify()

    def close(self, seconds: float) -> None:
        """End the thread that trains; whoever waits is sent away.

        Args:
            seconds: To wait for it.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
            trainer = self._trainer
        if trainer is not None:
            trainer.join(seconds)

    def join(self, member: _Member) -> Together:
        """Wait with the others, then go on with what came out."""
        with self._changed:
            if self._closed:
                raise JobError("the run is over")
            self._last = time.monotonic()
            if not self._waiting:
                self._first = self._last
            self._waiting.append(member)
            if self._trainer is None:
                # A daemon: a task that hangs must not keep the process alive.
                self._trainer = threading.Thread(target=self._serve, name="fedcore-cohort", daemon=True)
                self._trainer.start()
            self._changed.notify()
        member.seat.pause()
        member.over.wait()
        member.seat.work()
        if member.error is not None:
            raise member.error
        if member.result is None:
            raise RuntimeError("a participant was let go without a result")
        return member.result

    def _serve(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while (members := self._gathered()) is not None:
            try:
                self._train(members)
            except Exception:
                log.exception("a cohort was not trained")
            del members  # not to be held until the next ones come
        release_resident()

    def _gathered(self) -> list[_Member] | None:
        """Those who are there, once there is no point in waiting for more; None when all is over."""
        with self._changed:
            while (left := self._to_wait()) is None or left > 0:
                self._changed.wait(left)
            members, self._waiting = self._waiting, []
            closed = self._closed
        wanted = []
        for member in members:
            if not closed and member.seat.wanted():
                wanted.append(member)
                continue
            member.error = JobError("nobody waits for this reply any more")
            member.over.set()
        return None if closed else wanted

    def _to_wait(self) -> float | None:
        """Seconds until those who wait are trained; None for as long as nothing happens."""
        if self._closed:
            return 0.0
        there = len(self._waiting)
        if not there:
            return None
        nobody_comes = self._until is not None and not self._until.is_set()
        if there >= self._seats or (nobody_comes and there >= self._inside):
            return 0.0
        patience = max(QUIET, self._last - self._first)
        return max(0.0, self._last + patience - time.monotonic())

    def _train(self, members: Sequence[_Member]) -> None:
        kinds: dict[tuple[Any, ...], list[_Member]] = {}
        for member in members:
            apart = None if row_wise(member.task) else len(member.rows)
            kind = id(member.task), repr(member.local), member.pull, kind_of(member.rows), apart
            kinds.setdefault(kind, []).append(member)
        for alike in kinds.values():
            try:
                self._train_alike(alike)
            finally:
                for member in alike:
                    member.over.set()

    def _train_alike(self, members: list[_Member]) -> None:
        """All of one kind; those who cannot be trained together one by one, so that one's fault is its own."""
        first = members[0]
        try:
            model = resident_model(first.task, first.rows.device)
            reason = self.refused or why_not(model, first.task, first.local)
        except Exception as error:  # noqa: BLE001 - raised again in the participants' own threads
            for member in members:
                member.error = error
            return
        if reason is None:
            reason = self._train_portions(model, [each for each in members if _fits(model, each)])
        if reason is not None and self.refused is None:
            self.refused = reason
            log.warning("participants are trained one by one: %s", reason)
        for member in members:
            if member.result is None and member.error is None:
                _train_alone(model, member)

    def _train_portions(self, model: nn.Module, members: list[_Member]) -> str | None:
        """As many at once as fit into memory; why it cannot be done, if so."""
        # In the order that the training wants, whoever came first.
        size = members[0].local.batch_size if members else 1
        left = sorted(members, key=lambda each: (-math.ceil(len(each.rows) / size), repr(each.seed)))
        while left:
            some = left[: self._most]
            try:
                _train_some(model, some)
            except Exception as error:  # noqa: BLE001 - what cannot be done together may still be done alone
                if not out_of_memory(error):
                    return f"{type(error).__name__}: {error}".partition("\n")[0]
            else:
                left = left[len(some) :]
                continue
            # Only here, when the error and the frames it held are gone, is what they held free.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(some) == 1:
                return "memory is not enough for two"
            self._most = len(some) // 2
            log.warning(
                "memory ran out with %d participants at once; going on with %d", len(some), self._most
            )
        return None


def _fits(model: nn.Module, member: _Member) -> bool:
    """Whether the arrays are the model's and there are rows; who brings others is told by training alone."""
    own = model.state_dict()
    return (
        len(member.rows) > 0
        and own.keys() == member.arrays.keys()
        and all(tuple(member.arrays[name].shape) == tuple(own[name].shape) for name in own)
    )


def _train_some(model: nn.Module, members: Sequence[_Member]) -> None:
    first = members[0]
    state = stacked(model, [member.arrays for member in members], first.rows.device)
    model.train()
    trained = train_cohort(
        model,
        first.task,
        state,
        [member.rows for member in members],
        first.local,
        seeds=[member.seed for member in members],
        pull=first.pull,
    )
    held = {
        name: (stack.float() if stack.dtype == torch.bfloat16 else stack).cpu().numpy()
        for name, stack in state.items()
    }
    for place, member in enumerate(members):
        # The others are trained alone, which skips a step that is not finite or says what is wrong.
        if trained.finite[place]:
            done = Trained(trained.losses[place], trained.steps[place], len(member.rows), first.local.epochs)
            member.result = Together(done, {name: stack[place, ...] for name, stack in held.items()})


def _train_alone(model: nn.Module, member: _Member) -> None:
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
    except Exception as error:  # noqa: BLE001 - raised again in the participant's own thread
        member.error = error
