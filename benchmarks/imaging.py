"""What record-level privacy and secure aggregation together cost the whole imaging job, on the same device.

    python benchmarks/imaging.py --json
    python benchmarks/imaging.py --rounds 1 --scale 0.5      # a trial of the way, not of the figures

The job is that of examples/hospital_imaging over phantoms that it draws: hospitals with PNG, DICOM and NIfTI archives train
one model together, and every round is judged by held-out studies. Once as it is, once with each row's gradient clipped, noise
and `secagg+`. Model, rounds, batch sizes and thus steps are the same; seconds are of the whole run, from reading the archives
and working out the noise to the report. The runs take turns, and the ratio is that of the medians.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, WORK, Report, Target, machine, parser, progress

EXAMPLE = ROOT / "examples" / "hospital_imaging"
_JOB = """\
kind: train
name: chest
data: chest
participants: {{min: 3}}
task: {{use: image-classifier, target: label, image: image, {model}}}
rounds: {rounds}
local: {{epochs: {epochs}, batch_size: {batch}, lr: {lr}, validation: 0, device: {device}}}
evaluation: {{federated: false, central: {{connector: images, path: data/central, size: [32, 32]}}}}
protection: {protection}
seed: 7
"""
PRIVATE = (
    "{secure_aggregation: secagg+, differential_privacy: {level: record, epsilon: 8, delta: 1.0e-3, clip: 1.0, "
    "classes: [normal, nodule]}}"
)
MODELS = {"cnn": "model: cnn", "resnet18": "model: resnet18, norm: group"}


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--models", nargs="+", choices=MODELS, default=["cnn"])
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--lr", type=float, default=0.2)
    options.add_argument("--scale", type=float, default=4.0, help="times as many studies as the example")
    options.add_argument("--device", default="auto")
    options.add_argument("--folder", type=Path, default=WORK / "imaging")
    given = options.parse_args(arguments)
    names = ("rounds", "epochs", "batch", "lr", "scale", "device", "repeats")
    report = Report(
        "imaging",
        {
            **{name: getattr(given, name) for name in names},
            "protection": "record-level, epsilon 8, delta 1e-3, clip 1; secagg+",
            "machine": machine(),
        },
    )
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    for file in EXAMPLE.glob("*.yaml"):
        shutil.copy(file, given.folder)
    progress("drawing phantoms", given.json)
    _phantoms().make_phantoms(given.folder / "data", 7, given.scale)
    for model in given.models:
        _measure(model, given, report)
    report.tell(given.json)
    return report


def _phantoms() -> Any:
    """The example's own module, which is no package."""
    spec = importlib.util.spec_from_file_location("make_phantoms", EXAMPLE / "make_phantoms.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(EXAMPLE / "make_phantoms.py")
    made = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    import sys

    sys.modules["make_phantoms"] = made
    spec.loader.exec_module(made)
    return made


def _measure(model: str, given: Any, report: Report) -> None:
    taken: dict[str, list[dict[str, float]]] = {"plain": [], "protected": []}
    for turn in range(given.repeats):
        for side, protection in (("plain", "{}"), ("protected", PRIVATE)):
            progress(f"{model}: {side}, run {turn + 1} of {given.repeats}", given.json)
            taken[side].append(_run(f"{model}-{side}-{turn}", model, given, protection))
    middle = {
        side: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for side, runs in taken.items()
    }
    for side, figures in middle.items():
        report.figures.append({"model": model, "side": side, **figures})
    for key in ("seconds", "cpu seconds"):
        ratio = middle["protected"][key] / middle["plain"][key]
        report.targets.append(
            Target(f"{model}: the protected job over the plain one, {key}", ratio, at_most=2)
        )


def _run(name: str, model: str, given: Any, protection: str) -> dict[str, float]:
    import fedcore
    from fedcore.participant import private_records

    # What was worked out for the run before must not serve this one.
    private_records._calibrated.cache_clear()
    job = given.folder / f"{name}.yaml"
    job.write_text(
        _JOB.format(
            model=MODELS[model],
            rounds=given.rounds,
            epochs=given.epochs,
            batch=given.batch,
            lr=given.lr,
            device=given.device,
            protection=protection,
        )
    )
    began, used = time.perf_counter(), time.process_time()
    told = fedcore.run(
        job, given.folder / "federation.yaml", engine="embedded", folder=given.folder / "runs" / name
    ).json
    central = told["final"]["central"]
    return {
        "seconds": time.perf_counter() - began,
        "cpu seconds": time.process_time() - used,
        "seconds of a round": statistics.median(each["elapsed"] for each in told["rounds"]),
        "accuracy": central["accuracy"],
        "auc": central["auc"],
    }


if __name__ == "__main__":
    main()
