"""The report's section on the coordinator's own images: ROC, calibration, examples, outlines."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.coordinator.plots import histogram
from fedcore.coordinator.record import Record
from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import count_text, metric_text, percent_text
from fedcore.drawing.page import figure, keys, section, short, table
from fedcore.vertical.charts import Axis, Line, chart

log = logging.getLogger("fedcore.coordinator")

FILE = "predictions.npz"
MOST_CURVES = 4
MOST_CLASSES = 40
_LINES = ("federated", "alone", "pooled", "central")

STYLE = """
.line.pooled path { stroke: var(--pooled); stroke-width: 2; stroke-dasharray: 9 3; }
.line.alone path { stroke: var(--alone); stroke-dasharray: 5 3; }
.line.pooled { stroke: var(--pooled); stroke-width: 2; }
.reach.federated { stroke: var(--federated); stroke-width: 1.6; opacity: 0.45; }
.scans { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 16px 14px; margin: 10px 0 26px; }
.scans.large { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.scans figure + figure { margin-top: 0; }
.scans figure { margin: 0; min-width: 0; }
.scans img, .scans svg { display: block; width: 100%; height: auto; border-radius: 3px; image-rendering: pixelated; }
.scans figcaption { display: block; margin: 5px 0 0; font-size: 13px; line-height: 1.4; overflow-wrap: anywhere; }
.scans figcaption span { display: block; }
.outline { fill: none; stroke-width: 2.4; vector-effect: non-scaling-stroke; }
.outline.told { stroke: #22b8ff; }
.outline.truth { stroke: #ffb300; stroke-dasharray: 4 4; }
.multiples > figure { margin: 0; }
.multiples figure + figure { margin-top: 0; }
@media screen and (max-width: 760px) { .scans { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .scans.large { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media print { .scans figure { break-inside: avoid; } .scans img, .scans image, .outline { print-color-adjust: exact; } }
"""


def shows(record: Record) -> bool:
    """Whether the run looked at images of the coordinator's own."""
    return _told(record).get("kind") in ("classes", "masks")


def images(record: Record, run_dir: Path | None) -> Markup:
    """What the kept model says of central images; nothing for a run without any."""
    told = _told(record)
    if not shows(record):
        return Markup("")
    pixels = _pixels(run_dir)
    try:
        parts = _classes(told, pixels) if told["kind"] == "classes" else _masks(told, pixels)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        log.warning("report: the predictions in result.json are damaged: %s", error)
        return Markup("")
    return section("On the coordinator’s own images", *parts)


def _told(record: Record) -> Mapping[str, Any]:
    found = record.raw.get("predictions")
    return found if isinstance(found, Mapping) else {}


def _pixels(run_dir: Path | None) -> dict[str, npt.NDArray[np.uint8]]:
    if run_dir is None:
        return {}
    try:
        with np.load(run_dir / FILE, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError) as error:
        log.warning("report: %s cannot be read: %s", FILE, error)
        return {}


# ---- classes of images


def _classes(told: Mapping[str, Any], pixels: Mapping[str, npt.NDArray[np.uint8]]) -> list[Markup]:
    curves = [each for each in told["curves"] if each["points"]]
    intro = f"The kept model on {count_text(told['rows'])} images that the coordinator holds; no site’s image is shown."
    charts = [_roc(curves), _reliability(told["calibration"])]
    parts = [element("p", intro), element("div", *filter(None, charts), class_="multiples")]
    if len(curves) > 1:
        parts.append(_areas(curves))
    return [*parts, *_examples(told["examples"], pixels.get("images"))]


def _roc(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Shares of true and of false alarms, of the classes that are told worst where there are many."""
    if not curves:
        return Markup("")
    worst = sorted(curves, key=lambda each: each["auc"])[:MOST_CURVES]
    lines = [
        Line([tuple(point) for point in each["points"]], style, f"{each['class']}: AUC {each['auc']:.3f}")
        for each, style in zip(worst, _LINES, strict=False)
    ]
    axes = Axis("1 − specificity", 0, 1), Axis("sensitivity", 0, 1)
    said = "; ".join(f"{each['class']}: AUC {metric_text(each['auc'], 3)}" for each in worst)
    picture = chart(lines, *axes, describe=f"ROC. {said}", diagonal=True, height=400)
    if len(curves) == 1:
        one = curves[0]
        note = f"AUC {metric_text(one['auc'], 3)}{_interval(one)}"
        return figure(picture, f"ROC of {short(one['class'], 24)}", note)
    legend = [
        (f"line {style}", f"{short(each['class'], 20)} {metric_text(each['auc'], 3)}")
        for each, style in zip(worst, _LINES, strict=False)
    ]
    few = f"the {len(worst)} classes told worst, " if len(worst) < len(curves) else ""
    return element("div", figure(picture, "ROC", f"{few}each against the others; AUC"), keys(legend))


def _interval(curve: Mapping[str, Any]) -> str:
    if not curve["interval"]:
        return ", no pair of images in the wrong order"
    low, high = curve["interval"]
    return f", 95 % interval {metric_text(low, 3)} to {metric_text(high, 3)}"


def _reliability(calibration: Mapping[str, Any]) -> Markup:
    bins = calibration["bins"]
    points = [(each["told"], each["found"]) for each in bins]
    names = ", ".join(f"{count_text(each['rows'])} at {percent_text(each['told'], 0)}" for each in bins)
    line = Line(
        points,
        "federated",
        f"images: {names}",
        dots=True,
        reach=[_wilson(each["found"], each["rows"]) for each in bins],
    )
    subject = calibration["of"]
    said = f"of {short(subject, 24)}" if subject else "of the likeliest class"
    axes = Axis(f"probability told, {said}", 0, 1), Axis("how often it was so", 0, 1)
    error = metric_text(calibration["error"], 3)
    picture = chart(
        [line], *axes, describe=f"Reliability; expected calibration error {error}", diagonal=True, height=400
    )
    note = f"expected error {error}, with 95 % intervals"
    return figure(picture, "Calibration", note)


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    far = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - far), min(1.0, middle + far)


def _areas(curves: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        (
            each["class"],
            count_text(each["positives"]),
            metric_text(each["auc"], 3),
            " to ".join(metric_text(edge, 3) for edge in each["interval"]) if each["interval"] else "–",
        )
        for each in sorted(curves, key=lambda each: each["auc"])[:MOST_CLASSES]
    ]
    return element(
        "details",
        element("summary", "AUC by class"),
        table(["Class", "Images", "AUC", "95 % interval"], rows),
    )


def _examples(examples: Sequence[Mapping[str, Any]], images: npt.NDArray[np.uint8] | None) -> list[Markup]:
    if images is None or len(images) != len(examples):
        return []
    parts: list[Markup] = []
    for title, right in (("Most certain, and wrong", False), ("Most certain, and right", True)):
        shown = [
            _example(each, image)
            for each, image in zip(examples, images, strict=True)
            if (each["truth"] == each["told"]) == right
        ]
        if shown:
            parts += [element("h3", title), element("div", *shown, class_="scans")]
        elif not right:
            parts.append(element("p", "No image was told wrong.", class_="quiet"))
    return parts


def _example(example: Mapping[str, Any], image: npt.NDArray[np.uint8]) -> Markup:
    said = f"{short(example['told'], 20)} {percent_text(example['share'])}"
    truth = short(example["truth"], 20)
    words = [element("b", said)]
    if example["truth"] != example["told"]:
        words.append(element("span", f"is {truth}"))
    alt = f"Image {example['row'] + 1}: told {said}, is {truth}"
    return element("figure", element("img", src=data_url(image), alt=alt), element("figcaption", *words))


# ---- masks


def _masks(told: Mapping[str, Any], pixels: Mapping[str, npt.NDArray[np.uint8]]) -> list[Markup]:
    each = ", ".join(
        f"{name} {metric_text(value, 3)}" for name, value in told["dice"].items() if value is not None
    )
    foreground = "foreground" if len(told["dice"]) > 1 else next(iter(told["dice"]))
    clear = told["rows"] - told["with_foreground"]
    intro = (
        f"The kept model on {count_text(told['rows'])} images that the coordinator holds; no site’s image is shown. Dice "
        f"over all pixels: {each or 'not defined'}. It outlines nothing in {count_text(told['missed'])} of "
        f"{count_text(told['with_foreground'])} images with {foreground}, and something in "
        f"{count_text(told['false_alarms'])} of {count_text(clear)} without."
    )
    parts = [element("p", intro)]
    if len(told["images"]) > 1:
        low, high = min(told["images"]), max(told["images"])
        describe = (
            f"Dice of {len(told['images'])} images, from {metric_text(low, 3)} to {metric_text(high, 3)}"
        )
        picture = histogram(told["images"], describe=describe, height=180)
        parts.append(figure(picture, "How many images have which Dice", f"those with {foreground}"))
    return [*parts, *_overlays(told["examples"], pixels)]


def _overlays(
    examples: Sequence[Mapping[str, Any]], pixels: Mapping[str, npt.NDArray[np.uint8]]
) -> list[Markup]:
    if any(name not in pixels or len(pixels[name]) != len(examples) for name in ("images", "truth", "told")):
        return []
    rows = list(zip(examples, pixels["images"], pixels["truth"], pixels["told"], strict=True))
    legend = element(
        "ul",
        *(
            element("li", _sample(style), text)
            for style, text in (
                ("outline told", "the model’s outline"),
                ("outline truth", "the true outline"),
            )
        ),
        class_="legend",
    )
    parts: list[Markup] = []
    for title, there in (("From the worst outline to the best", True), ("Where there is nothing", False)):
        shown = [
            overlay(image, truth, told, each) for each, image, truth, told in rows if each["there"] == there
        ]
        if shown:
            parts += [element("h3", title), legend, element("div", *shown, class_="scans large")]
            legend = Markup("")
    return parts


def _sample(style: str) -> Markup:
    path = element("path", d="M1 7H25", class_=style)
    return element("svg", path, viewBox="0 0 26 14", width=26, height=14, aria_hidden="true")


def overlay(
    image: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.uint8],
    told: npt.NDArray[np.uint8],
    example: Mapping[str, Any],
) -> Markup:
    """An image under the outlines of two masks.

    Args:
        image: `[height, width, channels]`.
        truth, told: `[height, width]`; every class has its outline.
        example: Its Dice and where it stands in the data.
    """
    height, width = truth.shape
    said = f"Dice {metric_text(example['dice'], 3)}" if example["there"] else "a false alarm"
    drawn = [element("image", href=data_url(image), width=width, height=height)]
    drawn += [
        element("path", d=path, class_=f"outline {style}")
        for mask, style in ((told, "told"), (truth, "truth"))
        if (path := outline(mask))
    ]
    picture = element(
        "svg",
        *drawn,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"Image {example['row'] + 1}, {said}",
    )
    return element(
        "figure", picture, element("figcaption", element("b", said), f" · image {example['row'] + 1}")
    )


def outline(mask: npt.NDArray[np.uint8]) -> str:
    """The borders between pixels of different classes, as an SVG path in pixels; empty where there is one class.

    Args:
        mask: `[height, width]`.
    """
    parts: list[str] = []
    for across, values in ((True, mask), (False, mask.T)):
        outside = np.zeros((1, values.shape[1]), dtype=values.dtype)
        framed = np.concatenate([outside, values, outside])
        for line, edge in enumerate(framed[1:] != framed[:-1]):
            ends = np.flatnonzero(np.diff(np.concatenate([[0], edge.astype(np.int8), [0]])))
            for start, stop in zip(ends[::2], ends[1::2], strict=True):
                parts.append(f"M{start} {line}H{stop}" if across else f"M{line} {start}V{stop}")
    return "".join(parts)


def data_url(image: npt.NDArray[np.uint8]) -> str:
    """The image itself as an address: nothing is loaded.

    Args:
        image: `[height, width, channels]`, one channel or three.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3]).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
