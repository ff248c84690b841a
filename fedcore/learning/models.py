"""Built-in models: small, plain torch, no weights from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

Norm = Literal["batch", "group"]

MOST_GROUPS = 32
"""Of a group norm (Wu and He 2018, section 4)."""


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Of feature maps: over the batch, or over groups of channels of each image alone.

    Args:
        norm: `batch`, or `group`: four channels or more in a group, and at most 32 groups.
        channels: Of the feature maps.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    most = min(MOST_GROUPS, max(1, channels // 4))
    return nn.GroupNorm(max(d for d in range(1, most + 1) if channels % d == 0), channels)


def mlp(inputs: int, outputs: int, hidden: Sequence[int] = ()) -> nn.Module:
    """Fully connected layers with ReLU between; without hidden layers, logistic regression.

    Args:
        inputs: Features per row.
        outputs: Logits per row.
        hidden: Width of each hidden layer.
    """
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class SmallCNN(nn.Module):
    """Two 3x3 convolutions, one pooling, one hidden layer with dropout.

    The shape of the CIFAR-10 model of pfl-research's benchmarks (arXiv 2404.06430): 32 and 64 filters,
    128 hidden units, dropout 0.25 and 0.5.

    Args:
        shape: Channels, height, width of an image; at least 6 x 6 pixels.
        classes: Number of logits.
        dropout: After the pooling and after the hidden layer.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, dropout: tuple[float, float] = (0.25, 0.5)
    ) -> None:
        super().__init__()
        channels, height, width = shape
        pooled = 64 * ((height - 4) // 2) * ((width - 4) // 2)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(
            nn.Dropout(dropout[0]),
            nn.Flatten(),
            nn.Linear(pooled, 128),
            nn.ReLU(),
            nn.Dropout(dropout[1]),
            nn.Linear(128, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[n, classes]` from images `[n, channels, height, width]`."""
        logits: torch.Tensor = self.head(self.features(x))
        return logits


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            normalisation(norm, outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            normalisation(norm, outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), normalisation(norm, outputs)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(shape: Sequence[int], classes: int, norm: Norm = "batch") -> nn.Module:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385).

    Images below 64 pixels get the 3x3 stem of the paper's CIFAR experiments (section 4.2), larger ones the
    7x7 stem with pooling (table 1).

    Args:
        shape: Channels, height, width of an image.
        classes: Number of logits.
        norm: `batch` as in the paper, or `group`, by which rows do not touch each other.
    """
    channels, height, width = shape
    stem: list[nn.Module]
    if min(height, width) < 64:
        stem = [
            nn.Conv2d(channels, 64, 3, padding=1, bias=False),
            normalisation(norm, 64),
            nn.ReLU(inplace=True),
        ]
    else:
        stem = [
            nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False),
            normalisation(norm, 64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        ]
    blocks: list[nn.Module] = []
    width_before = 64
    for stage_width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [
            _Residual(width_before, stage_width, stride, norm),
            _Residual(stage_width, stage_width, 1, norm),
        ]
        width_before = stage_width
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
