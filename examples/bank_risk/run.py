"""A joint scorecard and a boosted challenger, from two files to a report for each party: one command.

    python examples/bank_risk/run.py                                  20,000 invented customers
    python examples/bank_risk/run.py --uci default_credit.csv         the UCI default data, cut in two

Writes the data, a job and a federation of two parties to a folder, and runs the job there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

from examples.bank_risk.customers import CUSTOMERS, invented, uci, write  # noqa: E402
from fedcore.cli.main import run as fedcore  # noqa: E402

CONFIGS = HERE.parents[1] / "configs"
PARTIES = {"bank-a": ("applications", "bank"), "telecom-b": ("usage", "telecom")}


def prepare(folder: Path, customers: int = CUSTOMERS, path: Path | None = None) -> tuple[Path, Path]:
    """Write everything that a run needs.

    Args:
        folder: Where to.
        customers: Of the bank, when they are invented.
        path: Of the UCI default data; invented customers when None.

    Returns:
        The job's file and the federation's.
    """
    write(folder / "data", *(uci(path) if path else invented(customers)))
    job: dict[str, Any] = yaml.safe_load((CONFIGS / "jobs" / "bank_risk.yaml").read_text())
    if path:
        # It has no months, and no value that stands for an unknown history.
        job["split"], job["bin"] = (
            {"test": 0.2},
            {key: v for key, v in job["bin"].items() if key != "special"},
        )
    for name, (data, file) in PARTIES.items():
        party: dict[str, Any] = yaml.safe_load((CONFIGS / "federations" / f"{name}.yaml").read_text())
        party["catalogue"] = {data: {"connector": "parquet", "path": f"data/{file}.parquet"}}
        party["policy"]["rules"] = [rule for rule in party["policy"]["rules"] if rule["jobs"] == ["vertical"]]
        party["output"] = f"results/{name}"
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(party, sort_keys=False))
    federation = {
        "name": "bank-and-telecom",
        "engine": "embedded",
        "coordinator": {"address": "localhost:8443"},
        "participants": [f"{name}.yaml" for name in PARTIES],
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(federation, sort_keys=False))
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    return folder / "job.yaml", folder / "federation.yaml"


def reports(folder: Path) -> dict[str, Path]:
    """The report of each party's last run in a folder that `prepare` made."""
    found = {}
    for name in PARTIES:
        made = sorted(
            (folder / "results" / name).glob("*/report/report.html"), key=lambda path: path.stat().st_mtime
        )
        if made:
            found[name] = made[-1]
    return found


def main() -> int:
    """Prepare, run, and say where the reports are."""
    told = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    told.add_argument(
        "--folder", type=Path, default=Path("runs") / "bank-risk-example", help="where files go"
    )
    told.add_argument("--customers", type=int, default=CUSTOMERS)
    told.add_argument("--uci", type=Path, help="CSV of the UCI default data")
    told.add_argument("--engine", choices=["embedded", "simulation", "deployment"], default="embedded")
    given = told.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    job, federation = prepare(given.folder, given.customers, given.uci)
    code = fedcore(["run", str(job), "--federation", str(federation), "--engine", given.engine])
    for name, path in reports(given.folder).items():
        print(f"report of {name}: {path}")
    return code


if __name__ == "__main__":
    sys.exit(main())
