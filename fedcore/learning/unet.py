"""A U-Net: the image halved some times on the way down, doubled as often on the way up, with what each level saw.

Ronneberger, Fischer and Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, MICCAI 2015
(arXiv 1505.04597), figure 1, with padded convolutions, a normalisation behind each, and nearest-neighbour doubling
instead of transposed convolutions (Odena et al. 2016: no checkerboards).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fedcore.learning.models import Norm, normalisation


class UNet(nn.Module):
    """One logit per class for each pixel.

    Args:
        channels: Of an image.
        classes: Number of logits.
        depth: How often the image is halved.
        width: Channels of the first level; they double on each level below.
        norm: As in `fedcore.learning.models.normalisation`.
    """

    def __init__(
        self, channels: int, classes: int, depth: int = 3, width: int = 16, norm: Norm = "group"
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _level(before, own, norm) for before, own in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            _level(widths[level + 1] + widths[level], widths[level], norm) for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[n, classes, height, width]` from images `[n, channels, height, width]`."""
        seen: list[torch.Tensor] = []
        for place, level in enumerate(self.down):
            x = level(functional.max_pool2d(x, 2) if place else x)
            seen.append(x)
        for level, skipped in zip(self.up, reversed(seen[:-1]), strict=True):
            # To the size of what was skipped: an odd side was halved downwards.
            doubled = functional.interpolate(x, size=skipped.shape[-2:], mode="nearest")
            x = level(torch.cat([doubled, skipped], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits


def least_size(depth: int) -> int:
    """The smallest side, in pixels, that can be halved so often and still be normalised."""
    least: int = 2 ** (depth + 1)
    return least


def _level(inputs: int, outputs: int, norm: Norm) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        normalisation(norm, outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        normalisation(norm, outputs),
        nn.ReLU(inplace=True),
    )
