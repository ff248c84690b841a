"""What the kept model says of the coordinator's own images: curves, calibration, and some images to look at.

Only central data (`evaluation.central`) is looked at, never a site's. Numbers go to `result.json`; the pixels of the few
images that the report shows lie beside it, in `predictions.npz`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedcore.coordinator.model import Model
from fedcore.flower import NDArray
from fedcore.jobs.job import ImageTask, SegmentationTask, TrainJob
from fedcore.learning.examples import Examples
from fedcore.learning.segmentation import overlap
from fedcore.learning.task import Schema
from fedcore.learning.training import load_arrays
from fedcore.vertical import metrics

log = logging.getLogger("fedcore.coordinator")

FILE = "predictions.npz"
SHOWN = 6
"""Images of a kind that the report shows."""
BINS = 10
MOST_POINTS = 200
AT_ONCE = 64

Floats = npt.NDArray[np.float64]


def predict(job: TrainJob, schema: Schema, arrays: dict[str, NDArray], folder: Path) -> dict[str, Any] | None:
    """Look at the central images with the model that was kept.

    Args:
        job: Its task and central data.
        schema: As agreed.
        arrays: The model.
        folder: Of the run; gets `predictions.npz`.

    Returns:
        For `result.json`; None for a task without images, or without central data.
    """
    if not isinstance(job.task, ImageTask | SegmentationTask) or job.evaluation.central is None:
        return None
    model = Model(job, schema)
    if model.central is None:
        return None
    load_arrays(model.module, {name: np.array(value) for name, value in arrays.items()})
    model.module.eval()
    if isinstance(job.task, SegmentationTask):
        told, shown = _segmented(model, model.central, job.task)
    else:
        told, shown = _classified(model, model.central, job.task)
    np.savez_compressed(folder / FILE, **shown)  # type: ignore[arg-type]
    return told


# ---- classes of images


def _classified(
    model: Model, rows: Examples, task: ImageTask
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    shares = np.concatenate(
        [out.softmax(dim=1).double().numpy() for out in _outputs(model, rows)]
    )  # [n, classes]
    y = rows.y.numpy()
    classes = [str(each) for each in model.schema.classes]
    chosen = _curves(classes, task)
    found = shares.argmax(axis=1)
    if len(classes) == 2:
        bins = calibration((y == chosen[0]).astype(np.float64), shares[:, chosen[0]])
        subject = classes[chosen[0]]
    else:
        bins = calibration((found == y).astype(np.float64), shares.max(axis=1))
        subject = ""
    at = certain(shares, y, SHOWN)
    told = {
        "kind": "classes",
        "rows": len(y),
        "classes": classes,
        "curves": [_curve(classes[i], (y == i).astype(np.float64), shares[:, i]) for i in chosen],
        "calibration": {"of": subject, "bins": bins, "error": calibration_error(bins)},
        "examples": [
            {
                "row": int(i),
                "truth": classes[y[i]],
                "told": classes[found[i]],
                "share": float(shares[i, found[i]]),
            }
            for i in at
        ],
    }
    return told, {"images": _pixels(rows, at)}


def _curves(classes: list[str], task: ImageTask) -> list[int]:
    """Which classes have an ROC curve: of two, the one that is looked for."""
    if len(classes) != 2:
        return list(range(len(classes)))
    return [1 if task.positive is None else classes.index(task.positive)]


def _curve(name: str, labels: Floats, scores: Floats) -> dict[str, Any]:
    """An ROC curve, its area and the area's interval."""
    rows = {"class": name, "positives": int(labels.sum()), "negatives": int((1 - labels).sum())}
    if not metrics.both_classes(labels):
        return {**rows, "auc": None, "interval": None, "points": []}
    curve = metrics.curve(labels, scores)
    points = list(zip(curve.good_share.tolist(), curve.bad_share.tolist(), strict=True))
    return {
        **rows,
        "auc": metrics.auc(labels, scores),
        "interval": auc_interval(labels, scores),
        "points": thinned(points),
    }


def auc_interval(labels: Floats, scores: Floats) -> tuple[float, float] | None:
    """95 % interval of an area under the ROC curve; None where no two rows are in the wrong order, or all are.

    DeLong's variance, on the scale of log odds, so that the interval stays between 0 and 1.

    Args:
        labels: `[n]` of 0 and 1, both there.
        scores: `[n]`, higher for 1.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988; Pepe, *The Statistical Evaluation of Medical Tests*, 2003,
    section 5.2 (log odds).
    """
    # Against scores that tell nothing, whose area is a half for certain.
    difference = metrics.auc_difference(labels, scores, np.zeros_like(scores))
    area = metrics.auc(labels, scores)
    if not 0 < area < 1:
        return None
    odds = math.log(area / (1 - area))
    far = 1.959964 * difference.standard_error / (area * (1 - area))
    return 1 / (1 + math.exp(far - odds)), 1 / (1 + math.exp(-far - odds))


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A staircase without the points on straight lines, and at most so many of the others."""
    kept = [
        point
        for i, point in enumerate(points)
        if i in (0, len(points) - 1)
        or all(not points[i - 1][axis] == point[axis] == points[i + 1][axis] for axis in (0, 1))
    ]
    if len(kept) <= MOST_POINTS:
        return kept
    return [kept[round(i * (len(kept) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def calibration(labels: Floats, shares: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """Of rows told about alike, the mean of what was told and how often it was so.

    Args:
        labels: `[n]` of 0 and 1.
        shares: `[n]`, probabilities of 1.
        bins: Of equal width between 0 and 1; those without rows are left out.

    Returns:
        `rows`, `told` (mean probability) and `found` (share of rows with label 1) of each bin.
    """
    place = np.minimum((shares * bins).astype(np.int64), bins - 1)
    return [
        {
            "rows": int((place == each).sum()),
            "told": float(shares[place == each].mean()),
            "found": float(labels[place == each].mean()),
        }
        for each in np.unique(place)
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error: the mean difference between told and found, over rows.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    rows = sum(each["rows"] for each in bins)
    return sum(each["rows"] * abs(each["told"] - each["found"]) for each in bins) / rows


def certain(shares: Floats, y: npt.NDArray[np.int64], count: int) -> list[int]:
    """Rows of which the model is most certain: as many that it tells wrong, then as many that it tells right.

    The right ones are of each class in turn.
    """
    found, most = shares.argmax(axis=1), shares.max(axis=1)
    order = np.argsort(-most, kind="stable")
    wrong = [int(i) for i in order if found[i] != y[i]][:count]
    of_class = [[int(i) for i in order if found[i] == y[i] == each] for each in range(shares.shape[1])]
    turns = [i for turn in range(count) for each in of_class for i in each[turn : turn + 1]]
    return [*wrong, *turns[:count]]


# ---- masks


def _segmented(
    model: Model, rows: Examples, task: SegmentationTask
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    found = torch.cat([out.argmax(dim=1).to(torch.uint8) for out in _outputs(model, rows)])
    each = [overlap(found[i], rows.y[i], len(task.classes)) for i in range(len(rows))]
    both, either = (torch.stack(parts).numpy()[:, 1:] for parts in zip(*each, strict=True))
    whole = [_ratio(2 * b, e) for b, e in zip(both.sum(axis=0), either.sum(axis=0), strict=True)]
    # Of one image, all foreground together; not said where there is none and none was told.
    dice = {i: float(2 * both[i].sum() / either[i].sum()) for i in range(len(rows)) if either[i].sum()}
    there = (rows.y > 0).flatten(1).any(dim=1).numpy()
    told_any = (found > 0).flatten(1).any(dim=1).numpy()
    at = spread([i for i in dice if there[i]], dice, SHOWN)
    at += [i for i in dice if not there[i]][: SHOWN // 2]
    told = {
        "kind": "masks",
        "rows": len(rows),
        "classes": list(task.classes),
        "dice": dict(zip(task.classes[1:], whole, strict=True)),
        "images": [dice[i] for i in dice if there[i]],
        "with_foreground": int(there.sum()),
        "missed": int((there & ~told_any).sum()),
        "false_alarms": int((~there & told_any).sum()),
        "examples": [{"row": int(i), "dice": dice[i], "there": bool(there[i])} for i in at],
    }
    shown = {"images": _pixels(rows, at), "truth": rows.y[at].numpy(), "told": found[at].numpy()}
    return told, shown


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def spread(rows: list[int], value: dict[int, float], count: int) -> list[int]:
    """So many rows between the one of the lowest value and the one of the highest, evenly by rank."""
    ranked = sorted(rows, key=lambda i: (value[i], i))
    if len(ranked) <= count:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


# ---- both


def _outputs(model: Model, rows: Examples) -> Iterable[torch.Tensor]:
    with torch.no_grad():
        for batch in rows.batches(AT_ONCE):
            yield model.module(batch.x).float()


def _pixels(rows: Examples, at: list[int]) -> npt.NDArray[np.uint8]:
    """Images as bytes, channels last; those that are numbers are stretched from their least to their greatest."""
    x = rows.x[at]
    if x.dtype != torch.uint8:
        flat = x.flatten(1)
        low, high = (edge.view(-1, 1, 1, 1) for edge in (flat.amin(dim=1), flat.amax(dim=1)))
        x = ((x - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    pixels: npt.NDArray[np.uint8] = x.movedim(1, -1).numpy()
    return pixels
