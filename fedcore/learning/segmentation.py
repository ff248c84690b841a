"""Segmentation: a class for each pixel, learned by Dice and cross-entropy.

Dice, 2 |A and B| / (|A| + |B|), does not count the background, of which there is mostly too much. Its loss is that of
probabilities instead of sets, one image at a time, so that no row's loss depends on another row.

Source: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016 (arXiv 1606.04797), section 3; Isensee et al., "nnU-Net", Nature
Methods 2021 (its sum with cross-entropy).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from fedcore.errors import DataError, JobError
from fedcore.jobs.imaging import SegmentationTask
from fedcore.learning.augment import augmented
from fedcore.learning.examples import Rows
from fedcore.learning.imbalance import ClassWeights
from fedcore.learning.task import Batch, MetricSums, Task
from fedcore.learning.unet import UNet, least_size

SMOOTH = 1.0
"""Pixels added to both parts of the Dice of probabilities: where a class is absent, fewer of it are better."""


class Segmenter(Task):
    """A U-Net; reports the loss, the Dice of the foreground, and with several of them that of each.

    Metrics: `loss` (as trained on, by image), `dice` (0 to 1, the mean over the classes but the background, each over all
    pixels of all images; NaN where no image has any of them and none is predicted), `dice_<class>`.
    """

    def __init__(self, spec: SegmentationTask) -> None:
        self.spec = spec
        self._weights = ClassWeights([spec.class_weights.get(name, 1.0) for name in spec.classes])

    def model(self) -> nn.Module:
        """One logit per class and pixel."""
        spec, (channels, *sides) = self.spec, self.schema.shape
        least = least_size(spec.depth)
        if min(sides) < least:
            raise JobError(
                f"task.depth: {spec.depth} needs images of at least {least} x {least} pixels, these are {sides[0]} x "
                f"{sides[1]}; use larger images or a smaller depth"
            )
        return UNet(channels, len(spec.classes), spec.depth, spec.width, spec.norm)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean over the images."""
        return self.losses(model(batch.x), batch.y).mean()

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of each image: one less the mean Dice of the foreground, plus the mean cross-entropy of its pixels, `[n]`."""
        y = y.long()
        found = outputs.new_zeros(len(outputs))
        if self.spec.loss != "dice":
            found = found + pixel_entropy(outputs, y, self._weights.on(outputs))
        if self.spec.loss != "cross-entropy":
            found = found + 1 - soft_dice(outputs.softmax(dim=1), y)[:, 1:].mean(dim=1)
        return found

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        """Images changed as the job says, masks with them."""
        how = self.spec.augment
        return batch if how is None else augmented(batch, how, source, mask=True)

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss and Dice."""
        sums = MetricSums()
        both = torch.zeros(len(self.spec.classes), dtype=torch.float64)
        either = torch.zeros_like(both)
        for batch in batches:
            outputs = model(batch.x)
            sums.add(len(batch), loss=float(self.losses(outputs, batch.y).sum()))
            more = overlap(outputs.argmax(dim=1), batch.y, len(self.spec.classes))
            both += more[0].cpu()
            either += more[1].cpu()
        found = sums.means()
        dice = (2 * both / either)[1:]  # 0 / 0 is NaN: nothing there, nothing found
        known = dice[~dice.isnan()]
        found["dice"] = float(known.mean()) if len(known) else float("nan")
        if len(dice) > 1:
            named = zip(self.spec.classes[1:], dice.tolist(), strict=True)
            found |= {f"dice_{name}": value for name, value in named}
        return found


def soft_dice(shares: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Dice of probabilities, of each image and class.

    Args:
        shares: `[n, classes, height, width]`, in [0, 1].
        y: `[n, height, width]` int64.

    Returns:
        `[n, classes]` in (0, 1].
    """
    places = torch.arange(shares.shape[1], device=y.device).view(1, -1, 1, 1)
    truth = (y[:, None] == places).to(shares.dtype)
    both = (shares * truth).sum(dim=(2, 3))
    return (2 * both + SMOOTH) / (shares.sum(dim=(2, 3)) + truth.sum(dim=(2, 3)) + SMOOTH)


def pixel_entropy(outputs: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each image, nats: the mean over its pixels, each counted by the weight of its class.

    Args:
        outputs: Logits `[n, classes, height, width]`.
        y: `[n, height, width]` int64.
        weights: `[classes]`.
    """
    each = functional.cross_entropy(outputs, y, weights, reduction="none")
    return each.sum(dim=(1, 2)) / weights[y].sum(dim=(1, 2))


def overlap(found: torch.Tensor, truth: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of each class that two masks share, and that they have together; both float64 `[classes]`."""
    found, truth = found.reshape(-1).long(), truth.reshape(-1).long()
    shared = torch.bincount(truth[found == truth], minlength=classes)
    counted = torch.bincount(found, minlength=classes) + torch.bincount(truth, minlength=classes)
    return shared.double(), counted.double()


def check_masks(rows: Rows, spec: SegmentationTask) -> None:
    """Refuse masks that do not fit the images or the classes.

    Raises:
        DataError: No masks, another size, numbers that are no class; says how many, of no single one.
    """
    masks = rows.target
    if masks is None or masks.ndim != 3 or masks.dtype.kind not in "iu":
        raise DataError(
            f"column {spec.target!r} holds no masks; a segmentation needs height x width whole numbers for each image "
            "(masks: in the catalogue)"
        )
    if rows.x.ndim != 4 or masks.shape[1:] != rows.x.shape[2:]:
        raise DataError(
            f"masks are {' x '.join(map(str, masks.shape[1:]))} pixels and images "
            f"{' x '.join(map(str, rows.x.shape[2:]))}; make them alike"
        )
    beyond = int(((masks < 0) | (masks >= len(spec.classes))).any(axis=(1, 2)).sum())
    if beyond:
        raise DataError(
            f"{beyond} of {len(masks)} masks have numbers that are no class of the job; allowed: 0 to "
            f"{len(spec.classes) - 1}, which are {', '.join(spec.classes)}; say with mask_values in the catalogue "
            "which value of a pixel is which"
        )
