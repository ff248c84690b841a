"""A task that can be held up from outside: it waits while a file is there, and says so with another file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.nn import functional

import fedcore


class Held(fedcore.Task):
    """Logistic regression. A step waits while `<gate>.hold` exists.

    Args:
        gate: Path; `<gate>.<pid>` is written when a process waits.
        rows: Only a site whose batch has this many rows waits; every site when 0.
        after: Steps that this process takes before it waits.
    """

    classification = True

    taken = 0

    def __init__(self, gate: str, rows: int = 0, after: int = 0) -> None:
        self.gate, self.rows, self.after = Path(gate), rows, after

    def model(self) -> torch.nn.Module:
        return torch.nn.Linear(len(self.schema.features), len(self.schema.classes))

    def loss(self, model: torch.nn.Module, batch: fedcore.Batch) -> torch.Tensor:
        hold = self.gate.with_suffix(".hold")
        Held.taken += 1
        if Held.taken > self.after and hold.exists() and self.rows in (0, len(batch)):
            self.gate.with_suffix(f".{os.getpid()}").touch()
            end = time.monotonic() + 120
            while hold.exists() and time.monotonic() < end:
                time.sleep(0.05)
        return functional.cross_entropy(model(batch.x), batch.y)

    def metrics(self, model: torch.nn.Module, batches: Iterable[fedcore.Batch]) -> dict[str, float]:
        rows, right = 0, 0
        for batch in batches:
            rows += len(batch)
            right += int((model(batch.x).argmax(1) == batch.y).sum())
        return {"accuracy": right / rows}
