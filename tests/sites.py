"""Small federations for tests: files in a folder, as a person would write them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

ALLOW = "{jobs: [train], data: any}"


def blobs(rows: int, seed: int, features: int = 4, classes: int = 2, shift: float = 2.0) -> dict[str, Any]:
    """Columns f0.. and y: one Gaussian blob per class."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    x = rng.normal(size=(rows, features)) + shift * y[:, None]
    return {**{f"f{i}": x[:, i] for i in range(features)}, "y": y}


def write_site(
    folder: Path,
    name: str,
    columns: dict[str, Any],
    *,
    rule: str = ALLOW,
    extra: str = "",
    data: str = "study",
) -> Path:
    """A participant file and its Parquet file."""
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    file = folder / f"{name}.yaml"
    file.write_text(
        textwrap.dedent(f"""\
        name: {name}
        catalogue:
          {data}: {{connector: parquet, path: {name}.parquet}}
        policy:
          rules:
            - {rule}
        """)
        + extra
    )
    return file


def write_federation(folder: Path, names: Sequence[str], *, extra: str = "") -> Path:
    """A federation file over participants of these names."""
    file = folder / "federation.yaml"
    listed = ", ".join(f"{name}.yaml" for name in names)
    file.write_text(f"name: test-federation\nparticipants: [{listed}]\n" + extra)
    return file


def write_job(folder: Path, *, extra: str = "", **settings: Any) -> Path:
    """A small train job; `settings` replace lines of it."""
    lines = {
        "kind": "train",
        "name": "study-job",
        "data": "study",
        "participants": "{min: 2}",
        "task": "{use: tabular-classifier, target: y, model: mlp, hidden: [8]}",
        "strategy": "{use: fedavg}",
        "rounds": "3",
        "local": "{lr: 0.1, batch_size: 8}",
        "deadline": "30",
        "seed": "3",
        **{key: str(value) for key, value in settings.items()},
    }
    file = folder / "job.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()) + extra)
    return file


class Study:
    """Three sites, a federation and a job in a folder; change what a test is about and run it."""

    def __init__(
        self, folder: Path, sites: int = 3, columns: Callable[[int], dict[str, Any]] | None = None
    ) -> None:
        self.folder = folder
        self.names = [f"site-{i}" for i in range(sites)]
        for i, name in enumerate(self.names):
            write_site(folder, name, columns(i) if columns else blobs(40 + 10 * i, i))
        self.federation = write_federation(folder, self.names)
        self.job = write_job(folder)

    def run(self, **options: Any) -> Any:
        """Run on the embedded engine unless told otherwise; the run."""
        import fedcore

        options.setdefault("folder", self.folder / "run")
        return fedcore.run(self.job, self.federation, **options)
