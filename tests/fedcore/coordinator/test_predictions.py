"""Curves and calibration against scikit-learn, and which images are shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from fedcore.coordinator import predictions
from fedcore.coordinator.model import Model
from fedcore.coordinator.predictions import (
    FILE,
    _curve,
    auc_interval,
    calibration,
    calibration_error,
    certain,
    predict,
    spread,
    thinned,
)
from fedcore.jobs.job import TrainJob
from fedcore.learning.task import Schema

SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=4, max_size=60)


def drawn(rows: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.4).astype(np.float64)
    return labels, 1 / (1 + np.exp(-(random.normal(size=rows) + apart * (labels - 0.5))))


# ---- numbers


@given(SCORED)
def test_the_curve_and_its_area_are_scikit_learns(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([float(label) for label, _ in rows])
    scores = np.array([score / 20 for _, score in rows])
    assume(0 < labels.sum() < len(labels))
    found = _curve("a", labels, scores)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    everywhere = [(float(x), float(y)) for x, y in zip(false, true, strict=True)]
    assert all(any(np.allclose(point, other) for other in everywhere) for point in found["points"])
    assert found["points"][0] == (0.0, 0.0) and found["points"][-1] == (1.0, 1.0)
    area = np.trapezoid([y for _, y in found["points"]], [x for x, _ in found["points"]])
    assert area == pytest.approx(found["auc"])


def test_one_class_has_no_curve() -> None:
    found = _curve("a", np.ones(4), np.arange(4) / 4)
    assert found["auc"] is None and found["points"] == [] and found["positives"] == 4


def test_a_long_staircase_is_thinned_and_keeps_its_ends() -> None:
    points = [(i / 1000, math.sqrt(i / 1000)) for i in range(1001)]
    kept = thinned(points)
    assert len(kept) <= predictions.MOST_POINTS and kept[0] == points[0] and kept[-1] == points[-1]


def test_the_interval_of_the_area_is_that_of_the_bootstrap() -> None:
    labels, scores = drawn(300, 1.5)
    found = auc_interval(labels, scores)
    random = np.random.default_rng(1)
    areas = []
    for _ in range(400):
        at = random.integers(0, 300, 300)
        areas.append(roc_auc_score(labels[at], scores[at]))
    assert found is not None
    assert found == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.012)


def test_areas_of_0_and_1_have_no_interval() -> None:
    labels, scores = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert auc_interval(labels, scores) is None and auc_interval(labels, 1 - scores) is None


@given(st.integers(0, 50), st.integers(1, 15))
def test_calibration_is_scikit_learns(seed: int, bins: int) -> None:
    labels, shares = drawn(80, 2.0, seed)
    found = calibration(labels, shares, bins)
    true, told = calibration_curve(labels, shares, n_bins=bins)
    assert [each["found"] for each in found] == pytest.approx(true)
    assert [each["told"] for each in found] == pytest.approx(told)
    assert sum(each["rows"] for each in found) == 80


def test_the_calibration_error_is_the_mean_gap_over_rows() -> None:
    bins = [{"rows": 3, "told": 0.2, "found": 0.0}, {"rows": 1, "told": 0.9, "found": 0.5}]
    assert calibration_error(bins) == pytest.approx((3 * 0.2 + 0.4) / 4)
    labels = np.array([1.0, 0, 1, 1])
    assert calibration_error(calibration(labels, labels)) == 0


# ---- which images


def test_the_most_certain_wrong_ones_come_first_and_right_ones_of_each_class_in_turn() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05], [0.4, 0.6], [0.3, 0.7], [0.99, 0.01]])
    y = np.array([0, 1, 1, 0, 1, 0])
    assert certain(shares, y, 2) == [2, 3, 5, 1]
    assert certain(shares, y, 9) == [2, 3, 5, 1, 0, 4]


def test_outlines_are_shown_from_the_worst_to_the_best() -> None:
    value = {i: i / 20 for i in range(20)}
    assert spread(list(range(20)), value, 3) == [0, 10, 19]
    assert spread([4, 2], value, 6) == [2, 4]


# ---- a run's


def job(tmp_path: Path, task: dict[str, object], **central: object) -> TrainJob:
    data = {"connector": "images", "path": tmp_path / "x", "size": (12, 12), **central}
    return TrainJob(
        kind="train",
        name="seen",
        data="chest",
        task=task,
        evaluation={"central": data},  # type: ignore[arg-type]
    )


def pictures(tmp_path: Path, rows: int = 9) -> None:
    random = np.random.default_rng(0)
    for i in range(rows):
        name = f"{('cold', 'hot')[i % 2]}/{i}.png"
        mask = np.zeros((12, 12), np.uint8)
        mask[2 : 2 + i, 3:7] = 1
        for folder, pixels in (("x", random.integers(0, 256, (12, 12), dtype=np.uint8)), ("y", mask)):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / name)


def test_predictions_of_classes_are_those_of_the_central_evaluation(tmp_path: Path) -> None:
    pictures(tmp_path)
    asked = job(tmp_path, {"use": "image-classifier", "positive": "cold"})
    schema = Schema(("image",), (1, 12, 12), ("cold", "hot"))
    model = Model(asked, schema)
    arrays = model.initial_arrays()
    told = predict(asked, schema, arrays, tmp_path)
    central = model.evaluate_central(arrays)
    assert told is not None and central is not None
    (curve,) = told["curves"]
    assert curve["class"] == "cold" and curve["auc"] == pytest.approx(central["auc"])
    wrong = sum(each["truth"] != each["told"] for each in told["examples"])
    assert wrong == min(predictions.SHOWN, round((1 - central["accuracy"]) * 9))
    shown = np.load(tmp_path / FILE)["images"]
    assert shown.shape == (len(told["examples"]), 12, 12, 1) and shown.dtype == np.uint8


def test_predictions_of_masks_have_the_dice_of_the_central_evaluation(tmp_path: Path) -> None:
    pictures(tmp_path)
    task = {"use": "image-segmenter", "depth": 1, "width": 2}
    asked = job(tmp_path, task, masks=tmp_path / "y")
    schema = Schema(("image",), (1, 12, 12))
    model = Model(asked, schema)
    arrays = model.initial_arrays()
    arrays["head.bias"] = np.array([-0.1, 0.1], np.float32)
    told = predict(asked, schema, arrays, tmp_path)
    central = model.evaluate_central(arrays)
    assert told is not None and central is not None
    assert told["dice"]["foreground"] == pytest.approx(central["dice"])
    assert told["rows"] == 9 and told["with_foreground"] == 8
    shown = np.load(tmp_path / FILE)
    assert shown["truth"].shape == shown["told"].shape == (len(told["examples"]), 12, 12)


def test_nothing_is_looked_at_without_central_images(tmp_path: Path) -> None:
    asked = TrainJob(kind="train", name="seen", data="chest", task={"use": "image-classifier"})  # type: ignore[arg-type]
    assert predict(asked, Schema(("image",), (1, 12, 12), (0, 1)), {}, tmp_path) is None
    assert not (tmp_path / FILE).exists()
