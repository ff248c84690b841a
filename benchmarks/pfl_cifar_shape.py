"""The CIFAR-10 setting that pfl-research published, in shape: fedcore, Flower on Ray, pfl, and torch alone.

    python benchmarks/pfl_cifar_shape.py --json
    python benchmarks/pfl_cifar_shape.py --sides fedcore torch --rounds 3

1,000 users with 50 images each, 50 users a round, batches of 10, one local epoch, learning rate 0.1 at the
users and 1.0 at the server, two convolutions of 32 and 64 filters and a dense layer of 128 with dropout 0.25
and 0.5, central evaluation after every 10th round. The images are generated (32 x 32 x 3, ten classes), since
CIFAR-10 needs a download; every side trains the same model code on the same rows on the CPU.

`pfl` needs an environment of its own; when it cannot be imported here, one is made under `.fedcore/bench/`.

Source: apple/pfl-research, `benchmarks/image_classification/configs/baseline.yaml`, and arXiv 2404.06430.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import SIDES, WORK, Figure, Report, Target, machine, parser, progress, ratio
from benchmarks.measure import MIB, Measured, MeasurementFailed, alternate, measure, middle, use_cores
from benchmarks.sides.images import generate

PFL = "0.6.0"
NAMES = {
    "fedcore": "fedcore, embedded",
    "flower": "Flower alone, Ray",
    "pfl": f"pfl {PFL}, one process",
    "pfl-many": f"pfl {PFL}, a process per core",
    "torch": "torch alone, all threads on each step",
    "torch-many": "torch alone, a loop per core",
}
GUESSING = math.log(10)
MUST_LEARN_FROM = 10  # rounds


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--users", type=int, default=1000)
    options.add_argument("--cohort", type=int, default=50)
    options.add_argument("--central", type=int, default=10_000, help="images of the central evaluation")
    options.add_argument(
        "--every", type=int, default=10, help="rounds from one central evaluation to the next"
    )
    options.add_argument("--sides", nargs="+", choices=NAMES, default=list(NAMES), help="only these")
    options.add_argument("--pfl-python", type=Path, help="interpreter of an environment that has pfl")
    options.add_argument("--folder", type=Path, default=WORK / "pfl-cifar-shape", help="where the runs go")
    given = options.parse_args(arguments)
    given.folder = given.folder.resolve()
    cores = use_cores(given.cores)
    report = Report(
        "pfl_cifar_shape",
        {
            "users": given.users,
            "images each": 50,
            "users a round": given.cohort,
            "rounds": given.rounds,
            "batch": 10,
            "learning rate": 0.1,
            "central evaluation": f"{given.central} images, every {given.every} rounds and after the last",
            "seconds a round": "median over the rounds from the second on that have no evaluation",
            "repeats": given.repeats,
            "machine": machine(),
        },
    )
    write_study(given, cores)
    for word in NAMES:
        if word not in given.sides:
            report.absent[NAMES[word]] = "left out with --sides"
    pfl = find_pfl(given, report)
    sides = {word: word for word in given.sides if pfl or not word.startswith("pfl")}

    def side(word: str) -> Callable[[int], Measured | None]:
        def run(number: int) -> Measured | None:
            progress(f"{NAMES[word]}, repeat {number + 1}", given.json)
            try:
                return measure(command(word, given.folder, pfl, cores), folder=_clean(given.folder / word))
            except MeasurementFailed as error:
                if word == "fedcore":
                    raise
                report.absent[NAMES[word]] = str(error)
                return None

        return run

    measured = alternate({word: side(word) for word in sides}, given.repeats)
    rows = {}
    for word, repeats in measured.items():
        whole = [one for one in repeats if one is not None]
        if NAMES[word] not in report.absent:
            rows[word] = _row(word, whole, given, report)
    report.figures += [row for row in rows.values() if row]
    _targets(report, rows)
    report.tell(given.json)
    return report


def _row(word: str, repeats: list[Measured], given: Any, report: Report) -> Figure:
    rounds, central = told(word, given.folder)
    losses = [one["loss"] for one in central]
    enough = given.rounds >= MUST_LEARN_FROM and losses
    if enough and not losses[-1] < (losses[0] if len(losses) > 1 else GUESSING):
        report.absent[NAMES[word]] = f"it did not learn: central loss {losses[0]:.3f}, then {losses[-1]:.3f}"
        return {}
    return {
        "side": NAMES[word],
        "seconds": middle([one.seconds for one in repeats]),
        "seconds a round": middle(rounds) if rounds else None,
        "cpu seconds": middle([one.cpu for one in repeats]),
        "peak MiB": middle([one.peak / MIB for one in repeats]),
        "first loss": losses[0] if losses else None,
        "last loss": losses[-1] if losses else None,
        "accuracy": central[-1]["accuracy"] if central else None,
    }


def _targets(report: Report, rows: dict[str, Figure]) -> None:
    ours = rows.get("fedcore", {})
    for word, least, name in (
        ("flower", 3.0, "fedcore, times faster than Flower alone on Ray"),
        ("pfl", 1.0, "fedcore, times faster than pfl in one process"),
        ("pfl-many", 1.0, "fedcore, times faster than pfl with a process per core"),
    ):
        other = rows.get(word, {})
        for what, key in (("end to end", "seconds"), ("a round", "seconds a round")):
            value = ratio(other.get(key), ours.get(key))
            report.targets.append(Target(f"{name}, {what}", value, at_least=least))


def write_study(given: Any, cores: int) -> None:
    """Rows (kept from an earlier run of the same size), job, federation, and the settings of the other sides."""
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    files = {"rows": (given.users * 50, 1), "central": (given.central, 2)}
    paths = {name: folder / f"{name}-{count}.npz" for name, (count, _) in files.items()}
    for name, (count, seed) in files.items():
        if not paths[name].exists():
            partial = paths[name].with_suffix(".partial.npz")
            generate(partial, count, seed)
            partial.replace(paths[name])
    (folder / "federation.yaml").write_text(
        "name: cifar-shape\n"
        f"virtual: {{count: {given.users}, name: images, data: {{connector: npz, path: {paths['rows'].name}}}}}\n"
        f"embedded: {{workers: {cores}}}\n"
    )
    (folder / "job.yaml").write_text(
        "kind: train\nname: cifar-shape\ndata: images\n"
        f"participants: {{min: 2, fraction: {given.cohort / given.users}}}\n"
        "task: {use: image-classifier, model: cnn}\n"
        f"rounds: {given.rounds}\n"
        "local: {lr: 0.1, batch_size: 10, validation: 0, device: cpu}\n"
        f"evaluation: {{every: {given.every}, federated: false, "
        f"central: {{connector: npz, path: {paths['central'].name}}}}}\n"
    )
    settings = {
        "participants": given.users,
        "points": 50,
        "cohort": given.cohort,
        "rounds": given.rounds,
        "every": given.every,
        "lr": 0.1,
        "server-lr": 1.0,
        "batch-size": 10,
        "cores": cores,
        "data": str(paths["rows"]),
        "central": str(paths["central"]),
    }
    (folder / "settings.json").write_text(json.dumps(settings))


def command(word: str, folder: Path, pfl: Path | None, cores: int) -> list[str]:
    """How a side is started; it tells what happened in `folder/<word>/`."""
    files = [str(folder / "settings.json"), str(folder / word / "told.json")]
    if word == "fedcore":
        federation = ["--federation", str(folder / "federation.yaml"), "--engine", "embedded"]
        run = ["--folder", str(folder / word / "run"), "--json"]
        return [sys.executable, "-m", "fedcore", "run", str(folder / "job.yaml"), *federation, *run]
    if word == "flower":
        return [sys.executable, str(SIDES / "flower_simulation.py"), "flower_images", *files]
    if word == "pfl":
        return [str(pfl), str(SIDES / "pfl_images.py"), *files]
    if word == "pfl-many":
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cores)]
        return [str(pfl), *many, str(SIDES / "pfl_images.py"), *files]
    workers = "1" if word == "torch" else str(cores)
    return [sys.executable, str(SIDES / "torch_images.py"), workers, *files]


def told(word: str, folder: Path) -> tuple[list[float], list[dict[str, float]]]:
    """Seconds of the rounds that count, and the central evaluations."""
    settings = json.loads((folder / "settings.json").read_text())
    if word == "fedcore":
        result = json.loads((folder / word / "run" / "result.json").read_text())
        central = [one["central"] for one in result["rounds"] if one["central"]]
        ends = [0.0, *_round_ends(folder / word / "run" / "evidence" / "coordinator.jsonl")]
    else:
        found = json.loads((folder / word / "told.json").read_text())
        ends, central = found["ends"], found["central"]
    # With fedcore the end is that of training, so that an evaluation falls into the round after it.
    shift = 1 if word == "fedcore" else 0
    seconds = {number: b - a for number, (a, b) in enumerate(pairwise(ends), start=1)}
    return [s for n, s in seconds.items() if n > 1 and (n - shift) % settings["every"]], central


def _round_ends(log: Path) -> list[float]:
    """When the last update of each round had come, from the coordinator's evidence."""
    ends: dict[int, float] = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "reply" and entry["step"].startswith("train round "):
            number = int(entry["step"].rsplit(" ", 1)[1])
            ends[number] = max(ends.get(number, 0.0), datetime.fromisoformat(entry["time"]).timestamp())
    return [ends[number] for number in sorted(ends)]


def find_pfl(given: Any, report: Report) -> Path | None:
    """An interpreter that can import pfl: this one, the one named, or that of an environment made now."""
    wanted = [word for word in given.sides if word.startswith("pfl")]
    if not wanted:
        return None
    if given.pfl_python is not None:
        return Path(given.pfl_python)
    if importlib.util.find_spec("pfl") is not None:
        return Path(sys.executable)
    home = WORK / "pfl"
    python = home / "bin" / "python"
    try:
        if not (home / "complete").exists():
            progress(f"making an environment with pfl {PFL} in {home}", given.json)
            shutil.rmtree(home, ignore_errors=True)
            _quietly([sys.executable, "-m", "venv", str(home)])
            same_torch = f"torch=={torch.__version__.split('+')[0]}"
            _quietly([str(python), "-m", "pip", "install", "--quiet", f"pfl=={PFL}", same_torch])
            _quietly([str(python), "-c", "import pfl, torch"])
            (home / "complete").touch()
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stdout", "") or ""
        reason = (output.strip().splitlines() or [str(error)])[-1]
        report.absent.update({NAMES[word]: f"pfl {PFL} does not install here: {reason}" for word in wanted})
        return None
    return python


def _quietly(words: list[str]) -> None:
    subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _clean(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    main()
