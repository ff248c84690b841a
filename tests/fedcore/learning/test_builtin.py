"""Built-in tasks against scikit-learn, and how a task is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import nn

from fedcore.errors import JobError
from fedcore.jobs.job import ImageTask
from fedcore.learning.builtin import Classifier, TabularClassifier, auc, build_task
from fedcore.learning.models import SmallCNN
from fedcore.learning.task import Batch, Schema, Task
from tests.messages import custom, tabular

HERE = "tests.fedcore.learning.test_builtin"


class Fixed(Task):
    """A custom task with an option."""

    def __init__(self, width: int = 1) -> None:
        self.width = width

    def model(self) -> nn.Module:
        return nn.Linear(1, self.width)

    def loss(self, model, batch):
        return model(batch.x).mean()

    def metrics(self, model, batches):
        return {}


class NoTask:
    pass


def schema(classes: int = 2, shape: tuple[int, ...] = (2,)) -> Schema:
    return Schema(("a", "b"), shape, tuple(range(classes)))


# ---- the area under the curve -----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
def test_auc_is_scikit_learns_also_with_ties(rows) -> None:
    scores = np.array([score for score, _ in rows], dtype=np.float32) / 3
    labels = np.array([label for _, label in rows], dtype=np.int64)
    if len(set(labels)) < 2:
        assert math.isnan(auc(scores, labels))
    else:
        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_many_rows_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    scores = np.round(rng.normal(size=5000) + labels, 1)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


# ---- metrics ------------------------------------------------------------------------------------------------


def measured(classes: int, rows: int = 23, sizes: tuple[int, ...] = (8, 8, 7)):
    """Metrics of a fixed model over uneven batches, and the same of scikit-learn over all rows."""
    torch.manual_seed(classes)
    task = TabularClassifier(tabular(model="logistic"))
    task.schema = schema(classes)
    model = task.model()
    x, y = torch.randn(rows, 2), torch.arange(rows) % classes
    batches = [Batch(a, b) for a, b in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)]
    with torch.no_grad():
        found = task.metrics(model, batches)
        shares = torch.softmax(model(x).double(), dim=1).numpy()
    return found, y.numpy(), shares


@pytest.mark.parametrize("classes", [2, 3])
def test_loss_and_accuracy_over_uneven_batches_are_those_of_all_rows(classes) -> None:
    found, y, shares = measured(classes)
    assert found["loss"] == pytest.approx(log_loss(y, shares), rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy_score(y, shares.argmax(1)))


def test_two_classes_have_an_auc_over_all_batches_and_three_have_none() -> None:
    found, y, shares = measured(2)
    assert found["auc"] == pytest.approx(roc_auc_score(y, np.log(shares[:, 1] / shares[:, 0])))
    assert "auc" not in measured(3)[0]


def test_one_class_has_no_auc_but_the_metric_is_named() -> None:
    task = TabularClassifier(tabular(model="logistic"))
    task.schema = schema()
    one_class = Batch(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with torch.no_grad():
        found = task.metrics(task.model(), [one_class])
    assert math.isnan(found["auc"]) and set(found) == {"loss", "accuracy", "auc"}


# ---- which task ---------------------------------------------------------------------------------------------


def test_a_tabular_task_has_one_input_per_feature_and_one_output_per_class() -> None:
    logistic = build_task(tabular(model="logistic", hidden=(9,)), schema(3)).model()
    deep = build_task(tabular(model="mlp", hidden=(9,)), schema(3)).model()
    assert [tuple(p.shape) for p in logistic.parameters()] == [(3, 2), (3,)]
    assert [tuple(p.shape) for p in deep.parameters()] == [(9, 2), (9,), (3, 9), (3,)]


def test_an_image_task_is_a_cnn_or_a_resnet() -> None:
    spec = ImageTask(use="image-classifier")
    assert isinstance(build_task(spec, schema(4, (1, 8, 8))).model(), SmallCNN)
    with torch.device("meta"):
        deep = build_task(spec.model_copy(update={"model": "resnet18"}), schema(4, (3, 8, 8))).model()
    assert deep[-1].out_features == 4


def test_images_too_small_for_the_cnn_are_refused_with_the_size_and_the_cure() -> None:
    task = build_task(ImageTask(use="image-classifier"), schema(2, (1, 5, 9)))
    with pytest.raises(JobError, match=r"at least 6 x 6 pixels, these are 5 x 9.*resnet18"):
        task.model()


def test_a_custom_task_gets_its_options_and_the_schema() -> None:
    task = build_task(custom(f"{HERE}:Fixed", **{"with": {"width": 5}}), schema())
    assert task.model().out_features == 5 and task.schema == schema()


@pytest.mark.parametrize(
    ("use", "options", "words"),
    [
        ("no_such_module:Task", {}, "cannot import 'no_such_module'"),
        (f"{HERE}:Fixd", {}, 'did you mean "Fixed"'),
        (f"{HERE}:NoTask", {}, "is not a subclass of fedcore.Task"),
        (f"{HERE}:pytest", {}, "is not a subclass of fedcore.Task"),
        (f"{HERE}:Fixed", {"depth": 3}, "task.with does not fit"),
    ],
)
def test_a_custom_task_that_cannot_be_made_says_why(use, options, words) -> None:
    with pytest.raises(JobError, match=words):
        build_task(custom(use, **{"with": options}), schema())


def test_both_built_in_tasks_are_classifications() -> None:
    assert Classifier.classification and TabularClassifier.classification
