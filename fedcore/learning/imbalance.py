"""What helps where one class is rare: weights of classes, the focal loss, balanced accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from fedcore.errors import JobError, did_you_mean


class ClassWeights:
    """How much each class counts in a loss, once for each device.

    Args:
        weights: One per class, above 0.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)
        self._held: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    @property
    def even(self) -> bool:
        """Whether all classes count the same, as without weights."""
        return set(self.weights) <= {1.0}

    def on(self, like: torch.Tensor) -> torch.Tensor:
        """`[classes]`, of the device and the type of `like`."""
        key = (like.device, like.dtype)
        if key not in self._held:
            self._held[key] = torch.tensor(self.weights, device=like.device, dtype=like.dtype)
        return self._held[key]


def class_weights(asked: Mapping[str, float], classes: Sequence[object]) -> ClassWeights:
    """Weights in the order of the classes; 1 where none is asked.

    Args:
        asked: By the class as it is written.
        classes: As agreed.

    Raises:
        JobError: A name is no class.
    """
    names = [str(each) for each in classes]
    for name in asked:
        if name not in names:
            raise JobError(f"task.class_weights: no class {name!r} in the data; {did_you_mean(name, names)}")
    return ClassWeights([float(asked.get(name, 1.0)) for name in names])


def weighted_entropy(
    outputs: torch.Tensor, y: torch.Tensor, weights: ClassWeights, gamma: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of each row, times the weight of its class, times (1 - p)^gamma with p the probability of its class.

    Divided by nothing, so that no row's loss depends on another row; weights far above 1 act as a larger learning rate.

    Args:
        outputs: Logits `[n, classes]`.
        y: `[n]` int64.
        weights: Of the classes.
        gamma: Of the focal loss; 0 is cross-entropy.

    Returns:
        `[n]`, nats.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017 (arXiv 1708.02002), equation 5.
    """
    each = functional.cross_entropy(outputs, y, reduction="none")
    if gamma:
        # The power of a number at 0 has no finite gradient below 1.
        each = each * (1 - torch.exp(-each)).clamp(min=1e-6) ** gamma
    return each if weights.even else each * weights.on(outputs)[y]


def balanced_accuracy(right: torch.Tensor, rows: torch.Tensor) -> float:
    """The mean over classes of the share that was told right; classes without rows are left out, NaN without any.

    Args:
        right: Rows of each class that were told right, `[classes]`.
        rows: Rows of each class, `[classes]`.
    """
    there = rows > 0
    return float((right[there].double() / rows[there]).mean()) if bool(there.any()) else float("nan")
