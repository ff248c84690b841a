"""A bank with new customers and a telecom that serves its part of a scorecard: files as a person would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fedcore.jobs.load import load_participant
from fedcore.jobs.participant import Participant
from fedcore.trust.identity import Identity, load_identity, new_identity
from fedcore.vertical.package import save_package
from tests.fedcore.vertical.scored import BANK, COLUMNS, CUSTOMERS, TELECOM, package

KNOWN = 50
RULE = {
    "jobs": "[vertical]",
    "data": "customers",
    "columns": "[person, calls, plan]",
    "peers": f"[{BANK}]",
    "reveal": f"{{scores: [{BANK}]}}",
}


class Sites:
    """Both sites in a folder; change what a test is about."""

    def __init__(self, folder: Path, **rule: str) -> None:
        self.folder = folder
        self.keys: dict[str, Identity] = {
            name: new_identity(folder / f"{name}.key", name) for name in (BANK, TELECOM)
        }
        written = {key: value for key, value in {**RULE, **rule}.items() if value}
        self.rule = "{" + ", ".join(f"{key}: {value}" for key, value in written.items()) + "}"
        pq.write_table(
            pa.table({"person": CUSTOMERS[:KNOWN], **{n: v[:KNOWN] for n, v in COLUMNS[TELECOM].items()}}),
            folder / f"{TELECOM}.parquet",
        )
        pq.write_table(
            pa.table({"person": CUSTOMERS[:20], "income": COLUMNS[BANK]["income"][:20]}),
            folder / f"{BANK}.parquet",
        )
        self.new = folder / "new.csv"
        pacsv.write_csv(
            pa.table({"person": CUSTOMERS, "age": range(len(CUSTOMERS)), **COLUMNS[BANK]}), self.new
        )
        self.write(TELECOM, BANK, f"rules: [{self.rule}]")
        self.write(BANK, TELECOM, "rules: []")
        for name in (BANK, TELECOM):
            save_package(self.model(name), package(name), self.keys[name])

    def write(self, name: str, other: str, policy: str, pinned: str | None = None, at: str = "") -> None:
        line = pinned or self.keys[other].public_line
        (self.folder / f"{name}.yaml").write_text(
            f"name: {name}\nidentity: {name}.key\nstate: state-{name}\n"
            f"catalogue:\n  customers: {{connector: parquet, path: {name}.parquet}}\n"
            f"policy:\n  {policy}\npeers:\n  {other}: {{public_key: '{line}'{at and f', address: {at}'}}}\n"
        )

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def model(self, name: str) -> Path:
        return self.folder / f"model-{name}"

    def participant(self, name: str) -> Participant:
        return load_participant(self.file(name))

    def own(self, name: str) -> dict[str, Any]:
        """What `Service` and `Asking` need of a site."""
        return {
            "participant": self.participant(name),
            "package": package(name),
            "identity": load_identity(self.folder / f"{name}.key"),
        }
