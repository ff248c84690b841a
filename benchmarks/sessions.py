"""A deployment's rounds over sessions and over plain Flower messages, and a secure sum over each.

    python benchmarks/sessions.py --rounds 3 --json

Real SuperLink and SuperNodes on loopback, TLS and node authentication on, one federation per side. The same job runs
over both; what is compared is the time from the beginning of the first round to the end of the last, which leaves out
the start of the federation and the first message, that both sides pay. A phase without work is the last stage of a
secure sum (`reveal`): what a message costs by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import WORK, Figure, Report, Target, machine, parser, progress, ratio
from benchmarks.engines import RATE, write_rows
from benchmarks.measure import middle, use_cores

SITES = 3
OVER = {"auto": "sessions", '"off"': "plain messages"}


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--folder", type=Path, default=WORK / "sessions", help="where the runs go")
    given = options.parse_args(arguments)
    use_cores(given.cores)
    report = Report(
        "sessions",
        {
            "job": f"the job of benchmarks/engines.py at {SITES} sites, plain and with secure_aggregation: secagg+",
            "rounds": given.rounds,
            "repeats": given.repeats,
            "machine": machine(),
        },
    )
    add(report, given)
    report.tell(given.json)
    return report


def add(report: Report, given: Any) -> None:
    """Add the figures and targets to a report.

    Args:
        report: Of this benchmark, or of `benchmarks/engines.py --deployment`.
        given: Has `folder`, `rounds`, `repeats` and `json`.
    """
    shutil.rmtree(given.folder, ignore_errors=True)
    write_study(given.folder, given.rounds)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for over, word in OVER.items():
        federation = given.folder / f"{'sessions' if over == 'auto' else 'plain'}.yaml"
        fedcore(given.folder, "federation", "up", str(federation))
        try:
            for job in ("unprotected", "secagg+"):
                for number in range(given.repeats):
                    progress(f"{job} over {word}, repeat {number + 1}", given.json)
                    runs.setdefault((job, over), []).append(
                        run(given.folder, federation, job, f"{federation.stem}-{number}")
                    )
        finally:
            fedcore(given.folder, "federation", "down", str(federation))
    rows = {key: _figure(*key, told) for key, told in runs.items()}
    report.figures += rows.values()
    plain, sessions = '"off"', "auto"
    for job, least in (("unprotected", 20.0), ("secagg+", 20.0)):
        value = ratio(rows[job, plain]["seconds of the rounds"], rows[job, sessions]["seconds of the rounds"])
        name = f"{given.rounds} rounds of the deployment, {job}: times faster over sessions than over plain messages"
        report.targets.append(Target(name, value, at_least=least))
    report.targets.append(
        Target(
            "milliseconds of a phase without work over sessions",
            rows["secagg+", sessions]["ms of a phase without work"],
            at_most=50.0,
        )
    )


def _figure(job: str, over: str, told: list[dict[str, Any]]) -> Figure:
    phases = [
        stages["reveal"]["seconds"] * 1000
        for result in told
        for one in result["rounds"]
        for stages in (
            one.get("protection", {}).get(kind, {}).get("stages", {}) for kind in ("train", "evaluate")
        )
        if "reveal" in stages
    ]
    return {
        "job": job,
        "over": OVER[over],
        "seconds of the rounds": middle([sum(one["elapsed"] for one in result["rounds"]) for result in told]),
        "seconds before them": middle([result["prepare"]["seconds"] for result in told]),
        "ms of a phase without work": middle(phases) if phases else None,
        "accuracy": told[-1]["final"]["evaluate"]["accuracy"],
    }


def write_study(folder: Path, rounds: int) -> None:
    """Three sites with keys that pin each other; one job without protection and one with."""
    write_rows(folder, SITES)
    rows = dict(np.load(folder / "rows.npz"))
    each = len(rows["label"]) // SITES
    names = [f"site-{i}" for i in range(SITES)]
    keys = {name: new_key(folder, name) for name in names}
    for i, name in enumerate(names):
        np.savez(folder / f"{name}.npz", **{k: v[i * each : (i + 1) * each] for k, v in rows.items()})
        peers = {other: {"public_key": key} for other, key in keys.items() if other != name}
        told = {
            "name": name,
            "identity": f"keys/{name}.key",
            "catalogue": {"rows": {"connector": "npz", "path": f"{name}.npz"}},
            "policy": {
                "default": "deny",
                "rules": [{"jobs": ["train"], "data": "rows", "purpose": "research"}],
            },
            "state": f"state/{name}",
            "peers": peers,
        }
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(told))
    for stem, port, over in (("sessions", 9643, "auto"), ("plain", 9644, '"off"')):
        (folder / f"{stem}.yaml").write_text(
            f"name: {stem}\nengine: deployment\n"
            f"coordinator: {{address: 'localhost:{port}', data_port: {over}}}\n"
            f"participants: [{', '.join(f'{name}.yaml' for name in names)}]\n"
        )
    for job, line in (("unprotected", ""), ("secagg+", "protection: {secure_aggregation: secagg+}\n")):
        (folder / f"{job}.yaml").write_text(
            f"kind: train\nname: {job.replace('+', '')}\ndata: rows\nseed: 1\n"
            "task: {use: tabular-classifier, target: label, model: mlp, standardize: none}\n"
            f"rounds: {rounds}\nlocal: {{lr: {RATE}, batch_size: 32, validation: 0.2}}\n"
            f"evaluation: {{federated: true}}\n{line}"
        )


def new_key(folder: Path, name: str) -> str:
    """Make a site's key; its public line."""
    fedcore(folder, "identity", "new", f"keys/{name}.key", "--name", name)
    return (folder / "keys" / f"{name}.key.pub").read_text().strip()


def run(folder: Path, federation: Path, job: str, name: str) -> dict[str, Any]:
    """One run; its result."""
    home = folder / "runs" / f"{job}-{name}"
    fedcore(folder, "run", f"{job}.yaml", "--federation", str(federation), "--folder", str(home), "--json")
    told: dict[str, Any] = json.loads((home / "result.json").read_text())
    return told


def fedcore(folder: Path, *words: str) -> None:
    """A command of fedcore; raises with its last words when it fails."""
    ended = subprocess.run(
        [sys.executable, "-m", "fedcore", *words], cwd=folder, capture_output=True, text=True
    )
    if ended.returncode != 0:
        raise RuntimeError(f"fedcore {' '.join(words[:2])} failed:\n{ended.stderr[-2000:]}")


if __name__ == "__main__":
    main()
