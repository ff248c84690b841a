"""Throughput of the connection between two parties on this machine: in memory, over gRPC with TLS, and relayed.

Each way of connecting carries the same messages in one direction, from a sender that has them in memory to a receiver
that has them whole in memory: in one process for memory, else with each party (and the relay) a process of its own.
Time runs from the receiver's first message to its last. Processor time is that of all processes from their start.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import Figure, Report, Target, machine, parser, progress
from benchmarks.measure import alternate, middle
from fedcore.peer.channel import FramedChannel
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.link import Settings
from fedcore.peer.listening import Listener
from fedcore.peer.memory import MemoryChannel
from fedcore.peer.relay import Relay, RelayedChannel
from fedcore.peer.tls import Peer
from fedcore.trust.identity import load_identity, new_identity

MIB = 2**20
LEAST = {"memory": 1000, "gRPC with TLS": 400}
NAMES = ("sender", "receiver", "relay")
DEADLINE = 60.0


def main(words: Sequence[str] | None = None) -> Report:
    """Measure the ways in turn."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--mib", type=int, default=128, help="of one message (128)")
    options.add_argument("--messages", type=int, default=16, help="in one direction (16)")
    chosen = options.parse_args(words)
    psutil.Process().cpu_affinity(psutil.Process().cpu_affinity()[: chosen.cores])
    ways: dict[str, Callable[[int, int], dict[str, float]]] = {
        "memory": in_memory,
        "gRPC with TLS": over_grpc,
        "relayed, sealed and TLS twice": through_relay,
    }

    def once(name: str, way: Callable[[int, int], dict[str, float]]) -> dict[str, float]:
        progress(f"{name}: {chosen.messages} messages of {chosen.mib} MiB", chosen.json)
        return way(chosen.mib * MIB, chosen.messages)

    measured = alternate(
        {name: lambda number, name=name, way=way: once(name, way) for name, way in ways.items()},
        chosen.repeats,
    )
    figures: list[Figure] = [
        {"way": name, **{key: middle([one[key] for one in told]) for key in told[0]}}
        for name, told in measured.items()
    ]
    speeds = {row["way"]: row["MB/s"] for row in figures}
    report = Report(
        "channel",
        {
            "MiB a message": chosen.mib,
            "messages": chosen.messages,
            "KiB a frame": Settings().part // 1024,
            "frames that wait": Settings().window,
            "repeats": chosen.repeats,
            "machine": machine(),
        },
        figures,
        [Target(f"{name}, MB/s", speeds[name], at_least=least) for name, least in LEAST.items()],
    )
    report.tell(chosen.json)
    return report


def in_memory(size: int, messages: int) -> dict[str, float]:
    """Two threads of this process."""
    before = sum(os.times()[:2])
    one, other = MemoryChannel.pair()
    sender = threading.Thread(target=send, args=(one, size, messages))
    sender.start()
    told = receive(other, size, messages)
    sender.join()
    return {**told, "cpu seconds": sum(os.times()[:2]) - before}


def over_grpc(size: int, messages: int) -> dict[str, float]:
    """Two processes; the receiver listens."""
    with tempfile.TemporaryDirectory() as name:
        folder = keys(Path(name))
        return parties(folder, [(_listening, ()), (_connecting, ())], size, messages)


def through_relay(size: int, messages: int) -> dict[str, float]:
    """Three processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = keys(Path(name))
        return parties(
            folder,
            [(_relaying, ()), (_meeting, ("receiver", receive)), (_meeting, ("sender", send))],
            size,
            messages,
        )


def keys(folder: Path) -> Path:
    """A key for each process."""
    for name in NAMES:
        new_identity(folder / f"{name}.key", name)
    return folder


def parties(folder: Path, roles: list[Any], size: int, messages: int) -> dict[str, float]:
    """Run processes; the first tells its address to the others, the receiver what it measured."""
    context = multiprocessing.get_context("spawn")
    address, told, done = context.Queue(), context.Queue(), context.Event()
    started = [
        context.Process(target=work, args=(folder, address, told, done, size, messages, *more), daemon=True)
        for work, more in roles
    ]
    for process in started:
        process.start()
    found: dict[str, float] = {}
    cpu = 0.0
    for _ in started[1:] if len(started) == 3 else started:
        figures, seconds = told.get(timeout=600)
        found |= figures
        cpu += seconds
    done.set()
    if len(started) == 3:
        cpu += told.get(timeout=60)[1]
    for process in started:
        process.join(60)
    return {**found, "cpu seconds": cpu}


def _listening(folder: Path, address: Any, told: Any, done: Any, size: int, messages: int) -> None:
    identity, peer = load_identity(folder / "receiver.key"), _peer(folder, "sender")
    listener = Listener("127.0.0.1:0", identity=identity, peer=peer, session="benchmark")
    address.put(listener.address)
    with listener.accept(DEADLINE) as channel:
        figures = receive(channel, size, messages)
    told.put((figures, sum(os.times()[:2])))


def _connecting(folder: Path, address: Any, told: Any, done: Any, size: int, messages: int) -> None:
    identity, peer = load_identity(folder / "sender.key"), _peer(folder, "receiver")
    at = address.get(timeout=DEADLINE)
    with GrpcChannel.connect(
        at, identity=identity, peer=peer, session="benchmark", deadline=DEADLINE
    ) as channel:
        send(channel, size, messages)
    told.put(({}, sum(os.times()[:2])))


def _relaying(folder: Path, address: Any, told: Any, done: Any, size: int, messages: int) -> None:
    served = [_peer(folder, name) for name in ("sender", "receiver")]
    with Relay("127.0.0.1:0", identity=load_identity(folder / "relay.key"), parties=served) as relay:
        for _ in served:
            address.put(relay.address)
        done.wait(600)
    told.put(({}, sum(os.times()[:2])))


def _meeting(
    folder: Path, address: Any, told: Any, done: Any, size: int, messages: int, name: str, role: Any
) -> None:
    other = _peer(folder, "sender" if name == "receiver" else "receiver")
    with RelayedChannel.connect(
        address.get(timeout=DEADLINE),
        relay=_peer(folder, "relay"),
        identity=load_identity(folder / f"{name}.key"),
        peer=other,
        session="benchmark",
        deadline=DEADLINE,
    ) as channel:
        figures = role(channel, size, messages) or {}
    told.put((figures, sum(os.times()[:2])))


def _peer(folder: Path, name: str) -> Peer:
    return Peer(name, (folder / f"{name}.key.pub").read_text())


def send(channel: FramedChannel, size: int, messages: int) -> None:
    """One message to begin with, then those that are measured, each from the same memory."""
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    channel.send("warm", data[:MIB])
    for _ in range(messages):
        channel.send("measured", data)


def receive(channel: FramedChannel, size: int, messages: int) -> dict[str, float]:
    """Take them all; each is dropped when the next comes."""
    channel.recv("warm", limit=MIB)
    began = time.perf_counter()
    for _ in range(messages):
        channel.recv("measured", size=size)
    seconds = time.perf_counter() - began
    return {
        "MB/s": size * messages / seconds / 1e6,
        "seconds": seconds,
        "most frames that waited": max(channel.link.incoming.highest, channel.link.outgoing.highest),
    }


if __name__ == "__main__":
    main()
