"""`fedcore demo`: a real result in a minute, nothing to prepare, nothing from the network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.cli.run import shown
from fedcore.errors import EngineError, JobError, did_you_mean

DEMOS = {"hospital": ("hospital_tabular.yaml", "digits.yaml"), "survival": ("lung_survival.yaml",)}
FEDERATIONS = {"hospital": "five_hospitals.yaml", "survival": "eighteen_hospitals.yaml"}
WORK = Path("runs") / "demo-files"
PERMITTED_GAP = 0.01


def command(
    what: Annotated[str, typer.Argument(help="hospital or survival")] = "hospital", as_json: Json = False
) -> None:
    """Train over five hospitals whose data differ, and compare with each alone and with all rows pooled.

    Two jobs: tumours from a table of measurements, handwritten digits from images. The data are bundled
    with scikit-learn and dealt unevenly over the five sites.

    With `survival`, questions about 227 patients with lung cancer at eighteen real hospitals, most of which
    have fewer than twenty: tables, curves and models, of which the coordinator sees sums only.

    Example: fedcore demo survival
    """
    if what not in DEMOS:
        raise JobError(f"no demo {what!r}; {did_you_mean(what, DEMOS)}")
    from fedcore.coordinator.terminal import print_summary
    from fedcore.engines.run import run
    from fedcore.jobs.load import load_job

    files = _copy_files()
    ended = []
    for name in DEMOS[what]:
        job = load_job(files / "jobs" / name)
        with shown(job, as_json) as watcher:
            done = run(files / "jobs" / name, files / "federations" / FEDERATIONS[what], watcher=watcher)
        if not as_json:
            print_summary(done.json, report=str(done.folder / "report.html"))
        ended.append(done)
    if what == "survival":
        if as_json:
            print_json({"runs": [str(done.folder) for done in ended], "answers": ended[0].json["answers"]})
        return
    compared = [compare_accuracy(done.json) for done in ended]
    if as_json:
        print_json({"runs": [str(done.folder) for done in ended], "compared": compared})
        return
    _print(compared)


def compare_accuracy(result: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the federated model beside pooled and the mean of local-only, on the same held-out rows."""
    found = result["baselines"]
    local = [site["accuracy"] for site in found["local"].values()]
    if not local:
        raise EngineError(
            "no site could train alone, so there is nothing to compare with; see the run's report"
        )
    federated, pooled = found["federated"]["accuracy"], found["pooled"]["accuracy"]
    alone = sum(local) / len(local)
    return {
        "job": result["name"],
        "local_only_mean": alone,
        "federated": federated,
        "pooled": pooled,
        "within_a_point_of_pooled": federated >= pooled - PERMITTED_GAP,
        "above_local_only": federated > alone,
        "seconds": result["seconds"],
    }


def _copy_files() -> Path:
    """The ready files, copied to where the participants may write their evidence."""
    inside = Path(__file__).resolve().parent.parent / "configs"
    source = inside if inside.exists() else inside.parent.parent / "configs"
    if not source.exists():
        raise JobError(f"the ready files are missing ({source}); install fedcore again")
    shutil.copytree(source, WORK, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".fedcore"))
    return WORK


def _print(compared: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Accuracy on held-out rows that no hospital trained on", title_justify="left")
    for column in ("job", "each alone (mean)", "federated", "pooled", "federated - pooled"):
        table.add_column(column, justify="left" if column == "job" else "right")
    for row in compared:
        table.add_row(
            row["job"],
            *(f"{row[key]:.1%}" for key in ("local_only_mean", "federated", "pooled")),
            f"{(row['federated'] - row['pooled']) * 100:+.1f} points",
        )
    Console().print(table)
