"""Built-in tasks, and how a job's `task:` becomes a task."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedcore.errors import JobError, did_you_mean
from fedcore.jobs.job import CustomTask, ImageTask, SegmentationTask, TabularTask
from fedcore.learning.augment import augmented
from fedcore.learning.imbalance import ClassWeights, balanced_accuracy, class_weights, weighted_entropy
from fedcore.learning.models import SmallCNN, mlp, resnet18
from fedcore.learning.segmentation import Segmenter
from fedcore.learning.task import Batch, MetricSums, Schema, Task

TaskSpec = TabularTask | ImageTask | SegmentationTask | CustomTask


class Classifier(Task):
    """Cross-entropy; reports loss, accuracy and, for two classes, the area under the ROC curve.

    Metrics: `loss` (mean cross-entropy, nats), `accuracy` (share of rows, 0 to 1), `auc` (0 to 1; NaN where
    only one class is present).
    """

    classification = True

    balanced: bool = False
    """Whether `balanced_accuracy` is reported too: 0 to 1, the mean over the classes that are there."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy in nats."""
        return functional.cross_entropy(model(batch.x), batch.y)

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each row, nats, `[n]`."""
        return functional.cross_entropy(outputs, y, reduction="none")

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss, accuracy and, with two classes, AUC."""
        sums = MetricSums()
        classes = len(self.schema.classes)
        counts = torch.zeros(2, classes, dtype=torch.int64)  # of each class: told right, in all
        scores: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        for batch in batches:
            logits = model(batch.x)
            loss = functional.cross_entropy(logits, batch.y, reduction="sum")
            right = logits.argmax(dim=1) == batch.y
            sums.add(len(batch), loss=float(loss), accuracy=float(right.sum()))
            if self.balanced:
                for place, labels_of in enumerate((batch.y[right], batch.y)):
                    counts[place] += torch.bincount(labels_of, minlength=classes).cpu()
            if logits.shape[1] == 2:
                scores.append((logits[:, 1] - logits[:, 0]).float().cpu())
                labels.append(batch.y.cpu())
        found = sums.means()
        if self.balanced:
            found["balanced_accuracy"] = balanced_accuracy(*counts)
        if classes == 2:
            found["auc"] = (
                auc(torch.cat(scores).numpy(), torch.cat(labels).numpy()) if scores else float("nan")
            )
        return found


class TabularClassifier(Classifier):
    """Logistic regression or a multi-layer perceptron over numeric columns."""

    def __init__(self, spec: TabularTask) -> None:
        self.hidden = spec.hidden if spec.model == "mlp" else ()

    def model(self) -> nn.Module:
        """One logit per class."""
        return mlp(len(self.schema.features), len(self.schema.classes), self.hidden)


class ImageClassifier(Classifier):
    """A small CNN or ResNet-18 over images; of its metrics, `loss` is plain cross-entropy whatever is trained on."""

    balanced = True

    def __init__(self, spec: ImageTask) -> None:
        self.spec = spec
        self._weights: ClassWeights | None = None

    @property
    def weights(self) -> ClassWeights:
        """Of the agreed classes.

        Raises:
            JobError: The job gives one to a class that is none of them.
        """
        if self._weights is None:
            self._weights = class_weights(self.spec.class_weights, self.schema.classes)
        return self._weights

    def model(self) -> nn.Module:
        """One logit per class."""
        names = [str(each) for each in self.schema.classes]
        if self.spec.positive is not None and self.spec.positive not in names:
            positive = self.spec.positive
            raise JobError(
                f"task.positive: no class {positive!r} in the data; {did_you_mean(positive, names)}"
            )
        _ = self.weights  # a wrong name is told before anything is trained
        if self.spec.model == "resnet18":
            return resnet18(self.schema.shape, len(self.schema.classes), self.spec.norm)
        if min(self.schema.shape[1:]) < 6:
            raise JobError(
                f"task.model: cnn needs images of at least 6 x 6 pixels, these are "
                f"{self.schema.shape[1]} x {self.schema.shape[2]}; use larger images or model: resnet18"
            )
        return SmallCNN(self.schema.shape, len(self.schema.classes))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The mean over the rows, nats."""
        return self.losses(model(batch.x), batch.y).mean()

    def losses(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Cross-entropy or focal loss of each row, times the weight of its class, nats, `[n]`."""
        gamma = self.spec.focal_gamma if self.spec.loss == "focal" else 0.0
        return weighted_entropy(outputs, y, self.weights, gamma)

    def augmented(self, batch: Batch, source: torch.Generator) -> Batch:
        """Images changed as the job says."""
        return batch if self.spec.augment is None else augmented(batch, self.spec.augment, source)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve by the rank-sum formula, ties at mid-rank.

    Args:
        scores: Float `[n]`, higher means class 1.
        labels: `[n]` of 0 and 1.

    Returns:
        The area in [0, 1], NaN when a class is absent.

    Source: Hanley and McNeil 1982, Radiology 143, 29-36 (equality with the Wilcoxon statistic).
    """
    positive = labels == 1
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if n1 == 0 or n0 == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mid_ranks = ends - (counts - 1) / 2.0
    return float((mid_ranks[inverse][positive].sum() - n1 * (n1 + 1) / 2.0) / (n1 * n0))


def build_task(spec: TaskSpec, schema: Schema) -> Task:
    """The task of a job, over an agreed schema.

    Raises:
        JobError: The class cannot be imported, is no `Task`, or does not take the options.
    """
    task: Task
    if isinstance(spec, TabularTask):
        task = TabularClassifier(spec)
    elif isinstance(spec, ImageTask):
        task = ImageClassifier(spec)
    elif isinstance(spec, SegmentationTask):
        task = Segmenter(spec)
    else:
        try:
            task = task_class(spec)(**spec.options)
        except TypeError as error:
            raise JobError(f"task.with does not fit {spec.use}: {error}") from error
    task.schema = schema
    return task


def task_class(spec: CustomTask) -> type[Task]:
    """Import a custom task's class.

    Raises:
        JobError: Named module or class is missing, or the class is no `fedcore.Task`.
    """
    module_name, class_name = spec.use.split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise JobError(
            f"task.use: cannot import {module_name!r} ({error}); install it where the task runs, "
            "at every participant"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise JobError(f"task.use: {module_name} has no {class_name!r}; {did_you_mean(class_name, classes)}")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise JobError(f"task.use: {spec.use} is not a subclass of fedcore.Task")
    return found
