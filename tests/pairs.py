"""Two parties with shared keys, and a psi job over them: files in a folder, as a person would write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BANK, TELECOM = "bank-a", "telecom-b"
DATA = {BANK: "customers", TELECOM: "subscribers"}
KEYS = {BANK: [f"person-{i}" for i in range(40)], TELECOM: [f"person-{i}" for i in range(25, 90)]}
SHARED = sorted(set(KEYS[BANK]) & set(KEYS[TELECOM]))


def rule_of(name: str, **changes: str) -> str:
    """A rule that admits what `write_psi_job` asks of a party; `changes` replace its keys, empty ones leave them out."""
    other = TELECOM if name == BANK else BANK
    written = {
        "jobs": "[psi]",
        "data": DATA.get(name, "customers"),
        "columns": "[person]",
        "peers": f"[{other}]",
        "reveal": f"{{rows: [{other}], cardinality: [{other}, coordinator]}}",
        **changes,
    }
    return "{" + ", ".join(f"{key}: {value}" for key, value in written.items() if value) + "}"


def write_party(
    folder: Path, name: str, keys: Sequence[Any], *, rule: str | None = None, extra: str = "", data: str = ""
) -> Path:
    """A participant file and its Parquet file, whose column `person` is the key."""
    pq.write_table(pa.table({"person": keys, "amount": range(len(keys))}), folder / f"{name}.parquet")
    file = folder / f"{name}.yaml"
    file.write_text(
        f"name: {name}\n{extra}"
        f"catalogue:\n  {data or DATA.get(name, 'customers')}: {{connector: parquet, path: {name}.parquet}}\n"
        f"policy:\n  rules:\n    - {rule or rule_of(name)}\n"
    )
    return file


def write_psi_job(folder: Path, *, extra: str = "", file: str = "job.yaml", **settings: Any) -> Path:
    """A psi job of the bank and the telecom; `settings` replace lines of it."""
    lines = {
        "kind": "psi",
        "name": "shared",
        "parties": f"{{{BANK}: {{data: customers, key: person}}, {TELECOM}: {{data: subscribers, key: person}}}}",
        "reveal": f"{{what: rows, to: [{BANK}]}}",
        "deadline": "60",
        **{key: str(value) for key, value in settings.items()},
    }
    written = folder / file
    written.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()) + extra)
    return written


class Pair:
    """A bank, a telecom, a federation of the two and a job; change what a test is about and run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, keys in KEYS.items():
            write_party(folder, name, keys)
        self.federation = folder / "federation.yaml"
        self.federation.write_text(f"name: pair\nparticipants: [{BANK}.yaml, {TELECOM}.yaml]\n")
        self.job = write_psi_job(folder)

    def run(self, **options: Any) -> Any:
        """Run on the embedded engine unless told otherwise; the run."""
        import fedcore

        options.setdefault("folder", self.folder / "run")
        return fedcore.run(self.job, self.federation, **options)

    def results(self, name: str) -> list[Path]:
        """A party's result folders."""
        return sorted((self.folder / ".fedcore" / name / "results").glob("*"))

    def matched(self, name: str, folder: Path | None = None) -> list[str]:
        """The keys of a party's matched rows, in the order of the matches."""
        rows = pq.read_table((folder or self.results(name)[-1]) / "rows.parquet").sort_by("match")
        keys = pq.read_table(self.folder / f"{name}.parquet").column("person").to_pylist()
        return [keys[row] for row in rows.column("row").to_pylist()]
