"""Images changed at random on the device they are trained on: mirrored, turned, moved, larger, brighter, noisier.

All changes of place are one affine map per image, and so one look-up of pixels for a whole batch. A mask moves with its
image, by the nearest pixel. Each image draws numbers of its own, so that no row depends on another.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from fedcore.jobs.imaging import Augment
from fedcore.learning.task import Batch


def augmented(batch: Batch, how: Augment, source: torch.Generator, *, mask: bool = False) -> Batch:
    """The batch, changed.

    Args:
        batch: Images `[n, channels, height, width]` in [0, 1].
        how: By how much.
        source: On the images' device.
        mask: Whether `batch.y` is a mask `[n, height, width]` that moves with its image.

    Returns:
        A new batch of the same shapes and types. What comes in from outside of an image repeats its edge.
    """
    x, y = batch.x, batch.y
    if not len(x):
        return batch  # an empty Poisson batch
    drawn = 2 * torch.rand(len(x), 7, generator=source, device=x.device) - 1
    if how.flip or how.rotate or how.shift or how.scale:
        grid = functional.affine_grid(
            _maps(drawn, how, x.shape[-2], x.shape[-1]), list(x.shape), align_corners=False
        )
        if mask:
            y = _looked_up(y[:, None].float(), grid, "nearest")[:, 0].to(y.dtype)
        x = _looked_up(x, grid, "bilinear")
    if how.brightness:
        x = x + how.brightness * drawn[:, 5].view(-1, 1, 1, 1)
    if how.noise:
        each = how.noise * drawn[:, 6].abs().view(-1, 1, 1, 1)
        x = x + each * torch.randn(x.shape, generator=source, device=x.device)
    return Batch(x.clamp(0, 1) if how.brightness or how.noise else x, y)


def _looked_up(values: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    return functional.grid_sample(
        values, grid.to(values.dtype), mode=mode, padding_mode="border", align_corners=False
    )


def _maps(drawn: torch.Tensor, how: Augment, height: int, width: int) -> torch.Tensor:
    """Where each pixel comes from, `[n, 2, 3]`, in coordinates that run from -1 to 1 over an image.

    A turn is one of pixels, and not of these coordinates, which are as long along a short side as along a long one.
    """
    angle = math.radians(how.rotate) * drawn[:, 0]
    larger = 1 + how.scale * drawn[:, 1]
    mirror = torch.where(drawn[:, 2] < 0, -1.0, 1.0) if how.flip else torch.ones_like(angle)
    cosine, sine = torch.cos(angle) / larger, torch.sin(angle) / larger
    long = height / width
    across = torch.stack([mirror * cosine, -mirror * long * sine, 2 * how.shift * drawn[:, 3]], dim=1)
    along = torch.stack([sine / long, cosine, 2 * how.shift * drawn[:, 4]], dim=1)
    return torch.stack([across, along], dim=1)
