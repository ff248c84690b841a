"""The same job in one process and on Ray: time end to end, peak memory, and whether the result is the same.

    python benchmarks/engines.py --participants 100 --rounds 10 --json
    python benchmarks/engines.py --table                     # 10, 100 and 1000 participants

Three sides, each a fresh process per repeat: `fedcore run` on engine embedded, the same command on engine
simulation (Flower's runtime on Ray), and the same training written by hand for Flower's runtime with torch,
without fedcore. The last one is there so that nobody has to take our use of Ray for Ray's best.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    SIDES,
    WORK,
    Figure,
    Report,
    Target,
    greatest_difference,
    machine,
    parser,
    progress,
    ratio,
)
from benchmarks.measure import MIB, Measured, alternate, measure, middle, use_cores

FEATURES = 20
ROWS_EACH = 60
RATE, BATCH = 0.1, 32

EMBEDDED, SIMULATION, PLAIN = "fedcore, embedded", "fedcore, Ray", "Flower alone, Ray"
SIDES_BY_WORD = {"embedded": EMBEDDED, "simulation": SIMULATION, "plain": PLAIN}


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--participants", type=int, default=100)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--table", action="store_true", help="10, 100 and 1000 participants")
    options.add_argument(
        "--sides", nargs="+", choices=SIDES_BY_WORD, default=list(SIDES_BY_WORD), help="only these"
    )
    options.add_argument("--folder", type=Path, default=WORK / "engines", help="where the runs go")
    options.add_argument(
        "--deployment",
        action="store_true",
        help="instead: sessions against plain messages (benchmarks/sessions.py)",
    )
    given = options.parse_args(arguments)
    use_cores(given.cores)
    if given.deployment:
        from benchmarks import sessions

        return sessions.main([word for word in arguments or sys.argv[1:] if word != "--deployment"])
    sizes = (10, 100, 1000) if given.table else (given.participants,)
    report = Report(
        "engines",
        {
            "job": f"tabular, {FEATURES} features, 2 classes, {ROWS_EACH} rows each, MLP 64-32, batch {BATCH}, "
            "1 local epoch, trained and evaluated at every participant in every round",
            "participants": list(sizes),
            "rounds": given.rounds,
            "repeats": given.repeats,
            "machine": machine(),
        },
    )
    for count in sizes:
        _measure(report, count, given)
    report.tell(given.json)
    return report


def _measure(report: Report, count: int, given: Any) -> None:
    folder = given.folder / f"{count}-participants"
    shutil.rmtree(folder, ignore_errors=True)
    write_study(folder, count, given.rounds, given.cores)

    def side(word: str) -> Any:
        def run(number: int) -> Measured:
            progress(f"{count} participants: {SIDES_BY_WORD[word]}, repeat {number + 1}", given.json)
            return run_side(word, folder, number)

        return run

    measured = alternate({word: side(word) for word in given.sides}, given.repeats)
    rows: dict[str, Figure] = {}
    for word, repeats in measured.items():
        rows[word] = {
            "participants": count,
            "side": SIDES_BY_WORD[word],
            "seconds": middle([one.seconds for one in repeats]),
            "cpu seconds": middle([one.cpu for one in repeats]),
            "peak MiB": middle([one.peak / MIB for one in repeats]),
            "processes": max(one.processes for one in repeats),
            **outcome(word, folder),
        }
    report.figures += rows.values()
    _targets(report, count, folder, rows)


def _targets(report: Report, count: int, folder: Path, rows: dict[str, Figure]) -> None:
    ours = rows.get("embedded", {})
    for word in ("simulation", "plain"):
        if word not in rows:
            report.absent[f"{SIDES_BY_WORD[word]}, {count} participants"] = "left out with --sides"
        other = rows.get(word, {})
        for what, key, least in (("faster", "seconds", 5.0), ("less memory", "peak MiB", 4.0)):
            value = ratio(other.get(key), ours.get(key))
            name = f"{count} participants: embedded, times {what} than {SIDES_BY_WORD[word]}"
            report.targets.append(Target(name, value, at_least=least))
    arrays, metrics = difference(folder) if {"embedded", "simulation"} <= set(rows) else (None, None)
    name = f"{count} participants: greatest difference between embedded and Ray in"
    report.targets.append(Target(f"{name} the model's arrays", arrays, at_most=1e-5))
    report.targets.append(Target(f"{name} the final metrics", metrics, at_most=1e-6))


def write_study(folder: Path, count: int, rounds: int, cores: int) -> None:
    """The rows, job, federation and settings of one size."""
    write_rows(folder, count)
    (folder / "federation.yaml").write_text(
        "name: engines\n"
        f"virtual: {{count: {count}, name: rows, data: {{connector: npz, path: rows.npz}}}}\n"
        f"embedded: {{workers: {min(cores, count)}}}\n"
    )
    (folder / "job.yaml").write_text(
        "kind: train\nname: engines\ndata: rows\nseed: 1\n"
        "task: {use: tabular-classifier, target: label, model: mlp, standardize: none}\n"
        f"rounds: {rounds}\nlocal: {{lr: {RATE}, batch_size: {BATCH}, validation: 0.2}}\n"
        "evaluation: {federated: true}\n"
    )
    settings = {"participants": count, "rounds": rounds, "cores": cores, "lr": RATE, "batch-size": BATCH}
    (folder / "settings.json").write_text(json.dumps({**settings, "data": str(folder / "rows.npz")}))


def write_rows(folder: Path, count: int) -> None:
    """Generated rows of two classes that a plane separates but for some noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS_EACH * count, FEATURES)).astype(np.float32)
    y = x @ random.normal(size=FEATURES) + random.normal(size=len(x)) > 0
    columns = {f"f{i:02d}": x[:, i] for i in range(FEATURES)}
    np.savez(folder / "rows.npz", label=y.astype(np.int64), **columns)


def run_side(word: str, folder: Path, number: int) -> Measured:
    """One fresh run of one side; what it told lies below `folder/<word>`, of the last repeat."""
    home = folder / word
    shutil.rmtree(home, ignore_errors=True)
    if word == "plain":
        program = [str(SIDES / "flower_simulation.py"), "flower_tabular"]
        command = [sys.executable, *program, str(folder / "settings.json"), str(home / "told.json")]
    else:
        files = [str(folder / "job.yaml"), "--federation", str(folder / "federation.yaml")]
        command = [sys.executable, "-m", "fedcore", "run", *files, "--engine", word]
        command += ["--folder", str(home / "run"), "--json"]
    return measure(command, folder=home)


def outcome(word: str, folder: Path) -> Figure:
    """What training came to: first and last training loss, final accuracy over the participants."""
    if word == "plain":
        told = json.loads((folder / word / "told.json").read_text())
        losses, final = told["losses"], told["metrics"]
    else:
        told = json.loads((folder / word / "run" / "result.json").read_text())
        losses = [one["train"]["loss"] for one in told["rounds"]]
        final = told["final"]["evaluate"]
    return {"first loss": losses[0], "last loss": losses[-1], "accuracy": final["accuracy"]}


def difference(folder: Path) -> tuple[float, float]:
    """Greatest difference between the two engines' models, and between their final metrics."""
    from safetensors.numpy import load_file

    runs = [folder / word / "run" for word in ("embedded", "simulation")]
    models = [load_file(run / "model.safetensors") for run in runs]
    finals = [json.loads((run / "result.json").read_text())["final"]["evaluate"] for run in runs]
    return greatest_difference(*models), greatest_difference(*finals)


if __name__ == "__main__":
    main()
