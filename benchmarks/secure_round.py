"""A training round of the digits CNN on the embedded engine, with and without `secagg+`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, WORK, Report, Target, progress, ratio
from benchmarks.measure import alternate, middle
from benchmarks.secure_masks import row

PARTICIPANTS, ROUNDS = 10, 16
DIGITS = ROOT / "configs" / "federations" / "data" / "digits"
JOB = """kind: train
name: digits
data: digits
participants: {{min: 3}}
task: {{use: image-classifier, target: label, image: image, model: cnn}}
strategy: {{use: fedavg}}
rounds: {rounds}
local: {{epochs: 2, batch_size: 32, lr: 0.03, momentum: 0.9, device: auto}}
evaluation:
  central: {{connector: parquet, path: {central}}}
protection: {{secure_aggregation: {protection}}}
seed: 7
"""
FEDERATION = """name: ten
virtual: {{count: {count}, name: digits, data: {{connector: parquet, path: digits.parquet}}}}
"""
SIDES = {"none": "fedcore, unprotected", "secagg+": "fedcore, secagg+"}

Taken = list[tuple[float, float]]
"""Of each round but the first: seconds, and CPU seconds of the process."""


def training_round(given: Any, report: Report) -> None:
    """The rows of the five hospitals of `configs/jobs/digits.yaml`, dealt to ten, its job without baselines."""
    folder = WORK / "secure-round"
    shutil.rmtree(folder, ignore_errors=True)
    write_study(folder)
    # A fresh process, in which nothing of the other parts is left.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        measured = apart.submit(in_turns, folder, given.repeats, ROUNDS, given.json).result()
    found = {}
    for protection, name in SIDES.items():
        taken = [one for run in measured[protection] for one in run]
        found[protection] = [middle(each) * 1e3 for each in zip(*taken, strict=True)]
        report.figures.append(
            row(
                "round",
                name,
                PARTICIPANTS,
                _parameters(folder, protection),
                0,
                **{"ms a round": found[protection][0], "cpu ms a round": found[protection][1]},
            )
        )
    name = f"digits CNN, {PARTICIPANTS} embedded participants"
    report.targets.append(
        Target(
            f"{name}: a round with secagg+ over one without",
            ratio(found["secagg+"][0], found["none"][0]),
            at_most=1.3,
        )
    )


def in_turns(folder: Path, repeats: int, count: int, as_json: bool) -> dict[str, list[Taken]]:
    """Runs of both sides, in this process."""

    def side(protection: str) -> Callable[[int], Taken]:
        def run(number: int) -> Taken:
            progress(f"round: {SIDES[protection]}, run {number + 1}", as_json)
            return rounds(folder, protection, number, count)

        return run

    # The first run of a process imports, and compiles what was never compiled.
    side("secagg+")(-1)
    return alternate({protection: side(protection) for protection in SIDES}, repeats)


def write_study(folder: Path) -> None:
    """Rows and federation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(DIGITS.glob("hospital-*.parquet"))])
    pq.write_table(rows, folder / "digits.parquet")
    (folder / "federation.yaml").write_text(FEDERATION.format(count=PARTICIPANTS))


def rounds(folder: Path, protection: str, number: int, count: int) -> Taken:
    """Run the job."""
    from fedcore.coordinator.watch import Silent
    from fedcore.engines.run import run

    class Clock(Silent):
        cpu: list[float]

        def round_finished(self, record: dict[str, Any]) -> None:
            self.cpu.append(time.process_time())

    watcher = Clock()
    watcher.cpu = []
    job = folder / f"{protection}-{number}.yaml"
    job.write_text(JOB.format(rounds=count, central=DIGITS / "central.parquet", protection=protection))
    ended = run(job, folder / "federation.yaml", folder=_run(folder, protection, number), watcher=watcher)
    walls = [one["elapsed"] for one in ended.json["rounds"]]
    cpu = [after - before for before, after in zip(watcher.cpu, watcher.cpu[1:], strict=False)]
    return list(zip(walls[1:], cpu, strict=True))


def _run(folder: Path, protection: str, number: int) -> Path:
    return folder / f"run-{protection}-{number}"


def _parameters(folder: Path, protection: str) -> int:
    from fedcore.engines.run import Run

    return int(Run(_run(folder, protection, 0)).json["model"]["parameters"])
