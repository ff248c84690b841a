"""Tasks over images: their models, losses and augmentation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedcore.jobs.common import Strict

Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Norm = Literal["batch", "group"]


class Augment(Strict):
    """How training images are changed at random, each by numbers of its own; 0 or false leaves a change out.

    Args:
        flip: Whether half of the images are mirrored left to right.
        rotate: At most so many degrees, either way.
        shift: At most this share of the height and of the width, either way.
        scale: Larger or smaller by at most this share.
        brightness: Added to all pixels of an image, at most, either way; pixels are 0 to 1.
        noise: Standard deviation of what is added to each pixel, at most; each image draws its own.
    """

    flip: bool = False
    rotate: float = Field(default=0.0, ge=0, le=180)
    shift: Share = 0.0
    scale: Share = 0.0
    brightness: Share = 0.0
    noise: Share = 0.0


class ImageTask(Strict):
    """Classification of images (column `image`: height x width, or height x width x channels).

    Args:
        target: The column with the class.
        image: The column with the pixels.
        model: `cnn` (two convolutions) or `resnet18` (He et al. 2016).
        norm: Of `resnet18`: `batch` takes mean and deviation from the batch, `group` from each image alone (Wu and He
            2018), which `differential_privacy: {level: record}` needs.
        loss: `cross-entropy`, or `focal` (Lin et al. 2017), which counts rows that are told well for less.
        focal_gamma: Of `focal`: how much less; 0 is cross-entropy.
        class_weights: How much a row of a class counts in the loss, by class; 1 for a class that is not named. No site's
            rows are counted for it.
        positive: Of two classes, the one that the report's ROC curve is about; the last in order when absent.
        augment: How training images are changed at random; not at all when absent.
    """

    use: Literal["image-classifier"]
    target: str = "label"
    image: str = "image"
    model: Literal["cnn", "resnet18"] = "cnn"
    norm: Norm = "batch"
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    class_weights: dict[str, Weight] = Field(default_factory=dict)
    positive: str | None = None
    augment: Augment | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are read beside the target."""
        return (self.image,)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.norm == "group" and self.model == "cnn":
            raise ValueError("norm: model cnn has no normalisation; leave norm out, or take model: resnet18")
        return self


class SegmentationTask(Strict):
    """Segmentation: a class for each pixel (column `mask`: height x width, whole numbers from 0).

    The model is a U-Net (Ronneberger et al. 2015).

    Args:
        target: The column with the mask; its numbers are places in `classes`.
        image: The column with the pixels.
        classes: What the numbers 0, 1, ... of a mask mean; the first is the background.
        depth: How often the image is halved on the way down.
        width: Channels of the first level; they double on each level below.
        norm: `group` takes mean and deviation from each image alone (Wu and He 2018), which
            `differential_privacy: {level: record}` needs; `batch` takes them from the batch.
        loss: `dice+cross-entropy`, their sum (Isensee et al. 2021), or one of them.
        class_weights: How much a pixel of a class counts in the cross-entropy, by class; 1 for a class that is not named.
        augment: How training images are changed at random, and their masks with them; not at all when absent.
    """

    use: Literal["image-segmenter"]
    target: str = "mask"
    image: str = "image"
    classes: tuple[str, ...] = ("background", "foreground")
    depth: int = Field(default=3, ge=1, le=6)
    width: int = Field(default=16, ge=1, le=256)
    norm: Norm = "group"
    loss: Literal["dice+cross-entropy", "dice", "cross-entropy"] = "dice+cross-entropy"
    class_weights: dict[str, Weight] = Field(default_factory=dict)
    augment: Augment | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are read beside the target."""
        return (self.image,)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not 2 <= len(self.classes) <= 255 or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: name two to 255, each once; the first is the background")
        unknown = sorted(set(self.class_weights) - set(self.classes))
        if unknown:
            raise ValueError(
                f"class_weights: {unknown[0]!r} is none of the classes {', '.join(self.classes)}"
            )
        return self
