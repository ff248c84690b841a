"""One party's half of a split network as it is kept: weights as safetensors, everything else as JSON, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fedcore.errors import DataError
from fedcore.jobs.vertical import SplitNetwork
from fedcore.vertical.leakage import Leak

VERSION = 1
FILE, ARRAYS = "split.json", "split.safetensors"
_WEIGHT = "weight/"


@dataclass(frozen=True, eq=False)
class SplitPart:
    """A party's half of a trained split network.

    Args:
        role: Whose.
        settings: Of the job.
        partners: How many the label holder trained with; 0 at a partner.
        fit: Name of the training; halves with the same name belong together.
        mean, scale: Of the party's own columns in training, float64 [d]; rows are standardised by them.
        weights: By torch's names, float32.
        losses: Mean loss of each epoch; empty at a partner.
        leaks: What the attacks on this run's gradients found; empty at a partner.
    """

    role: Literal["label holder", "partner"]
    settings: SplitNetwork
    partners: int
    fit: str
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    weights: dict[str, npt.NDArray[np.float32]]
    losses: tuple[float, ...] = ()
    leaks: tuple[Leak, ...] = ()

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What goes into a safetensors file."""
        named = {_WEIGHT + name: value for name, value in self.weights.items()}
        return {"mean": self.mean, "scale": self.scale, **named}

    def as_dict(self) -> dict[str, Any]:
        """What goes into a JSON file."""
        return {
            "version": VERSION,
            "role": self.role,
            "settings": self.settings.model_dump(mode="json"),
            "partners": self.partners,
            "fit": self.fit,
            "losses": list(self.losses),
            "leaks": [leak.as_dict() for leak in self.leaks],
        }

    @classmethod
    def from_parts(cls, told: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> SplitPart:
        """Put together what `as_dict` and `arrays` gave.

        Raises:
            DataError: They are not of a split network, or of another version.
        """
        try:
            if told["version"] != VERSION or told["role"] not in ("label holder", "partner"):
                raise ValueError
            part = cls(
                role=told["role"],
                settings=SplitNetwork.model_validate(told["settings"]),
                partners=int(told["partners"]),
                fit=str(told["fit"]),
                mean=_finite(arrays["mean"], np.float64),
                scale=_finite(arrays["scale"], np.float64),
                weights={
                    name.removeprefix(_WEIGHT): _finite(value, np.float32)
                    for name, value in arrays.items()
                    if name.startswith(_WEIGHT)
                },
                losses=tuple(map(float, told["losses"])),
                leaks=tuple(Leak(**leak) for leak in told["leaks"]),
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise DataError(
                f"this is no half of a split network of version {VERSION}; load the folder that the training wrote"
            ) from error
        return part

    def save(self, folder: Path) -> None:
        """Write `split.json` and `split.safetensors` to a folder, which is made when absent."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(value) for name, value in self.arrays.items()}, folder / ARRAYS)
        (folder / FILE).write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> SplitPart:
        """Read what `save` wrote.

        Raises:
            DataError: It is not there or is something else.
        """
        try:
            told = json.loads((folder / FILE).read_text())
            arrays = load_file(folder / ARRAYS)
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(
                f"the model in {folder} cannot be read ({type(error).__name__}); load the folder that the training wrote"
            ) from error
        if not isinstance(told, dict):
            raise DataError(f"{folder / FILE} is no JSON object; load the folder that the training wrote")
        return cls.from_parts(told, arrays)


def _finite(value: npt.NDArray[Any], kind: type) -> npt.NDArray[Any]:
    if value.dtype != np.dtype(kind) or not np.isfinite(value).all():
        raise ValueError("an array has another type, or numbers that are not finite")
    return value
