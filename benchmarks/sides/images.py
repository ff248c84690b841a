"""What the image sides share: generated rows, and the model. Needs numpy and torch only, no fedcore.

The model is fedcore's own `SmallCNN`, loaded from its file, so that every side trains the same code; the file
needs nothing but torch, and a side may run in an environment without fedcore.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MODELS = Path(__file__).parents[2] / "fedcore" / "learning" / "models.py"
SHAPE, CLASSES = (3, 32, 32), 10
EVALUATION_BATCH = 1000


def generate(file: Path, rows: int, seed: int, hardness: float = 50.0) -> None:
    """Write images `[rows, 32, 32, 3]` uint8: one noise prototype per class, and noise on top.

    Args:
        file: `.npz` to write, with `image` and `label`.
        rows: How many.
        seed: Of labels and noise; the prototypes are the same for every seed.
        hardness: Standard deviation of the noise; that of the prototypes is 50.
    """
    prototypes = np.random.default_rng(0).normal(128, 50, (CLASSES, 32, 32, 3)).astype(np.float32)
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, rows)
    images = np.empty((rows, 32, 32, 3), np.uint8)
    for start in range(0, rows, 5000):
        some = slice(start, start + 5000)
        noise = random.standard_normal(images[some].shape, np.float32) * hardness
        images[some] = np.clip(prototypes[labels[some]] + noise, 0, 255)
    np.savez(file, image=images, label=labels)


@functools.lru_cache(maxsize=2)
def read(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 32, 32, 3]` uint8 and labels `[n]` int64; kept, once per process."""
    with np.load(file) as arrays:
        return arrays["image"], arrays["label"]


def tensors(file: str, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Some rows as float32 `[n, 3, 32, 32]` in [0, 1], and their labels."""
    images, labels = read(file)
    x = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float().div_(255).contiguous()
    return x, torch.from_numpy(labels[rows])


def user(settings: dict[str, Any], number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of one user: the data is drawn independently, so a slice is an even random deal."""
    size = settings["points"]
    return tensors(settings["data"], slice(number * size, (number + 1) * size))


def small_cnn() -> nn.Module:
    """The benchmark's model: 32 and 64 filters, 128 hidden units, dropout 0.25 and 0.5."""
    spec = importlib.util.spec_from_file_location("small_models", MODELS)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{MODELS} is not there; run the benchmark from a checkout of fedcore")
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_models"] = module
    spec.loader.exec_module(module)
    made: nn.Module = module.SmallCNN(SHAPE, CLASSES)
    return made


def evaluate(model: nn.Module, file: str) -> dict[str, float]:
    """Loss and accuracy over all rows of a file."""
    x, y = tensors(file, slice(None))
    model.eval()
    loss = right = 0.0
    with torch.no_grad():
        for start in range(0, len(y), EVALUATION_BATCH):
            some = slice(start, start + EVALUATION_BATCH)
            logits = model(x[some])
            loss += functional.cross_entropy(logits, y[some], reduction="sum").item()
            right += (logits.argmax(dim=1) == y[some]).sum().item()
    return {"loss": loss / len(y), "accuracy": right / len(y)}


def told_and_settings() -> tuple[Path, dict[str, Any]]:
    """The last two arguments of a side: the file to tell in, and the settings."""
    settings_file, told_file = sys.argv[-2:]
    settings: dict[str, Any] = json.loads(Path(settings_file).read_text())
    return Path(told_file), settings
