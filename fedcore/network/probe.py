"""What this machine can do, found out in at most ten seconds when a node joins and in one second later.

Nothing is measured for longer than its share of the budget. A machine on which others work at the time gives numbers
that are in doubt, and those are marked rather than hidden.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from fedcore.errors import JobError
from fedcore.network import power, rates
from fedcore.network.quantity import Quantity, counted, doubted, measured, moment

JOIN_SECONDS, LATER_SECONDS = 10.0, 1.0
_LEAST_SECONDS, _MOST_SECONDS = 0.2, 60.0
_BUSY = 0.25
"""Share of the processors that others may use before what is measured is in doubt."""
_IN_USE = 0.85
"""Of the budget that is given out; each measurement may end one repetition late."""

# In this order: what may end late comes last.
_CPU_SHARES = {
    "ecc.ristretto": 0.06,
    "ecc.x25519": 0.06,
    "cipher.keystream": 0.06,
    "gemm.cpu.fp32": 0.22,
    "gemm.cpu.fp64": 0.16,
    "gemm.cpu.bf16": 0.12,
    "gemm.cpu.fp16": 0.12,
    "memory.cpu.bandwidth": 0.14,
}
_CUDA_SHARES = {
    "gemm.cuda.fp32": 0.2,
    "gemm.cuda.fp64": 0.2,
    "gemm.cuda.bf16": 0.15,
    "gemm.cuda.fp16": 0.15,
    "memory.cuda.bandwidth": 0.1,
}
_LATER = ("gemm.cpu.fp32", "gemm.cuda.fp32", "ecc.ristretto", "cipher.keystream")
"""What is looked at again on a node that is known."""


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Args:
        quantities: By name, as `fedcore.network.quantity.LIMITS` has them.
        seconds: That measuring took; loading libraries beforehand is not in it.
        busy: Share of the processors that others used when it began, 0 to 1.
        processor: The processor's name.
        skipped: What was not measured, and why.
    """

    quantities: dict[str, Quantity]
    seconds: float
    busy: float
    processor: str
    skipped: dict[str, str]


def probe(
    seconds: float = JOIN_SECONDS,
    *,
    devices: str = "auto",
    counters: power.EnergyCounters | None = None,
    report: Callable[[str], None] = lambda name: None,
) -> Probed:
    """Measure this machine.

    Args:
        seconds: Budget: 10 when a node joins, 1 later; within 2 s only what changes is looked at.
        devices: `auto` takes a CUDA device where there is one, `cpu` leaves it alone.
        counters: Of energy; this machine's by default.
        report: Told the name of each measurement when it begins.

    Raises:
        JobError: The budget is not from 0.2 to 60 s, or there is no such device.
    """
    if not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise JobError(
            f"a probe of {seconds:g} s; allowed: {_LEAST_SECONDS:g} to {_MOST_SECONDS:g} s, so that it hinders no work. "
            f"Cure: {JOIN_SECONDS:g} when a node joins, {LATER_SECONDS:g} later"
        )
    cuda = _cuda(devices)
    _warm()
    counters = counters or power.EnergyCounters()
    began = time.perf_counter()
    busy = psutil.cpu_percent(interval=min(0.2, seconds / 10)) / 100
    idle = power.idle_samples(counters, seconds=min(0.1, seconds / 20))
    found: dict[str, Quantity] = dict(_counted(cuda))
    skipped: dict[str, str] = {}
    load: list[float] = []
    plan = {**_CPU_SHARES, **(_CUDA_SHARES if cuda else {})}
    if seconds <= 2:
        plan = {name: share for name, share in plan.items() if name in _LATER}
    scale = (seconds * _IN_USE - (time.perf_counter() - began)) / sum(plan.values())
    for name, share in plan.items():
        if time.perf_counter() - began > seconds * _IN_USE:
            skipped[name] = "the time was over"
            continue
        report(name)
        at, before = time.perf_counter(), counters.read()
        quantity = _measured(name, share * scale)
        if quantity is None:
            skipped[name] = "this device cannot multiply in this precision"
            continue
        if name.startswith("gemm."):
            load.append(counters.watts(before, counters.read(), time.perf_counter() - at))
        found[name] = quantity
    took = time.perf_counter() - began
    if busy > _BUSY:
        found = {
            name: doubted(each, f"others used {busy:.0%} of the processors") if each.spread else each
            for name, each in found.items()
        }
    processor = power.processor_name()
    found |= power.power(
        idle,
        load if counters.names else [],
        model=processor,
        cores=found["cores"].value,
        names=counters.names,
        accelerators=cuda,
    )
    return Probed(found, took, busy, processor, skipped)


def work_rate(result: Mapping[str, Any], participant: str) -> tuple[str, Quantity]:
    """Samples per second at which a participant's node did a real job: the number that predicts its next round.

    Args:
        result: What `result.json` of a finished run of training holds.
        participant: The node's owner.

    Returns:
        `work.<name of the job>`, and samples/s: rows, times epochs, over the seconds that the site's training took as
        the coordinator saw it, of all rounds but the first, which also loads and compiles. Rows are those of an average
        participant, as a request has them, which asks everybody for the same: what is predicted from the rate is then
        this participant's own time, however many rows it has.

    Raises:
        JobError: The run is none of training, or the participant trained in no round of it.
    """
    job = result.get("job") or {}
    if result.get("kind") != "train" or not isinstance(job.get("name"), str):
        raise JobError(
            "a rate of work comes from a run of training; this result is none. Cure: runs/<name>/result.json"
        )
    epochs = (job.get("local") or {}).get("epochs") or 1
    mean = mean_rows(result)
    seen: list[float] = []
    for each in result.get("rounds") or ():
        site = (each.get("sites") or {}).get(participant) or {}
        taken, rows = (site.get("seconds") or {}).get("train"), mean or site.get("examples")
        lost = any(gone.get("party") == participant for gone in each.get("lost") or ())
        if taken and rows and not lost:
            seen.append(rows * epochs / taken)
    if not seen:
        raise JobError(
            f"{participant} trained in no round of the run {result.get('run')}; allowed: a participant of it. Cure: name "
            "the owner as the run does",
            party=participant,
        )
    kept = seen[1:] or seen
    at = result.get("started")
    try:
        when = moment(at) if isinstance(at, str) else None
    except ValueError:
        when = None
    quantity = measured(kept, "samples/s", f"{len(kept)} rounds of the run {result.get('run')}", at=when)
    return f"work.{job['name']}", quantity if when else replace(quantity, at="")


def mean_rows(result: Mapping[str, Any]) -> float | None:
    """Rows that an average participant of a run trains on; None where the run does not say.

    Args:
        result: As of `work_rate`. Under secure aggregation the run knows the sum alone.
    """
    members = result.get("participants") or ()
    totals = (result.get("prepare") or {}).get("totals") or {}
    rows = totals.get("train_rows") or sum(each.get("train_rows") or 0 for each in members)
    return rows / len(members) if members and rows else None


def newer(known: Mapping[str, Quantity], seen: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """What is known after a later probe: what was measured again takes the older value's place, also when it is in
    doubt. Two measurements are never made into one mean, in which a doubt would be lost."""
    return {**known, **seen}


# ---- one at a time -----------------------------------------------------------------------------------------------


def _measured(name: str, seconds: float) -> Quantity | None:
    what, _, rest = name.partition(".")
    device, _, which = rest.partition(".")
    if what == "gemm":
        return rates.matrix_product(device, which, seconds)
    if what == "memory":
        return rates.memory_bandwidth(device, seconds, free=_free(device))
    once: dict[str, Callable[[float], Quantity]] = {
        "ecc.ristretto": rates.ristretto,
        "ecc.x25519": rates.x25519,
        "cipher.keystream": rates.keystream,
    }
    return once[name](seconds)


def _counted(cuda: int) -> dict[str, Quantity]:
    found = {
        "cores": counted(usable_cores(), "cores", "cores that the system lets this process use"),
        "memory.cpu": counted(psutil.virtual_memory().total / 1e9, "GB", "memory of the machine"),
    }
    if cuda:
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        found["accelerators"] = counted(cuda, "devices", "CUDA devices that torch sees")
        found["memory.cuda"] = counted(total / 1e9, "GB", f"memory of one {torch.cuda.get_device_name(0)}")
    return found


def usable_cores() -> float:
    """Cores that this process may use: what the system allows, or less where a container is given a share."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return min(cores, int(quota) / int(period)) if quota.isdigit() and int(period) else cores


def _free(device: str) -> int:
    if device == "cpu":
        return int(psutil.virtual_memory().available) // 2
    import torch

    return int(torch.cuda.mem_get_info()[0])


def _cuda(devices: str) -> int:
    """How many CUDA devices to measure at."""
    if devices not in ("auto", "cpu", "cuda"):
        raise JobError(f"devices is {devices!r}; allowed: auto, cpu, cuda")
    if devices == "cpu":
        return 0
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices == "cuda" and not count:
        raise JobError(
            "no CUDA device is there; allowed: auto or cpu. Cure: install a CUDA build of torch and a driver"
        )
    return count


def _warm() -> None:
    """Load what is loaded once in a process, so that the clock sees none of it."""
    import torch

    torch.mm(torch.ones(8, 8), torch.ones(8, 8))
    for once in (rates.ristretto, rates.x25519):
        once(0.0)
    rates.keystream(0.0)


def names(probed: Sequence[str]) -> list[str]:
    """Names of quantities in the order in which a person reads them: what it is, how fast, what it costs."""
    first = (
        "cores",
        "accelerators",
        "memory",
        "gemm",
        "work",
        "ecc",
        "cipher",
        "link",
        "rtt",
        "power",
        "pue",
    )
    order = {word: index for index, word in enumerate(first)}
    return sorted(
        probed, key=lambda name: (order.get(name.split(".")[0], len(first)), len(name.split(".")) > 2, name)
    )
