"""Weights of classes and the focal loss against torch and their formula, balanced accuracy against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional

from fedcore.errors import JobError
from fedcore.jobs.job import ImageTask
from fedcore.learning.builtin import ImageClassifier, build_task
from fedcore.learning.imbalance import balanced_accuracy, class_weights
from fedcore.learning.private.validation import check
from fedcore.learning.task import Batch, Schema

CLASSES = ("nodule", "normal")


def task(**more: object) -> ImageClassifier:
    spec = ImageTask(use="image-classifier", **more)  # type: ignore[arg-type]
    made = build_task(spec, Schema(("image",), (1, 8, 8), CLASSES))
    assert isinstance(made, ImageClassifier)
    return made


def rows(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=source), torch.randint(0, 2, (n,), generator=source)


def test_without_weights_the_loss_is_cross_entropy() -> None:
    outputs, y = rows()
    torch.testing.assert_close(
        task().losses(outputs, y), functional.cross_entropy(outputs, y, reduction="none")
    )


def test_a_weighted_row_counts_as_much_as_its_class_weighs() -> None:
    outputs, y = rows()
    expected = functional.cross_entropy(outputs, y, torch.tensor([2.5, 1.0]), reduction="none")
    torch.testing.assert_close(task(class_weights={"nodule": 2.5}).losses(outputs, y), expected)


def test_the_focal_loss_is_its_formula_and_gamma_0_is_cross_entropy() -> None:
    outputs, y = rows()
    p = outputs.softmax(1)[torch.arange(6), y]
    torch.testing.assert_close(task(loss="focal").losses(outputs, y), -((1 - p) ** 2) * p.log())
    torch.testing.assert_close(task(loss="focal", focal_gamma=0.0).losses(outputs, y), -p.log())


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_of_a_row_told_for_certain_has_a_finite_gradient(gamma: float) -> None:
    outputs = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    task(loss="focal", focal_gamma=gamma).losses(outputs, torch.tensor([0, 0])).sum().backward()
    assert outputs.grad is not None and bool(outputs.grad.isfinite().all())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_balanced_accuracy_is_scikit_learns(told: list[tuple[int, int]]) -> None:
    y, found = (torch.tensor(each) for each in zip(*told, strict=True))
    right = torch.bincount(y[y == found], minlength=3)
    with np.errstate(all="ignore"):
        present = found.clone()
        expected = np.mean([float((present[y == k] == k).double().mean()) for k in y.unique()])
        if set(found.tolist()) <= set(y.tolist()) and len(set(y.tolist())) > 1:
            assert expected == pytest.approx(balanced_accuracy_score(y, found))
    assert balanced_accuracy(right, torch.bincount(y, minlength=3)) == pytest.approx(expected)


def test_balanced_accuracy_of_no_rows_is_not_defined() -> None:
    assert math.isnan(balanced_accuracy(torch.zeros(2), torch.zeros(2)))


def test_an_image_task_reports_balanced_accuracy_and_plain_cross_entropy() -> None:
    own = task(class_weights={"nodule": 9.0})
    torch.manual_seed(0)
    model = own.model().eval()
    source = torch.Generator().manual_seed(1)
    x, y = torch.rand(20, 1, 8, 8, generator=source), torch.tensor([0] * 3 + [1] * 17)
    with torch.no_grad():
        found = own.metrics(model, [Batch(x[:9], y[:9]), Batch(x[9:], y[9:])])
        logits = model(x)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(logits, y)), rel=1e-5)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, logits.argmax(1)))


def test_a_weight_or_a_positive_class_that_is_not_there_is_refused_with_the_classes() -> None:
    with pytest.raises(JobError, match=r"class_weights: no class 'nodul' in the data; .*nodule"):
        task(class_weights={"nodul": 2.0}).model()
    with pytest.raises(JobError, match=r"positive: no class 'tumour' in the data"):
        task(positive="tumour").model()
    assert class_weights({"1": 3.0}, (0, 1)).weights == (1.0, 3.0)


def test_a_resnet_with_group_norm_has_rows_that_do_not_touch_each_other() -> None:
    check(task(model="resnet18", norm="group").model())
    with pytest.raises(JobError, match="20 layers break"):
        check(task(model="resnet18").model())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"norm": "group"}, "model cnn has no normalisation"),
        ({"class_weights": {"nodule": -1.0}}, "greater than 0"),
        ({"class_weights": {"nodule": math.inf}}, "finite"),
        ({"loss": "hinge"}, "cross-entropy"),
        ({"focal_gamma": -1.0}, "greater than or equal to 0"),
    ],
)
def test_an_image_task_that_makes_no_sense_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ImageTask(use="image-classifier", **wrong)  # type: ignore[arg-type]
