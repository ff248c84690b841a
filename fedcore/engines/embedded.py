"""The in-process engine: a Flower `Grid` that calls the `ClientApp` directly, in threads.

No Ray, no sockets, no child process. Each worker thread keeps one resident model and participants are
streamed through it, so that memory does not grow with the cohort. It is the default, for demos, tests,
notebooks and studies, and the fast simulator. On request participants that train are gathered and trained as one
batched model (`fedcore.learning.rendezvous`); each of them then has a thread while it waits.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedcore.engines.pace import Pace
from fedcore.flower import (
    NODE_UNAVAILABLE,
    Run,
    array_record,
    copy_content,
    empty_run,
    enter_process,
    error_reply,
    ndarrays,
    stamp,
    through_the_wire,
)
from fedcore.learning.members import Seat
from fedcore.learning.rendezvous import NEVER, Rendezvous
from fedcore.learning.training import release_resident

FIRST_NODE = 100
AHEAD = 2  # messages given to the workers beyond those being worked on
LEAVE = 5.0  # seconds that idle threads may take to end


@dataclass(frozen=True)
class Node:
    """A participant's seat.

    Args:
        config: Its `node_config`, as a SuperNode would have it.
        run_config: Of the run, as the `ClientApp` sees it.
    """

    config: Mapping[str, Any]
    run_config: Mapping[str, Any]


class EmbeddedGrid(Grid):
    """Runs a `ClientApp` for each message, in worker threads of this process.

    Args:
        client_app: Any Flower `ClientApp`.
        nodes: One per participant; node ids are 100, 101, ...
        workers: Threads; each handles one message at a time. Fewer are used while that is faster (see `pace`).
        serialize: Send every message through Flower's wire format both ways, as a network would.
        threads: That torch may use for one operation in a worker; as in other threads when None.
        together: Participants whose training is done as one; each trains alone when below 2.

    Attributes:
        down: Ids of nodes that are offline: not listed, and an error reply when asked. For tests.
    """

    def __init__(
        self,
        client_app: ClientApp,
        nodes: Sequence[Node],
        *,
        workers: int = 1,
        serialize: bool = False,
        threads: int | None = None,
        together: int = 0,
    ) -> None:
        enter_process()
        self._app = client_app
        self._run = empty_run()
        self._serialize = serialize
        self._contexts = {
            FIRST_NODE + i: Context(
                run_id=self._run.run_id,
                node_id=FIRST_NODE + i,
                node_config=dict(node.config),
                state=RecordDict(),
                run_config=dict(node.run_config),
            )
            for i, node in enumerate(nodes)
        }
        self._workers = _Workers(max(1, workers), threads)
        self._pace = Pace(self._workers.count)
        self._meeting: Rendezvous | None = None
        self._crowd: _Workers | None = None
        if together > 1:
            self._meeting = Rendezvous(
                together, self._workers.count, None if threads is None else threads * self._workers.count
            )
            self._crowd = _Workers(together, threads, self._meeting)
        self._pushed: dict[str, _Work] = {}
        self.down: set[int] = set()

    def set_run(self, run: Run) -> None:
        """Keep the run's details."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's details."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Nodes that are online."""
        return [node for node in self._contexts if node not in self.down]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start the work; ids to pull the replies by."""
        ids = []
        self._workers.let(self._workers.count)
        self._more_after(None)
        for message in messages:
            work = self._work(message)
            self._pushed[work.message.metadata.message_id] = work
            self._pool(work.kind).submit(work)
            ids.append(work.message.metadata.message_id)
        self._more_after(NEVER)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are ready, each once."""
        ready = [i for i in message_ids if i in self._pushed and self._pushed[i].done.is_set()]
        return [self._pushed.pop(i).result() for i in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies, in the order of the messages."""
        return list(self.stream(messages, timeout))

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        """Replies in the order of the messages, each as soon as it and those before it are there.

        Messages are given to the workers only a few at a time: at most workers + 2 replies wait to be taken,
        however large the cohort; where participants are trained together, as many as that, + 2.

        Args:
            messages: To send.
            timeout: Seconds for all of them together; one without a reply by then gets an error reply, and
                the thread that works on it is left behind and replaced.
        """
        end = None if timeout is None else time.monotonic() + timeout
        source = iter(messages)
        lazy: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
        waiting: deque[_Work] = deque()
        room = (self._crowd or self._workers).count + AHEAD
        exhausted = False
        last = time.monotonic()
        try:
            while waiting or not exhausted:
                self._more_after(NEVER if exhausted else None)
                while not exhausted and len(waiting) < room:
                    message = next(source, None)
                    if message is None:
                        exhausted = True
                        break
                    work = self._work(message, lazy)
                    pool = self._pool(work.kind)
                    if pool is self._workers:
                        pool.let(self._pace.limit(work.kind))
                    pool.submit(work)
                    waiting.append(work)
                if not waiting:
                    break
                work = waiting[0]
                self._more_after(NEVER if exhausted else work.done)
                if work.done.wait(None if end is None else max(0.0, end - time.monotonic())):
                    now = time.monotonic()
                    if work.seat is None:
                        self._pace.replied(work.kind, now - last)
                    last = now
                    yield waiting.popleft().result()
                else:
                    waiting.popleft()
                    self._abandon(work)
                    yield error_reply(work.asked, f"no reply within {timeout:g} s", NODE_UNAVAILABLE)
        finally:
            for work in waiting:
                self._abandon(work)
            self._more_after(NEVER)

    def close(self) -> None:
        """End the worker threads; waits for those that are idle."""
        if self._meeting is not None:
            self._meeting.close(LEAVE)
        if self._crowd is not None:
            self._crowd.close()
        self._workers.close()

    def _pool(self, kind: str) -> _Workers:
        """The threads that serve a kind of message."""
        if self._crowd is None or self._meeting is None or kind != "train" or self._meeting.refused:
            return self._workers
        return self._crowd

    def _abandon(self, work: _Work) -> None:
        pool = self._workers if work.seat is None or self._crowd is None else self._crowd
        pool.abandon(work)

    def _more_after(self, answered: threading.Event | None) -> None:
        """Say when more messages may come: at once, or when one in work is answered."""
        if self._meeting is not None:
            self._meeting.until(answered)

    def _work(
        self, message: Message, lazy: dict[int, tuple[ArrayRecord, ArrayRecord]] | None = None
    ) -> _Work:
        stamp(message)
        asked = Message(message.content, metadata=message.metadata)  # type: ignore[call-overload]
        if not self._serialize:
            asked.content = _shared(message.content, {} if lazy is None else lazy)
        return _Work(self, message, asked)

    def answer(self, work: _Work) -> Message:
        """Call the `ClientApp` for one message."""
        message = work.message
        node = message.metadata.dst_node_id
        context = self._contexts.get(node)
        if context is None or node in self.down:
            return error_reply(message, "the node is offline", NODE_UNAVAILABLE)
        if not self._serialize:
            return self._app(message, context)
        return through_the_wire(self._app(through_the_wire(message), context))


def _shared(content: RecordDict, lazy: dict[int, tuple[ArrayRecord, ArrayRecord]]) -> RecordDict:
    """The content for one receiver: arrays parsed once and shared by all of them, the rest copied."""
    copied = copy_content(content)
    for name, record in list(copied.items()):
        if not isinstance(record, ArrayRecord):
            continue
        # The record itself is kept beside its copy: an id is only unique while its object lives.
        kept = lazy.get(id(record)) or (record, array_record(ndarrays(record)))
        lazy[id(record)] = kept
        copied[name] = kept[1]
    return copied


class _Work:
    """One message on its way through a worker."""

    def __init__(self, grid: EmbeddedGrid, asked: Message, message: Message) -> None:
        self.grid, self.asked, self.message = grid, asked, message
        self.done = threading.Event()
        self.abandoned = False
        self.seat: Seat | None = None
        self._reply: Message | None = None

    @property
    def kind(self) -> str:
        """Type of the message."""
        return self.asked.metadata.message_type

    def __call__(self) -> None:
        if self.abandoned:
            return
        try:
            self._reply = self.grid.answer(self)
        except BaseException as error:  # SystemExit would end the thread, and no reply would come
            logging.getLogger("fedcore.engines").exception("the ClientApp raised")
            self._reply = error_reply(self.asked, f"the ClientApp raised {type(error).__name__}")
        self.done.set()

    def result(self) -> Message:
        """The reply, once `done`."""
        if self._reply is None:
            raise RuntimeError("the reply was taken before it was there")
        return self._reply


class _Workers:
    """Daemon threads: one that hangs in a task must not keep the process alive, and is replaced.

    Args:
        count: How many.
        threads: As for the grid.
        meeting: Where they wait to be trained together.
    """

    def __init__(self, count: int, threads: int | None, meeting: Rendezvous | None = None) -> None:
        self.count = count
        self._meeting = meeting
        self._torch_threads = threads
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._busy: dict[int, _Work] = {}
        self._lock = threading.Lock()
        self._left_behind: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._seats: dict[int, int] = {}
        self._limit = count
        self._room = threading.Condition(self._lock)
        for seat in range(count):
            self._start(seat)

    def _start(self, seat: int) -> None:
        thread = threading.Thread(target=self._loop, args=(seat,), name="fedcore-participant", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _next(self, seat: int) -> _Work | None:
        with self._room:
            self._room.wait_for(lambda: seat < self._limit)
        return self._queue.get()

    def let(self, limit: int) -> None:
        """Have only so many workers take work; one that waits for work already takes one more message."""
        if limit == self._limit:
            return
        with self._room:
            self._limit = limit
            self._room.notify_all()

    def _loop(self, seat: int) -> None:
        me = threading.get_ident()
        if self._torch_threads is not None:
            torch.set_num_threads(self._torch_threads)
        while (work := self._next(seat)) is not None:
            with self._lock:
                self._busy[me] = work
                self._seats[me] = seat
            with work.seat or contextlib.nullcontext():
                work()
                if self._meeting is not None:
                    release_resident()  # a crowd has hundreds of threads, and few of them ever train alone
            with self._lock:
                del self._busy[me]
                if me in self._left_behind:
                    self._left_behind.discard(me)
                    break
            del work
        release_resident()

    def submit(self, work: _Work) -> None:
        """Queue it."""
        if self._meeting is not None:
            work.seat = Seat(self._meeting, lambda: not work.abandoned)
            self._meeting.entered()
        self._queue.put(work)

    def abandon(self, work: _Work) -> None:
        """Wait for it no longer; a thread in the middle of it ends when it comes out, and has a successor."""
        with self._lock:
            work.abandoned = True
            stuck = [ident for ident, busy in self._busy.items() if busy is work and not work.done.is_set()]
            self._left_behind.update(stuck)
            seats = [self._seats[ident] for ident in stuck]
        if stuck and work.seat is not None:
            work.seat.leave()
        for seat in seats:
            self._start(seat)

    def close(self) -> None:
        """End idle threads and wait until they are gone.

        A thread's resident model goes with it. Were that to happen while the interpreter ends, Python would end
        the thread inside torch's destructors, and the process would abort.
        """
        self.let(self.count)
        for _ in range(self.count):
            self._queue.put(None)
        end = time.monotonic() + LEAVE
        for thread in self._threads:
            if thread.ident not in self._left_behind:
                thread.join(max(0.0, end - time.monotonic()))
