"""The report's section on central images: what stands in it, and that it loads nothing."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedcore.coordinator.report import render
from fedcore.coordinator.report_images import FILE, data_url, outline
from tests.fedcore.coordinator import chromium


def example(row: int, truth: str, told: str, share: float) -> dict[str, Any]:
    return {"row": row, "truth": truth, "told": told, "share": share}


def classes(names: tuple[str, ...] = ("<b>nodule", "normal")) -> dict[str, Any]:
    curve = {"positives": 4, "negatives": 6, "auc": 0.875, "interval": [0.5, 0.97]}
    points = [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    shown = names[:1] if len(names) == 2 else names
    return {
        "kind": "classes",
        "rows": 10,
        "classes": list(names),
        "curves": [{**curve, "class": name, "points": points} for name in shown],
        "calibration": {
            "of": names[0] if len(names) == 2 else "",
            "bins": [{"rows": 6, "told": 0.2, "found": 0.1}, {"rows": 4, "told": 0.9, "found": 1.0}],
            "error": 0.1,
        },
        "examples": [example(3, names[0], names[1], 0.91), example(5, names[1], names[1], 0.99)],
    }


def masks() -> dict[str, Any]:
    return {
        "kind": "masks",
        "rows": 3,
        "classes": ["background", "nodule"],
        "dice": {"nodule": 0.8},
        "images": [0.6, 0.9],
        "with_foreground": 2,
        "missed": 0,
        "false_alarms": 1,
        "examples": [{"row": 0, "dice": 0.6, "there": True}, {"row": 2, "dice": 0.0, "there": False}],
    }


def page(tmp_path: Path, seen: dict[str, Any], **pixels: np.ndarray) -> str:
    np.savez(tmp_path / FILE, **pixels)  # type: ignore[arg-type]
    return render({"kind": "train", "name": "seen", "status": "finished", "predictions": seen}, tmp_path)


def pictures(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def test_classes_have_a_curve_a_calibration_and_examples(tmp_path: Path) -> None:
    made = page(tmp_path, classes(), images=pictures())
    for words in ("ROC of", "AUC 0.875, 95 % interval 0.500 to 0.970", "expected error 0.100", "sensitivity"):
        assert words in made
    assert (
        made.index("Most certain, and wrong")
        < made.index("normal 91.0")
        < made.index("Most certain, and right")
    )
    assert "is &lt;b&gt;nodule" in made and "<b>nodule" not in made
    assert made.count("data:image/png;base64,") == 2 and "img-src data:" in made


def test_many_classes_have_a_curve_each_and_a_table(tmp_path: Path) -> None:
    made = page(tmp_path, classes(tuple("abcdef")), images=pictures())
    assert "the 4 classes told worst" in made and "AUC by class" in made and "of the likeliest class" in made


def test_masks_are_drawn_over_their_images(tmp_path: Path) -> None:
    told, truth = np.zeros((2, 2, 8, 8), np.uint8)
    truth[0, 2:5, 2:6] = 1
    told[:, 3:6, 2:6] = 1
    made = page(tmp_path, masks(), images=pictures(), truth=truth, told=told)
    for words in (
        "Dice over all pixels: nodule 0.800",
        "something in 1 of 1 without",
        "Where there is nothing",
    ):
        assert words in made
    assert (
        made.count('class="outline told"') == 3 and made.count('class="outline truth"') == 2
    )  # one each in the legend


def test_without_the_file_of_pixels_the_numbers_are_shown(tmp_path: Path) -> None:
    result = {"kind": "train", "name": "seen", "predictions": classes()}
    made = render(result, tmp_path)
    assert "AUC 0.875" in made and "data:image/png" not in made
    (tmp_path / FILE).write_bytes(b"no archive")
    assert "AUC 0.875" in render(result, tmp_path)


@pytest.mark.parametrize(
    "told", [{"kind": "classes"}, {"kind": "masks", "rows": "x"}, {"kind": "other"}, [1], None]
)
def test_damaged_predictions_leave_the_section_out(tmp_path: Path, told: Any) -> None:
    made = render({"kind": "train", "name": "seen", "predictions": told}, tmp_path)
    assert "own images" not in made


def test_an_outline_is_the_border_between_pixels() -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 2:4] = 1
    assert outline(mask) == "M2 1H4M2 3H4M2 1V3M4 1V3"
    assert outline(np.zeros((3, 3), np.uint8)) == ""
    assert outline(np.ones((2, 3), np.uint8)) == "M0 0H3M0 2H3M0 0V2M3 0V2"


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_travels_in_its_address(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 7, channels), dtype=np.uint8)
    found = re.fullmatch(r"data:image/png;base64,(.*)", data_url(image))
    assert found is not None
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    np.testing.assert_array_equal(back.reshape(image.shape), image)


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason=chromium.MISSING)
def test_the_page_with_images_loads_nothing_and_complains_of_nothing(tmp_path: Path) -> None:
    truth = np.eye(8, dtype=np.uint8)[None].repeat(2, axis=0)
    made = page(tmp_path, masks(), images=pictures(), truth=truth, told=truth[:, ::-1])
    file = tmp_path / "report.html"
    file.write_text(made)
    opened = chromium.open_page(file, tmp_path)
    assert opened.console == [] and all(each.startswith(("file:", "data:")) for each in opened.requests)
