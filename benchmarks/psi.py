"""Set intersection of two parties on this machine: fedcore, and SecretFlow's `spu` on the same rows.

    python benchmarks/psi.py --items 1048576 --protocol vole --peer spu --json
    python benchmarks/psi.py --table --peer spu

Each side has distinct identifiers of 64 bits in random order and shares half of them. fedcore reads Parquet and writes
Parquet, as two processes of `fedcore psi party` over gRPC with mutual TLS; `spu` reads and writes CSV, the format it
has, without encryption. Wall time runs from before the first process starts until both have ended, with all that
a process does at its start. The left party learns the result, which must be exact.

`spu` is measured on a file that it sees for the first time (`.csv.meta`, where it keeps what it learnt of a file, is
removed) and needs an environment of its own, made under `.fedcore/bench/`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import SIDES, WORK, Figure, Report, Target, machine, parser, progress, ratio
from benchmarks.measure import MIB, MeasurementFailed, alternate, middle, tail, use_cores
from benchmarks.psi_costs import crossings, multiplication
from benchmarks.sides.psi_ids import csv_is_exact, file_of, generate, rows_are_exact
from fedcore.trust.identity import new_identity

SPU = "0.9.5"
PEER = {"vole": "RR22", "vole-compact": None, "ecdh": "ECDH"}
"""What `spu` has beside each protocol: its own mode of few bytes loses matches and is no peer of ours."""
TABLE = [
    (2**20, "vole"), (10**7, "vole"), (10**8, "vole"),
    (2**20, "vole-compact"), (10**7, "vole-compact"), (2**20, "ecdh"),
]  # fmt: skip
WARM_UP = 1000
LINE, LATENCY = 100e6, 0.020
MULTIPLICATIONS = 4
"""Of protocol ecdh, for each pair of items: two at each party."""

CPU, PEAK = "cpu s", "peak MiB"
MESSAGES, WIRE = "bytes an id", "on the wire"
WORK_ALONE = "work alone"

Measured = dict[str, Any]


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--items", type=int, nargs="+", default=[20_000], help="of each party")
    options.add_argument("--protocol", choices=PEER, default="vole")
    options.add_argument(
        "--table", action="store_true", help="the sizes of the page: 2^20, 10^7 and 10^8 (half an hour)"
    )
    options.add_argument("--peer", choices=["spu"], help="measure SecretFlow's package too")
    options.add_argument("--folder", type=Path, default=WORK / "psi", help="where files and runs go")
    given = options.parse_args(arguments)
    if min(given.items) < 2:
        options.error("--items: at least 2")
    given.folder = given.folder.resolve()
    given.cores = use_cores(given.cores)
    plan = TABLE if given.table else [(items, given.protocol) for items in given.items]
    prefix, how = _alone()
    report = Report(
        "psi",
        {
            "ids": "64 bits, distinct, shuffled, half of them shared; the left party learns the result",
            "fedcore": "Parquet to Parquet, gRPC with mutual TLS",
            "spu": "CSV to CSV, not encrypted; first run on a file, result to one party, in no order",
            "repeats": given.repeats,
            MESSAGES: "of messages, both ways",
            WIRE: how,
            WORK_ALONE: "from the first row read to the result written, without the wait for the other; the longer party",
            "cpu s, peak MiB": "of the left party + of the right, each with its child processes",
            "projection": "seconds measured, bytes both ways at 100 Mbit/s and 20 ms for each message that waits "
            "for one before it, as if nothing ran beside anything else",
            "machine": {**machine(), "memory": "peak resident size of each party, as the system keeps it"},
        },
    )
    spu = _find_spu(given, report)
    report.settings[f"first run, {WARM_UP:,} ids"] = {
        protocol: _warm_up(given, protocol, prefix) for protocol in dict.fromkeys(word for _, word in plan)
    }
    compiled = 0.0
    for items, protocol in plan:
        compiled = max(compiled, _compare(given, items, protocol, spu, prefix, report))
    report.settings["compile seconds after the first run"] = compiled
    report.tell(given.json)
    return report


def _compare(
    given: Any, items: int, protocol: str, spu: Path | None, prefix: list[str], report: Report
) -> float:
    """Measure one size and protocol; seconds that went into compiling nevertheless."""
    progress(f"{items:,} ids a party: making the files", given.json)
    spu = None if PEER[protocol] is None else spu
    generate(given.folder, items, csv=spu is not None)
    peer = f"spu {SPU}, {PEER[protocol]}"
    failures: list[str] = []

    def ours(number: int) -> Measured | None:
        progress(f"fedcore, {protocol}, {items:,} ids, repeat {number + 1}", given.json)
        return run_fedcore(given.folder, items, protocol, prefix)

    def theirs(number: int) -> Measured | None:
        progress(f"{peer}, {items:,} ids, repeat {number + 1}", given.json)
        try:
            return run_spu(given.folder, items, str(PEER[protocol]), spu or Path(), prefix)
        except MeasurementFailed as error:
            failures.append(str(error))
            return None

    sides: dict[str, Callable[[int], Measured | None]] = {"ours": ours}
    if spu is not None:
        sides["theirs"] = theirs
    if protocol == "ecdh":
        sides["floor"] = lambda _: {"seconds": multiplication(min(items, 2**14), given.cores)}
    measured = alternate(sides, given.repeats)
    whole = [one for one in measured["ours"] if one]
    own = _row(items, f"fedcore, {protocol}", whole)
    report.figures += [
        own,
        *_parts(items, own["side"], whole),
        _projected(items, own, crossings(protocol, items)),
    ]
    floor, other = None, {}
    if protocol == "ecdh":
        each = middle([one["seconds"] for one in measured["floor"] if one])
        floor = MULTIPLICATIONS * items * each
        name = f"floor: {MULTIPLICATIONS} multiplications of {each * 1e6:.1f} µs an id"
        report.figures.append({"ids": items, "side": name, CPU: [floor / 2, floor / 2]})
    if failures:
        report.absent[f"{peer}, {items:,} ids"] = failures[0]
    elif spu is not None:
        whole = [one for one in measured["theirs"] if one]
        other = _row(items, peer, whole)
        report.figures += [other, *_parts(items, peer, whole)]
    report.targets += _targets(items, protocol, own, other, floor)
    return max(one["compiled"] for one in measured["ours"] if one)


def _middle(repeats: list[Measured], read: Callable[[Measured], float | None]) -> float | None:
    values = [value for value in map(read, repeats) if value is not None]
    return middle(values) if values else None


def _row(items: int, side: str, repeats: list[Measured]) -> Figure:
    """Medians of a side."""
    row: Figure = {"ids": items, "side": side, "seconds": _middle(repeats, lambda one: one["seconds"])}
    row[CPU] = [_middle(repeats, lambda one, i=i: one["parties"][i]["cpu"]) for i in (0, 1)]
    row[PEAK] = [_middle(repeats, lambda one, i=i: one["parties"][i]["peak"] / MIB) for i in (0, 1)]
    for kind, key in ((MESSAGES, "bytes"), (WIRE, "wire")):
        row[kind] = _middle(repeats, lambda one, key=key: one[key] and one[key] / items)
    row["ns an id"] = row["seconds"] / items * 1e9
    row["exact"] = "yes" if all(one["exact"] for one in repeats) else "**no**"
    return row


def _parts(items: int, side: str, repeats: list[Measured]) -> list[Figure]:
    """Medians of what a side tells of its parts: the longer of the two parties, processor time of each."""
    rows = []
    for part in repeats[0]["parts"]:
        row: Figure = {"ids": items, "side": f"{side}: {part}"}
        row["seconds"] = _middle(repeats, lambda one, part=part: one["parts"][part]["seconds"])
        row[CPU] = [
            _middle(repeats, lambda one, part=part, i=i: one["parts"][part]["cpu"][i]) for i in (0, 1)
        ]
        rows.append(row)
    return rows


def _projected(items: int, own: Figure, waits: int) -> Figure:
    """Seconds over a slow line, as if nothing ran beside anything else."""
    sent = own[MESSAGES if own[WIRE] is None else WIRE] * items * 8 / LINE
    seconds = own["seconds"] + sent + waits * LATENCY
    side = f"{own['side']} at {LINE / 1e6:.0f} Mbit/s, {LATENCY * 1e3:.0f} ms ({waits} waits)"
    return {"ids": items, "side": side, "seconds": seconds}


def _targets(items: int, protocol: str, own: Figure, other: Figure, floor: float | None) -> list[Target]:
    def both(row: Figure, what: str) -> float | None:
        return sum(row[what]) if row else None

    name = f"{items:,} ids, {protocol}"
    if protocol == "ecdh":
        value = ratio(both(own, CPU), floor)
        return [Target(f"{name}: CPU over the floor of its multiplications", value, at_most=1.2)]
    if protocol == "vole-compact":
        return [Target(f"{name}: bytes an id", own[MESSAGES], at_most=22)]
    wall = ratio(other.get("seconds"), own["seconds"])
    cpu = ratio(both(other, CPU), both(own, CPU))
    memory = ratio(both(own, PEAK), both(other, PEAK))
    return [
        Target(f"{name}: times less wall time than RR22", wall, at_least=5),
        Target(f"{name}: times less CPU time than RR22", cpu, at_least=5),
        Target(f"{name}: bytes an id", own[MESSAGES], at_most=34),
        Target(f"{name}: peak memory of both parties over RR22's", memory, at_most=1.0),
    ]


# ---- the sides --------------------------------------------------------------------------------------------------


def run_fedcore(folder: Path, items: int, protocol: str, prefix: list[str]) -> Measured:
    """Two processes of `fedcore psi party`.

    Raises:
        MeasurementFailed: One of them failed, or the intersection is not exact.
    """
    work = _clean(folder / "fedcore")
    for name in ("left", "right"):
        new_identity(work / f"{name}.key", name)
    address, session = f"127.0.0.1:{_free_ports(1)[0]}", secrets.token_hex(8)
    commands = []
    for name, other, role, place in (
        ("left", "right", "receiver", "--listen"),
        ("right", "left", "sender", "--connect"),
    ):
        words = ["--role", role, "--data", str(file_of(folder, name, items, "parquet")), "--key", "id"]
        words += ["--identity", str(work / f"{name}.key"), "--peer-key", str(work / f"{other}.key.pub")]
        words += ["--session", session, "--protocol", protocol, "--out", str(work / name), "--json"]
        commands.append([sys.executable, "-m", "fedcore", "psi", "party", *words, place, address])
    found = _pair(commands, work, items, prefix)
    told = [json.loads((work / name / "result.json").read_text()) for name in ("left", "right")]
    if not rows_are_exact(folder, items, work / "left" / "rows.parquet"):
        raise MeasurementFailed(f"fedcore, {protocol}, {items:,} ids: the intersection is not exact")
    phases = {"reading": "read", "collapsing": "collapse", "the protocol": protocol, "writing": "write"}
    parts = {
        name: _longest([one["phases"][phase] for one in told])
        for name, phase in {**phases, "meeting": "meet"}.items()
    }
    parts[WORK_ALONE] = _longest(
        [
            {
                kind: sum(taken[kind] for phase, taken in one["phases"].items() if phase != "meet")
                for kind in ("seconds", "cpu_seconds")
            }
            for one in told
        ]
    )
    return {
        **found,
        "bytes": told[0]["bytes"]["sent"] + told[0]["bytes"]["received"],
        "exact": True,
        "parts": parts,
        "compiled": max(one["compile_seconds"] for one in told),
    }


def run_spu(folder: Path, items: int, protocol: str, python: Path, prefix: list[str]) -> Measured:
    """Two processes of `spu`.

    Raises:
        MeasurementFailed: One of them failed.
    """
    work = _clean(folder / "spu")
    told = [str(work / f"told{rank}.json") for rank in (0, 1)]
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    commands = []
    for rank, name in enumerate(("left", "right")):
        source = file_of(folder, name, items, "csv")
        source.with_name(f"{source.name}.meta").unlink(missing_ok=True)
        settings = {
            "rank": rank,
            "addresses": addresses,
            "protocol": protocol,
            "input": str(source),
            "output": str(work / f"{name}.csv"),
            "told": told,
        }
        (work / f"settings{rank}.json").write_text(json.dumps(settings))
        commands.append([str(python), str(SIDES / "psi_spu_party.py"), str(work / f"settings{rank}.json")])
    found = _pair(commands, work, items, prefix)
    exact = csv_is_exact(items, work / "left.csv")
    work_alone = _longest([json.loads(Path(one).read_text()) for one in told])
    return {**found, "bytes": None, "exact": exact, "parts": {WORK_ALONE: work_alone}}


def _longest(parties: list[Measured]) -> Measured:
    """A part of both parties' runs."""
    return {
        "seconds": max(one["seconds"] for one in parties),
        "cpu": [one["cpu_seconds"] for one in parties],
    }


def _pair(commands: list[list[str]], work: Path, items: int, prefix: list[str]) -> Measured:
    """Run both through the side script that measures them."""
    logs = [work / "left.log", work / "right.log"]
    plan, told = work / "plan.json", work / "measured.json"
    deadline = 900 + items * 1e-4
    plan.write_text(
        json.dumps({"commands": commands, "logs": [str(log) for log in logs], "deadline": deadline})
    )
    command = [*prefix, sys.executable, str(SIDES / "psi_pair.py"), str(plan), str(told)]
    temporary = work / "tmp"
    temporary.mkdir()
    ended = subprocess.run(
        command,
        cwd=work,
        env={**os.environ, "TMPDIR": str(temporary)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if ended.returncode != 0:
        raise MeasurementFailed(f"psi_pair.py ended with status {ended.returncode}:\n{ended.stdout[-2000:]}")
    found: Measured = json.loads(told.read_text())
    # -9 is how a party ends that was well until the other failed.
    bad = [i for i in (0, 1) if found["parties"][i]["status"] != 0]
    if bad:
        first = next((i for i in bad if found["parties"][i]["status"] != -9), bad[0])
        status = found["parties"][first]["status"]
        why = f"within {deadline:.0f} s" if status == -9 else f"as it should (status {status})"
        raise MeasurementFailed(f"the {logs[first].stem} party did not end {why}:\n{tail(logs[first])}")
    found["wire"] = found["loopback bytes"] if prefix else None
    return found


def _warm_up(given: Any, protocol: str, prefix: list[str]) -> dict[str, float]:
    """Compile the kernels; the seconds that took are nothing where an earlier run has."""
    progress(f"compiling the kernels of {protocol} with {WARM_UP:,} ids", given.json)
    generate(given.folder, WARM_UP, csv=False)
    found = run_fedcore(given.folder, WARM_UP, protocol, prefix)
    return {"seconds": round(found["seconds"], 2), "of it compiling": round(found["compiled"], 2)}


def _alone() -> tuple[list[str], str]:
    """Words that give a command a network of its own, and how bytes on the wire are counted."""
    for words in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        try:
            if subprocess.run([*words, "true"], capture_output=True).returncode == 0:
                how = "an id, counted by the loopback device, on which the two parties are alone: with all heads"
                return words, how
        except FileNotFoundError:
            break
    return [], "not counted: the system gives no network namespace"


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _find_spu(given: Any, report: Report) -> Path | None:
    """The interpreter of an environment that has spu, made now where there is none."""
    name = f"spu {SPU}"
    if given.peer != "spu":
        report.absent[name] = "left out; --peer spu measures it"
        return None
    home = WORK / "spu"
    python = home / "bin" / "python"
    try:
        if not (home / "complete").exists():
            progress(f"making an environment with {name} in {home}", given.json)
            shutil.rmtree(home, ignore_errors=True)
            for words in (
                [sys.executable, "-m", "venv", str(home)],
                [str(python), "-m", "pip", "install", "--quiet", f"spu=={SPU}", "numpy<2"],
                [str(python), "-c", "import spu.psi, spu.libspu"],
            ):
                subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            (home / "complete").touch()
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stdout", "") or ""
        reason = (output.strip().splitlines() or [str(error)])[-1]
        report.absent[name] = f"it does not install here: {reason}"
        return None
    return python


def _clean(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
