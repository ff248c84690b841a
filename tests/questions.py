"""Small federations whose sites answer questions, and what the pooled rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tests.sites import write_federation, write_site

RULE = "{jobs: [analytics], data: any, min_cohort: 3}"


def patients(rows: int, seed: int) -> dict[str, Any]:
    """Columns of one hospital: sex, arm, age, ward, time, status, visits; some ages are missing."""
    rng = np.random.default_rng(seed)
    age = np.round(rng.normal(60, 12, rows), 1)
    sex = rng.integers(1, 3, rows)
    arm = rng.choice(np.array(["new", "old"]), rows)
    risk = np.exp(0.03 * (age - 60) + 0.4 * (arm == "old"))
    time = np.ceil(rng.exponential(200 / risk)).astype(int) + 1
    status = (rng.random(rows) < 0.7).astype(int)
    visits = rng.poisson(2 * risk)
    age[rng.random(rows) < 0.05] = np.nan
    return {
        "sex": sex,
        "arm": arm.tolist(),
        "age": age,
        "ward": (np.arange(rows) % 3).tolist(),
        "time": time,
        "status": status,
        "visits": visits,
    }


class Hospitals:
    """Sites in a folder, a federation over them, and jobs that ask them.

    Args:
        folder: Where the files go.
        sizes: Rows of each site.
        rule: Of each site's policy.
        extra: Further lines of each participant file.
    """

    def __init__(
        self, folder: Path, sizes: tuple[int, ...] = (60, 45, 80, 52), *, rule: str = RULE, extra: str = ""
    ) -> None:
        self.folder = folder
        self.names = [f"site-{place}" for place in range(len(sizes))]
        self.rows = {
            name: patients(size, place)
            for place, (name, size) in enumerate(zip(self.names, sizes, strict=True))
        }
        for name in self.names:
            self.write(name, rule=rule, extra=extra)
        self.federation = write_federation(folder, self.names)

    def write(self, name: str, *, rule: str = RULE, extra: str = "", **columns: Any) -> None:
        """A site's files; columns in the place of its own, None to leave one out."""
        rows = {key: value for key, value in {**self.rows[name], **columns}.items() if value is not None}
        write_site(self.folder, name, rows, rule=rule, extra=extra)

    def pooled(self) -> pd.DataFrame:
        """The rows of all sites in one place."""
        return pd.concat([pd.DataFrame(rows) for rows in self.rows.values()], ignore_index=True)

    def job(self, ask: dict[str, Any], **settings: Any) -> Path:
        """A job file."""
        told = {
            "kind": "analytics",
            "name": "questions",
            "data": "study",
            "levels": {"sex": [1, 2], "arm": ["old", "new"], "ward": [0, 1, 2], "status": [0, 1]},
            "deadline": 60,
            "ask": ask,
            **settings,
        }
        file = self.folder / "questions.yaml"
        file.write_text(yaml.safe_dump(told, sort_keys=False))
        return file

    def ask(self, ask: dict[str, Any], folder: str = "run", **settings: Any) -> Any:
        """Run a job that asks these questions on the embedded engine; what `result.json` says."""
        import fedcore

        job = self.job(ask, **settings)
        return fedcore.run(job, self.federation, folder=self.folder / folder).json
