"""How long rounds take, as predicted by their plans and as they then were, on this machine.

    python benchmarks/placement_prediction.py --rounds 8 --json

Sites of one machine, as threads of one process (engine embedded) and as processes over TLS (deployment). A first run
trains without a plan; each site's descriptor is then made by `fedcore network probe --run`, which times the machine and
takes over the rate at which the job ran; a second run is placed by a policy, and each of its rounds says what its plan
predicted. What a plan predicts is the phase of training: from the model's departure to the last update's arrival. The
rest of a round (evaluation, averaging) is taken from the first run, and the whole is compared too. The first round of a
run loads and compiles, and is left out on both sides.

A plan takes each site for a machine of its own. Here they share two cores and wait for each other, so the first run's
seconds of a site hold its wait for as many others as took part; where fewer take part later, they wait less or are
served in another order, of which the plan knows nothing. That case stands apart.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, Figure, Report, Target, machine, parser, progress
from benchmarks.engines import FEATURES
from benchmarks.measure import middle, use_cores
from benchmarks.sessions import fedcore, new_key

MOST_MAPE = 15.0
PORT = 9655


@dataclass(frozen=True)
class Case:
    """A federation whose rounds are predicted.

    Args:
        name: In the table.
        engine: `embedded` or `deployment`.
        rows: Of each site.
        pick: Sites of a placed round.
        epochs: Of the first run and of the placed one.
        protocol: Of secure aggregation.
    """

    name: str
    engine: str
    rows: tuple[int, ...]
    pick: int
    epochs: tuple[int, int] = (1, 1)
    protocol: str = "none"


CASES = (
    Case("the same again", "embedded", (48_000,) * 4, 4),
    Case("three of four sites", "embedded", (48_000,) * 4, 3),
    Case("three epochs instead of one", "embedded", (48_000,) * 4, 4, (1, 3)),
    Case("unequal data", "embedded", (16_000, 32_000, 48_000, 96_000), 4),
    Case("secagg+", "embedded", (48_000,) * 4, 4, (1, 1), "secagg+"),
    Case("the same again", "deployment", (48_000,) * 3, 3),
    Case("three epochs instead of one", "deployment", (48_000,) * 3, 3, (1, 3)),
    Case("secagg+", "deployment", (48_000,) * 3, 3, (1, 1), "secagg+"),
)


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument(
        "--engines", nargs="+", choices=("embedded", "deployment"), default=["embedded", "deployment"]
    )
    options.add_argument("--folder", type=Path, default=WORK / "prediction", help="where the runs go")
    options.add_argument("--rows", type=float, default=1.0, help="times as many rows as the cases have (1)")
    given = options.parse_args(arguments)
    use_cores(given.cores)
    # One thread for each site: several sites with a thread for each core each wait for one another's spinning threads.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    report = Report(
        "placement_prediction",
        {
            "job": f"tabular, {FEATURES} features, 2 classes, MLP 64-32, batch 32; rows of each site in the table",
            "rounds": f"{given.rounds} of each run; the first is left out",
            "threads": "one for each site, by OMP_NUM_THREADS",
            "predicted": "train: what the plan says; whole round: that and what the first run took beside training",
            "machine": machine(),
        },
    )  # fmt: skip
    for engine in given.engines:
        errors: dict[tuple[bool, str], list[float]] = {}
        for number, case in enumerate(one for one in CASES if one.engine == engine):
            for repeat in range(given.repeats):
                progress(f"{engine}: {case.name}, repeat {repeat + 1}", given.json)
                folder = given.folder / f"{engine}-{number}-{repeat}"
                row, found = measure_case(case, folder, given.rounds, given.rows)
                report.figures.append(row)
                for what, values in found.items():
                    errors.setdefault((case.pick == len(case.rows), what), []).extend(values)
        for (all_, what), values in sorted(errors.items(), reverse=True):
            report.targets.append(
                Target(
                    f"{engine}, {'all sites' if all_ else 'fewer sites than in the first run'}: error of the predicted "
                    f"seconds of {what}, MAPE over all rounds, %",
                    100 * float(np.mean(values)),
                    at_most=MOST_MAPE,
                )
            )
    report.tell(given.json)
    return report


def measure_case(
    case: Case, folder: Path, rounds: int, scale: float = 1.0
) -> tuple[Figure, dict[str, list[float]]]:
    """A first run, the descriptors, a placed run, and how far off each of its rounds was.

    Returns:
        The row of the table, and the relative errors of each round.
    """
    shutil.rmtree(folder, ignore_errors=True)
    sites = write_case(case, folder, rounds, scale)
    federation = folder / "federation.yaml"
    if case.engine == "deployment":
        fedcore(folder, "federation", "up", str(federation))
    try:
        first = _run(folder, "first")
        for name in sites:
            words = ("--key", f"keys/{name}.key", "--out", f"{name}.json", "--seconds", "1", "--json")
            fedcore(folder, "network", "probe", f"{name}.node.yaml", *words, "--run", "runs/first")
        placed = _run(folder, "placed")
    finally:
        if case.engine == "deployment":
            fedcore(folder, "federation", "down", str(federation))
    return compare(case, first, placed)


def compare(
    case: Case, first: Mapping[str, Any], placed: Mapping[str, Any]
) -> tuple[Figure, dict[str, list[float]]]:
    """What the plans said and what came.

    Args:
        first, placed: `result.json` of the two runs.
    """
    rest = middle([each["elapsed"] - each["seconds"]["train"] for each in first["rounds"][1:]])
    rows = placed["rounds"][1:]
    told = [each["placement"]["predicted"]["round_s"] for each in rows]
    train, whole = [each["seconds"]["train"] for each in rows], [each["elapsed"] for each in rows]
    errors = {
        "training": [abs(said - came) / came for said, came in zip(told, train, strict=True)],
        "the whole round": [abs(said + rest - came) / came for said, came in zip(told, whole, strict=True)],
    }
    figure: Figure = {
        "part": "seconds of a round, medians",
        "engine": case.engine,
        "case": case.name,
        "sites": f"{case.pick} of {len(case.rows)}",
        "train, first run": middle([each["seconds"]["train"] for each in first["rounds"][1:]]),
        "train, predicted": middle(told),
        "train, came": middle(train),
        "MAPE of train %": 100 * float(np.mean(errors["training"])),
        "round, predicted": middle([said + rest for said in told]),
        "round, came": middle(whole),
        "MAPE of round %": 100 * float(np.mean(errors["the whole round"])),
    }
    return figure, errors


def write_case(case: Case, folder: Path, rounds: int, scale: float) -> list[str]:
    """Sites with their keys, rows, node files; a map of one place; a policy; both jobs."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    plane = draw.normal(size=FEATURES)
    names = [f"site-{i}" for i in range(len(case.rows))]
    keys = {name: new_key(folder, name) for name in names}
    for name, count in zip(names, case.rows, strict=True):
        x = draw.normal(size=(max(40, int(count * scale)), FEATURES)).astype(np.float32)
        y = (x @ plane + draw.normal(size=len(x)) > 0).astype(np.int64)
        np.savez(folder / f"{name}.npz", label=y, **{f"f{i:02d}": x[:, i] for i in range(FEATURES)})
        _write(
            folder / f"{name}.yaml",
            {
                "name": name,
                "identity": f"keys/{name}.key",
                "catalogue": {"rows": {"connector": "npz", "path": f"{name}.npz"}},
                "policy": {
                    "default": "deny",
                    "rules": [{"jobs": ["train"], "data": "rows", "purpose": "research"}],
                },
                "state": f"state/{name}",
                "peers": {other: {"public_key": key} for other, key in keys.items() if other != name},
                "nodes": [f"{name}.json"],
            },
        )
        _write(
            folder / f"{name}.node.yaml",
            {
                "node": f"{name}-machine",
                "owner": name,
                "site": "here",
                "tier": "hub",
                "jurisdiction": "CN",
                "carbon": {"value": 500, "evidence": "not of interest here"},
                "pue": 1,
                "price": {"currency": "CNY"},
                "security": {"level": 3},
                "line": {"up": 10_000, "down": 10_000},
            },
        )
    _write(
        folder / "map.yaml",
        {
            "name": "one-place",
            "assumptions": ["the loopback of one machine, taken as 10 Gbit/s and 0.1 ms"],
            "inside": {"one_way_ms": 0.1, "mbit_s": 10_000},
            "sites": {
                "here": {
                    "tier": "hub",
                    "jurisdiction": "CN",
                    "carbon_g_per_kwh": 500,
                    "aggregator": {"ingress_mbit_s": 10_000, "security": 3},
                }
            },
        },
    )
    _write(
        folder / "policy.yaml",
        {"name": "here", "participants": {"pick": case.pick, "min": 3}, "aggregators": {"standby": 0}},
    )
    _write(
        folder / "federation.yaml",
        {
            "name": f"prediction-{case.pick}-{case.engine}",
            "engine": case.engine,
            "coordinator": {"address": f"localhost:{PORT}"},
            "participants": [f"{name}.yaml" for name in names],
            "network": {"map": "map.yaml", "root": "here"},
        },
    )
    for stem, epochs, placement in (
        ("first", case.epochs[0], {}),
        ("placed", case.epochs[1], {"placement": "policy.yaml"}),
    ):
        _write(
            folder / f"{stem}.yaml",
            {
                "kind": "train",
                "name": "prediction",
                "data": "rows",
                "seed": 1,
                "participants": {"min": 3},
                "task": {"use": "tabular-classifier", "target": "label", "model": "mlp", "standardize": "none"},
                "rounds": rounds,
                "local": {"lr": 0.1, "batch_size": 32, "epochs": epochs, "validation": 0.2},
                "evaluation": {"federated": True},
                "protection": {"secure_aggregation": case.protocol},
                **placement,
            },
        )  # fmt: skip
    return names


def _write(file: Path, told: Mapping[str, Any]) -> None:
    # JSON is YAML.
    file.write_text(json.dumps(told))


def _run(folder: Path, job: str) -> dict[str, Any]:
    words: Sequence[str] = ("--federation", "federation.yaml", "--folder", f"runs/{job}", "--json")
    fedcore(folder, "run", f"{job}.yaml", *words)
    told: dict[str, Any] = json.loads((folder / "runs" / job / "result.json").read_text())
    return told


if __name__ == "__main__":
    main()
