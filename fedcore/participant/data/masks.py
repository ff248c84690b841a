"""Masks: for each pixel of an image the number of a class, whatever values a file holds for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Of images without loss; a compressed photo has values that nobody painted."""


def mask_beside(folder: Path, file: Path) -> Path:
    """The mask of an image: the same path below the folder, with a suffix of its own.

    Args:
        folder: Of the masks.
        file: Of the image, below its own folder.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [each for suffix in SUFFIXES if (each := folder / file.with_suffix(suffix)).is_file()]
    if len(found) != 1:
        raise ValueError(f"{len(found)} masks; each image has one")
    return found[0]


def picture_mask(path: Path, original: tuple[int, int], size: tuple[int, int]) -> npt.NDArray[Any]:
    """The stored values of a grey or palette image, resized by the nearest pixel.

    Args:
        path: Of the mask.
        original: Width and height of the image that it belongs to.
        size: Height and width to resize to.

    Raises:
        ValueError: Colours, or another size than the image.
    """
    from PIL import Image

    with Image.open(path) as opened:
        if opened.mode not in ("L", "P", "1") and not opened.mode.startswith("I"):
            raise ValueError(f"a mask of mode {opened.mode}; save grey or palette values")
        if opened.size != original:
            raise ValueError(f"a mask of {opened.size} pixels for an image of {original}")
        # Wide enough for any stored value, whose numbers are kept: a mask is never scaled.
        stored = np.asarray(opened)
    return resized(stored.astype(np.int32), size)


def resized(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """By the nearest pixel, whose centre lies where the new pixel's does.

    Args:
        values: `[height, width]`.
        size: The new height and width.
    """
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(size, values.shape, strict=True)
    )
    taken: npt.NDArray[Any] = values[rows][:, columns]
    return taken


def numbered(values: npt.NDArray[Any], mask_values: tuple[int, ...] | None) -> UInt8:
    """Values as numbers of classes.

    Args:
        values: Whole numbers as stored.
        mask_values: Which value is class 0, 1, ...; the values are the numbers when None.

    Raises:
        ValueError: A value is no class, or not whole.
    """
    if mask_values is None:
        if values.min() < 0 or values.max() > 254:
            raise ValueError("values below 0 or above 254; say with mask_values which is which class")
        numbers: UInt8 = values.astype(np.uint8)
        if (numbers != values).any():
            raise ValueError("values that are not whole numbers")
        return numbers
    found = np.full(values.shape, 255, dtype=np.uint8)
    for number, value in enumerate(mask_values):
        found[values == value] = number
    if (found == 255).any():
        raise ValueError(f"values that mask_values ({', '.join(map(str, mask_values))}) does not name")
    return found
