"""Gradients of a split network made to tell less about labels before they leave the label holder.

`max-norm` multiplies each row's gradient g by 1 + s e, e a standard normal number of the row and s such that the
expected squared norm is that of the largest gradient of the batch. Norms then tell the classes no longer apart, and the
noise has no component across the gradient, which is why training suffers little. What it does not do: rows whose
gradients are the largest already (those of the rare class) get almost no noise and keep their sign, and where all
norms are equal, as with balanced classes at the start, no noise is added at all. `noise` adds the same Gaussian noise
to every row in all directions. Neither is a guarantee: noise is drawn anew in every epoch and averages out over many,
so fewer epochs leak less. `fedcore.vertical.leakage` measures what is left.

Where several partners work together they are one party to this file: a row has one e for all of them, and its norm is
that over all of them. With an e of its own each, two partners that compare could solve for it.

Source: Li, Sun, Yang, Gao, Zhang, Xie, Smith and Wang, "Label Leakage and Protection in Two-party Split Learning",
ICLR 2022 (arXiv 2102.08504), section 4: the heuristic `max_norm` and the isotropic baseline.
"""

from __future__ import annotations

import secrets
from typing import Literal

import numpy as np
import numpy.typing as npt

Gradients = npt.NDArray[np.float32]

_TINY = 1e-30


def protected(
    gradients: Gradients, how: Literal["max-norm", "noise", "none"], noise: float = 1.0
) -> Gradients:
    """The gradients that leave.

    Args:
        gradients: Of each row of a batch with respect to what the partners sent of it, partners side by side;
            float32 [rows, width].
        how: The setting `protect`.
        noise: The setting `noise`.

    Returns:
        float32 [rows, width].
    """
    if how == "max-norm":
        return max_norm(gradients)
    return isotropic(gradients, noise) if how == "noise" else gradients


def max_norm(gradients: Gradients) -> Gradients:
    """Each row scaled by a random number, so that all rows have the expected squared norm of the largest.

    Args:
        gradients: float32 [rows, width].

    Source: arXiv 2102.08504, section 4.1 (`max_norm`).
    """
    norms = np.linalg.norm(gradients.astype(np.float64), axis=1)
    largest = norms.max(initial=0.0)
    spread = np.sqrt(np.maximum((largest / np.maximum(norms, _TINY)) ** 2 - 1.0, 0.0))
    # A row without gradient has no direction: nothing that is a multiple of it has a norm.
    spread[norms <= _TINY] = 0.0
    factor = 1.0 + spread * normals(len(gradients))
    return np.ascontiguousarray(gradients * factor[:, None], dtype=np.float32)


def isotropic(gradients: Gradients, noise: float) -> Gradients:
    """Each row plus Gaussian noise of the same size in all directions.

    Args:
        gradients: float32 [rows, width].
        noise: Root of the expected squared norm of a row's noise, as a share of the largest norm of the batch.

    Source: arXiv 2102.08504, section 5 (`iso`).
    """
    rows, width = gradients.shape
    largest = np.linalg.norm(gradients.astype(np.float64), axis=1).max(initial=0.0)
    drawn = normals(rows * width).reshape(rows, width) * (noise * largest / np.sqrt(width))
    return np.ascontiguousarray(gradients + drawn, dtype=np.float32)


def normals(count: int) -> npt.NDArray[np.float64]:
    """Standard normal numbers from the system's cryptographic source, which no seed of a job repeats.

    Args:
        count: How many.

    Source: Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
    """
    half = (count + 1) // 2
    drawn = np.frombuffer(secrets.token_bytes(16 * half), dtype="<u8").reshape(2, half) >> np.uint64(11)
    # In (0, 1], so that the logarithm exists.
    one, two = (drawn.astype(np.float64) + 1.0) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(one))
    angle = 2.0 * np.pi * two
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
