"""A cohort of which one participant is a process of its own, so that its memory is seen and nobody else's.

The coordinator and the other participants are in the process that starts it. Both sides run what a Flower app with
secure aggregation runs; between them go the records of Flower's messages over a pipe, arrays as they are.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedcore.coordinator.grids.layer import Layer
from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE, EmbeddedGrid, Node
from fedcore.flower import array_record, enter_process, ndarrays
from fedcore.participant.mods.secure import secure_aggregation_mod

ROUNDS = 2
_PLAIN = {ConfigRecord: "config", MetricRecord: "metrics"}


def measure_participant(participants: int, count: int) -> dict[str, Any]:
    """Two rounds of a cohort.

    Args:
        participants: In it.
        count: Parameters of the model.

    Returns:
        Of the round in which it held more, MiB above what the process held before the model came: `trained`, when
        only the model and the update are there, and `peak`; and of the second round, bytes that a participant
        `sent` and `got`, in all stages.
    """
    here, there = multiprocessing.get_context("spawn").Pipe()
    apart = multiprocessing.get_context("spawn").Process(target=_participate, args=(there,), daemon=True)
    apart.start()
    there.close()
    try:
        grid = SecureAggregationGrid(
            _Beside(EmbeddedGrid(_app(), [Node({}, {}) for _ in range(participants)]), here)
        )
        model = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
        for _ in range(ROUNDS):
            arrays = array_record({"weights": model})
            asked = [
                Message(RecordDict({"arrays": arrays}), FIRST_NODE + i, "train") for i in range(participants)
            ]
            (reply,) = grid.send_and_receive(asked)
            model = ndarrays(reply.content["arrays"])["weights"]
        stages = grid.account.stages.values()
        here.send(None)
        held = here.recv()
    finally:
        apart.terminate()
        apart.join()
    sent, got = (sum(stage[way] for stage in stages) / participants for way in ("up", "down"))
    return {**held, "sent": sent, "got": got}


class _Beside(Layer):
    """Hands the messages of the first node to the other process."""

    def __init__(self, grid: EmbeddedGrid, pipe: Connection) -> None:
        super().__init__(grid)
        self._pipe = pipe

    def stream(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message]:
        others = []
        for message in messages:
            if message.metadata.dst_node_id != FIRST_NODE:
                others.append(message)
                continue
            self._pipe.send(message.metadata.message_type)
            _send(self._pipe, message.content)
            yield Message(_receive(self._pipe), reply_to=message)
        yield from super().stream(others, timeout)


def _app() -> ClientApp:
    app = ClientApp(mods=[secure_aggregation_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        sent = ndarrays(message.content["arrays"])
        arrays = array_record({name: value * np.float32(0.99) for name, value in sent.items()})
        _at["trained"] = _resident()
        return Message(
            RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})}), reply_to=message
        )

    return app


_at: dict[str, int] = {}


def _participate(pipe: Connection) -> None:
    """The participant's process: answers until it is told to tell what it held."""
    enter_process()
    app = _app()
    context = Context(run_id=1, node_id=FIRST_NODE, node_config={}, state=RecordDict(), run_config={})
    most = {"trained": 0.0, "peak": 0.0}
    while (kind := pipe.recv()) is not None:
        before = _resident()
        Path("/proc/self/clear_refs").write_text("5")
        message = Message(_receive(pipe), FIRST_NODE, kind)
        reply = app(message, context)
        del message
        _send(pipe, reply.content)
        del reply
        peak = _peak()
        if peak - before > most["peak"] * 2**20:
            most = {"trained": (_at.get("trained", before) - before) / 2**20, "peak": (peak - before) / 2**20}
    pipe.send(most)


def _send(pipe: Connection, content: RecordDict) -> None:
    plain, arrays = {}, []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays += [(name, key, value) for key, value in ndarrays(record).items()]
        else:
            plain[name] = _PLAIN[type(record)], dict(record)
    pipe.send((plain, [(name, key, value.dtype.str, value.shape) for name, key, value in arrays]))
    for _, _, value in arrays:
        pipe.send_bytes(np.ascontiguousarray(value).reshape(-1).view(np.uint8))


def _receive(pipe: Connection) -> RecordDict:
    plain, shapes = pipe.recv()
    kinds = {word: kind for kind, word in _PLAIN.items()}
    content = RecordDict({name: kinds[word](held) for name, (word, held) in plain.items()})
    found: dict[str, dict[str, Any]] = {}
    for name, key, dtype, shape in shapes:
        value = np.empty(shape, dtype)
        pipe.recv_bytes_into(value.reshape(-1).view(np.uint8))
        found.setdefault(name, {})[key] = value
    for name, arrays in found.items():
        content[name] = array_record(arrays)
    return content


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """The most that was resident since the mark was last put back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell the peak of a process's memory")
