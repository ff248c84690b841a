"""A bank with labels, a telecom and a shop with columns about the same people, and a vertical job over them: files in a
folder, as a person would write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedcore.errors import FedcoreError

BANK, TELECOM, SHOP = "bank-a", "telecom-b", "shop-c"
DATA = {BANK: "applications", TELECOM: "usage", SHOP: "baskets"}
PEOPLE = 600
"""That exist; the bank has the first 500, the telecom all from 50, the shop all that 7 does not divide."""

NUMBERS = {
    BANK: ("age", "income", "arrears"),
    TELECOM: ("calls", "noise"),
    SHOP: ("basket", "visits"),
}
"""Columns of numbers of each."""
NETWORK = {"net": {"use": "split-network", "epochs": 2, "batch": 64, "bottom": [4], "top": [4]}}
"""A model that takes a second."""

REVEALED = ("rows", "woe", "totals", "correlation", "splits", "activations", "scores")


def rows_of() -> dict[str, dict[str, Any]]:
    """Columns of each party, in an order of its own; `bad` depends on columns of all."""
    random = np.random.default_rng(5)
    age, income, arrears, calls, basket = random.normal(size=(5, PEOPLE))
    odds = -1.0 + 0.9 * arrears - 0.5 * income + 0.8 * calls + 0.4 * basket
    bad = (random.random(PEOPLE) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    keys = np.array([f"person-{n:04}" for n in range(PEOPLE)])
    month = np.array([f"2026-{1 + n % 8:02}-15" for n in range(PEOPLE)])
    income = np.where(random.random(PEOPLE) < 0.1, np.nan, income)
    plan = np.array(["prepaid", "basic", "full"])[
        np.digitize(calls + random.normal(size=PEOPLE), [-0.5, 0.5])
    ]
    number = np.arange(PEOPLE)
    own = {BANK: number < 500, TELECOM: number >= 50, SHOP: number % 7 != 0}
    columns: dict[str, dict[str, Any]] = {
        BANK: {"bad": bad, "month": month, "age": age, "income": income, "arrears": arrears},
        TELECOM: {"calls": calls, "plan": plan, "noise": random.normal(size=PEOPLE)},
        SHOP: {"basket": basket, "visits": random.integers(0, 40, PEOPLE).astype(float)},
    }
    found = {}
    for name, has in own.items():
        order = random.permutation(np.flatnonzero(has))
        found[name] = {"person": keys[order], **{key: each[order] for key, each in columns[name].items()}}
    return found


def shared_people(*names: str) -> list[str]:
    """The keys that these parties have, in order."""
    rows = rows_of()
    return sorted(set.intersection(*(set(rows[name]["person"]) for name in names)))


def rule_of(name: str, others: tuple[str, ...], **changes: str) -> str:
    """A rule that admits a vertical job with these others; `changes` replace its keys, empty ones leave them out."""
    allowed = f"[{', '.join(others)}]"
    written = {
        "jobs": "[vertical]",
        "data": DATA[name],
        "purpose": "credit-risk",
        "peers": allowed,
        "reveal": "{" + ", ".join(f"{word}: {allowed}" for word in REVEALED) + "}",
        **changes,
    }
    return "{" + ", ".join(f"{key}: {value}" for key, value in written.items() if value) + "}"


class Banks:
    """Parties, a federation and a job; change what a test is about and run it."""

    def __init__(self, folder: Path, names: tuple[str, ...] = (BANK, TELECOM)) -> None:
        self.folder, self.names = folder, names
        self.rows = {name: rows_of()[name] for name in names}
        for name in names:
            self.write(name)
        self.federation = folder / "federation.yaml"
        files = ", ".join(f"{name}.yaml" for name in names)
        self.federation.write_text(f"name: banks\nparticipants: [{files}]\n")
        self.job = self.write_job()

    def write(self, name: str, *, extra: str = "", **rule: str) -> Path:
        """A party's data and participant file; `rule` changes its rule."""
        pq.write_table(pa.table(self.rows[name]), self.folder / f"{name}.parquet")
        others = tuple(other for other in self.names if other != name)
        file = self.folder / f"{name}.yaml"
        file.write_text(
            f"name: {name}\n{extra}"
            f"catalogue:\n  {DATA[name]}: {{connector: parquet, path: {name}.parquet}}\n"
            f"policy:\n  rules:\n    - {rule_of(name, others, **rule)}\n"
        )
        return file

    def write_job(self, **settings: Any) -> Path:
        """The job; `settings` replace keys of it."""
        told = {
            "kind": "vertical",
            "name": "joint",
            "purpose": "credit-risk",
            "label": {"party": BANK, "column": "bad"},
            "parties": self.parties(),
            "split": {"test": 0.25, "out_of_time": {"column": "month", "from": "2026-08"}},
            "bin": {"min_rows": 10, "max_bins": 4},
            "select": {"iv": [0.0, 20.0]},
            "models": NETWORK,
            "deadline": 120,
            **settings,
        }
        file = self.folder / "job.yaml"
        file.write_text(json.dumps(told))
        return file

    def parties(self, **columns: tuple[str, ...] | None) -> dict[str, dict[str, Any]]:
        """What each brings, columns of numbers; `columns` replaces them, with `_` for `-` in a name."""
        told = {name: columns.get(name.replace("-", "_"), NUMBERS[name]) for name in self.names}
        return {
            name: {"data": DATA[name], "key": "person", "columns": None if names is None else list(names)}
            for name, names in told.items()
        }

    def run(self, **options: Any) -> Any:
        """Run on the embedded engine unless told otherwise; the run."""
        import fedcore

        options.setdefault("folder", self.folder / "run")
        return fedcore.run(self.job, self.federation, **options)

    def failing(self, kind: type[FedcoreError]) -> tuple[FedcoreError, dict[str, Any]]:
        """The error of a run, and what stands in its result."""
        with pytest.raises(kind) as error:
            self.run()
        return error.value, json.loads((self.folder / "run" / "result.json").read_text())

    def change(self, name: str, **columns: Any) -> None:
        """Replace columns of a party."""
        self.rows[name] = {**self.rows[name], **columns}
        self.write(name)

    def kept(self, name: str) -> Path:
        """A party's folder of the last run."""
        return max(
            (self.folder / ".fedcore" / name / "results").iterdir(), key=lambda each: each.stat().st_mtime
        )
