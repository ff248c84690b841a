"""Where participants that work in threads of one process meet, to be trained as one batched model.

Each participant's thread comes with its received arrays and its rows, waits, and goes on with the arrays that training made
of them; what it does before and after, its policy and its release gate among it, stays its own. One further thread trains
(`fedcore.learning.cohort`), as soon as all who can come are there: every seat is taken, or nobody else is in work, or nobody
has come for a while, so that one who hangs or fails does not keep the others waiting. Where the training itself hangs, and
nobody waits any more for those it trains, another thread takes its place.

A thread works on a turn, of which there are as many as workers, and hands it on while it waits: hundreds may wait, but
only a few read data or pack replies at a time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from fedcore.errors import JobError
from fedcore.jobs.job import LocalTraining
from fedcore.learning.cohort import NotTogetherError, kind_of, stacked, train_cohort, why_not
from fedcore.learning.cohort_model import row_wise
from fedcore.learning.device import device_lost
from fedcore.learning.examples import Examples
from fedcore.learning.members import Member, Together, end, fits, seat_here, train_alone
from fedcore.learning.memory import out_of_memory
from fedcore.learning.task import Task
from fedcore.learning.training import (
    Trained,
    release_resident,
    resident_model,
)
from strategies.base import ClientHalf
from strategies.fedprox import FedProxClient

NDArray = npt.NDArray[Any]

QUIET = 2.0  # seconds without a newcomer after which those who are there are trained, if the others took no longer

NEVER = threading.Event()
"""An event that nobody sets."""

log = logging.getLogger("fedcore.learning")


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
    seat = seat_here()
    if seat is None or seat.meeting.refused is not None or not serves(type(half) if half else None):
        return None
    pull = float((config or {})["proximal-mu"]) if half else 0.0
    return seat.meeting.join(Member(seat, task, rows, local, arrays, seed, half, config or {}, pull))


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
        self._waiting: list[Member] = []
        self._first = self._last = 0.0
        self._inside = 0
        self._until: threading.Event | None = None
        self._closed = False
        self._trainer: threading.Thread | None = None
        self._training: list[Member] = []  # those whom the trainer works on
        self._compared: list[Task] = []  # whose two ways to say a loss were seen to be one

    def entered(self) -> None:
        """A message was given to the threads; `Seat.leave` says that it is done with."""
        with self._changed:
            self._inside += 1

    def left(self) -> None:
        """A message is done with."""
        with self._changed:
            self._inside -= 1
            # A task that hangs: its participants were given up one after another, and this was the last.
            left = all(member.seat.empty for member in self._training)
            if left and not all(member.over.is_set() for member in self._training):
                self._send_away(self._training)
                self._training, self._trainer = [], None
                if self._waiting:
                    self._start()
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

    def join(self, member: Member) -> Together:
        """Wait with the others, then go on with what came out."""
        with self._changed:
            if self._closed:
                raise JobError("the run is over")
            self._last = time.monotonic()
            if not self._waiting:
                self._first = self._last
            self._waiting.append(member)
            if self._trainer is None:
                self._start()
            self._changed.notify()
        member.seat.pause()
        member.over.wait()
        member.seat.work()
        if member.error is not None:
            raise member.error
        if member.result is None:
            raise RuntimeError("a participant was let go without a result")
        return member.result

    def _start(self) -> None:
        # A daemon: a task that hangs must not keep the process alive.
        self._trainer = threading.Thread(target=self._serve, name="fedcore-cohort", daemon=True)
        self._trainer.start()

    def _serve(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while (members := self._gathered()) is not None:
            self._train(members)
            del members  # not to be held until the next ones come
        release_resident()

    @staticmethod
    def _send_away(members: Sequence[Member]) -> None:
        for member in members:
            if not member.over.is_set():
                member.error = JobError("nobody waits for this reply any more")
                member.over.set()

    def _gathered(self) -> list[Member] | None:
        """Those who are there, once there is no point in waiting for more; None when all is over for this thread."""
        with self._changed:
            if self._trainer is not threading.current_thread():
                return None  # it hung, and has a successor
            self._training = []
            while (left := self._to_wait()) is None or left > 0:
                self._changed.wait(left)
            members, self._waiting = self._waiting, []
            wanted = [] if self._closed else [member for member in members if member.seat.wanted()]
            self._send_away([member for member in members if member not in wanted])
            self._training = wanted
            return None if self._closed else wanted

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

    def _train(self, members: Sequence[Member]) -> None:
        """All of them, kind by kind; whatever happens, each is told to go on."""
        kinds: dict[tuple[Any, ...], list[Member]] = {}
        try:
            for member in members:
                apart = None if row_wise(member.task) else len(member.rows)
                kind = id(member.task), repr(member.local), member.pull, kind_of(member.rows), apart
                kinds.setdefault(kind, []).append(member)
            for alike in kinds.values():
                self._train_kind(alike)
        except BaseException as error:  # noqa: BLE001 - raised again in the participants' own threads
            end([member for member in members if not member.over.is_set()], error)

    def _train_kind(self, members: list[Member]) -> None:
        try:
            self._train_alike(members)
        except BaseException as error:  # noqa: BLE001 - as above; other kinds go on
            end(members, error)
        else:
            end(members)

    def _train_alike(self, members: list[Member]) -> None:
        """All of one kind; those who cannot be trained together one by one, so that one's fault is its own."""
        first = members[0]
        model = resident_model(first.task, first.rows.device)
        reason = self.refused or why_not(model, first.task, first.local)
        if reason is None:
            reason = self._train_portions(model, [each for each in members if fits(model, each)])
        if reason is not None and self.refused is None:
            self.refused = reason
            log.warning("participants are trained one by one: %s", reason)
        for member in members:
            if not member.over.is_set():
                if member.result is None and member.error is None:
                    train_alone(model, member)
                member.over.set()

    def _train_portions(self, model: nn.Module, members: list[Member]) -> str | None:
        """As many at once as fit into memory; why it cannot be done for any participants, if so."""
        # In the order that the training wants, whoever came first.
        size = members[0].local.batch_size if members else 1
        left = sorted(members, key=lambda each: (-math.ceil(len(each.rows) / size), repr(each.seed)))
        most = self._most
        while left:
            some = left[:most]
            try:
                self._train_some(model, some)
            except NotTogetherError as error:
                return error.reason
            except BaseException as error:
                if device_lost(error):
                    raise
                full, why = out_of_memory(error), _words_of(error)
            else:
                end([member for member in some if member.result is not None])
                # A thread that hung for a while may find that nobody waits any more.
                left = [member for member in left[len(some) :] if not member.over.is_set()]
                most = min(2 * most, self._most)
                continue
            if full:
                # Only here, when the error and the frames it held are gone, is what they held free.
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if len(some) == 1:
                    return "memory is not enough for two"
                self._most = most = len(some) // 2
                log.warning(
                    "memory ran out with %d participants at once; going on with %d", len(some), self._most
                )
            elif len(some) > 1:
                most = len(some) // 2  # in halves of halves it shows whose fault it is
            else:
                (member,) = some
                train_alone(model, member)
                if member.error is None:
                    return why  # not that of the participant, which can be trained
                left = left[1:]
        return None

    def _train_some(self, model: nn.Module, members: Sequence[Member]) -> None:
        first = members[0]
        compared = any(task is first.task for task in self._compared)
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
            compare=not compared,
        )
        if not compared and any(trained.finite):
            self._compared.append(first.task)
        held = {
            name: (stack.float() if stack.dtype == torch.bfloat16 else stack).cpu().numpy()
            for name, stack in state.items()
        }
        for place, member in enumerate(members):
            # The others are trained alone, which skips a step that is not finite or says what is wrong.
            if trained.finite[place]:
                done = Trained(
                    trained.losses[place], trained.steps[place], len(member.rows), first.local.epochs
                )
                member.result = Together(done, {name: stack[place, ...] for name, stack in held.items()})


def _words_of(error: BaseException) -> str:
    """What the log may say: the text only where `vmap` wrote it, as any other may quote the rows."""
    first = str(error).partition("\n")[0]
    told = isinstance(error, RuntimeError) and first.startswith(("vmap", "Batching rule"))
    return f"{type(error).__name__}: {first}" if told else type(error).__name__
