"""Segmentation: the U-Net's shapes, losses row by row, Dice against scikit-learn, and masks that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional

from fedcore.errors import DataError, JobError
from fedcore.jobs.job import SegmentationTask
from fedcore.learning.builtin import build_task
from fedcore.learning.examples import Rows
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.validation import check
from fedcore.learning.segmentation import Segmenter, check_masks, soft_dice
from fedcore.learning.task import Batch, Schema
from fedcore.learning.unet import UNet


def task(shape: tuple[int, ...] = (1, 16, 16), **more: object) -> Segmenter:
    spec = SegmentationTask(use="image-segmenter", **{"depth": 2, "width": 4, **more})  # type: ignore[arg-type]
    made = build_task(spec, Schema(("image",), shape))
    assert isinstance(made, Segmenter)
    return made


def batch(n: int = 5, side: int = 16, classes: int = 2, seed: int = 0) -> Batch:
    source = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n, side, side), dtype=torch.uint8, generator=source)
    return Batch(torch.rand(n, 1, side, side, generator=source), y)


# ---- the model


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 31), (1, 64, 40)])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_unet_gives_a_logit_per_class_and_pixel_of_any_size(shape: tuple[int, int, int], norm: str) -> None:
    model = UNet(shape[0], 3, depth=2, width=4, norm=norm)  # type: ignore[arg-type]
    assert model.eval()(torch.zeros(2, *shape)).shape == (2, 3, *shape[1:])


def test_a_unet_has_as_many_parameters_as_its_levels_say() -> None:
    def level(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs

    down = level(1, 4) + level(4, 8) + level(8, 16)
    up = level(16 + 8, 8) + level(8 + 4, 4)
    assert sum(p.numel() for p in UNet(1, 2, depth=2, width=4).parameters()) == down + up + 4 * 2 + 2


def test_images_too_small_for_the_depth_are_refused_with_the_size() -> None:
    with pytest.raises(JobError, match=r"depth: 2 needs images of at least 8 x 8 pixels, these are 7 x 9"):
        task((1, 7, 9)).model()


def test_a_unet_with_group_norm_has_rows_that_do_not_touch_each_other() -> None:
    own = task()
    model = own.model()
    check(model)
    rows = batch()
    losses = own.losses(model(rows.x), rows.y)
    alone = [own.losses(model(rows.x[i : i + 1]), rows.y[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(losses, torch.cat(alone), atol=1e-5, rtol=1e-4)
    with pytest.raises(JobError, match="the privacy of rows"):
        check(task(norm="batch").model())


def test_clipped_gradients_of_a_unet_are_those_of_rows_one_by_one() -> None:
    own, rows = task(), batch(3)
    torch.manual_seed(0)
    model = own.model()
    sums = ClippedSums(model, own.losses, 0.5)
    found = sums(rows.x, rows.y)
    assert sums.route == "parts"
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(3):
        loss = own.losses(model(rows.x[i : i + 1]), rows.y[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        for total, gradient in zip(expected, gradients, strict=True):
            total += gradient * min(1.0, 0.5 / norm)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


# ---- losses


def test_the_loss_is_the_mean_of_the_losses_of_rows() -> None:
    for loss in ("dice+cross-entropy", "dice", "cross-entropy"):
        own, rows = task(loss=loss), batch()
        model = own.model()
        torch.testing.assert_close(own.loss(model, rows), own.losses(model(rows.x), rows.y).mean())


def test_cross_entropy_is_torch_s_with_weights_of_classes() -> None:
    own, rows = task(loss="cross-entropy", class_weights={"foreground": 3.0}), batch(4)
    outputs = torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = [
        functional.cross_entropy(outputs[i : i + 1], rows.y[i : i + 1].long(), torch.tensor([1.0, 3.0]))
        for i in range(4)
    ]
    torch.testing.assert_close(own.losses(outputs, rows.y), torch.stack(expected))


def test_the_dice_of_certain_probabilities_is_that_of_sets() -> None:
    truth, told = (torch.randint(0, 3, (4, 9, 9), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    shares = functional.one_hot(told, 3).movedim(-1, 1).double()
    found = soft_dice(shares, truth)
    for i in range(4):
        for k in range(3):
            both = int(((truth[i] == k) & (told[i] == k)).sum())
            either = int((truth[i] == k).sum() + (told[i] == k).sum())
            assert float(found[i, k]) == pytest.approx((2 * both + 1) / (either + 1))


def test_an_image_without_foreground_that_is_told_so_costs_nothing() -> None:
    outputs = torch.zeros(1, 2, 8, 8)
    outputs[:, 0] = 40.0
    loss = task((1, 8, 8)).losses(outputs, torch.zeros(1, 8, 8, dtype=torch.uint8))
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


# ---- metrics


class Told(nn.Module):
    """Logits as they are given, batch by batch."""

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs, self.at = outputs, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.at += len(x)
        return self.outputs[self.at - len(x) : self.at]


def measured(outputs: torch.Tensor, y: torch.Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    own = task((1, *y.shape[1:]), classes=classes)
    batches = [Batch(torch.zeros(len(part), 1, *y.shape[1:]), part) for part in y.split(2)]
    return own.metrics(Told(outputs), batches)


def test_dice_is_scikit_learns_f1_over_all_pixels() -> None:
    source = torch.Generator().manual_seed(3)
    outputs, y = torch.randn(5, 3, 7, 7, generator=source), batch(5, 7, 3).y
    found = measured(outputs, y, ("background", "lung", "nodule"))
    expected = f1_score(y.flatten(), outputs.argmax(1).flatten(), average=None)
    assert found["dice_lung"] == pytest.approx(expected[1])
    assert found["dice_nodule"] == pytest.approx(expected[2])
    assert found["dice"] == pytest.approx(expected[1:].mean())
    assert "dice_foreground" not in measured(outputs[:, :2], batch(5, 7).y, ("background", "foreground"))


def test_dice_of_a_class_that_is_nowhere_is_not_defined() -> None:
    outputs = torch.zeros(2, 2, 4, 4)
    outputs[:, 0] = 5.0
    found = measured(outputs, torch.zeros(2, 4, 4, dtype=torch.uint8), ("background", "nodule"))
    assert math.isnan(found["dice"]) and math.isfinite(found["loss"])


def test_a_unet_learns_to_outline_a_square() -> None:
    source = torch.Generator().manual_seed(0)
    y = torch.zeros(16, 16, 16, dtype=torch.uint8)
    for i, (row, column) in enumerate(torch.randint(1, 10, (16, 2), generator=source).tolist()):
        y[i, row : row + 5, column : column + 5] = 1
    rows = Batch(0.7 * y[:, None].float() + 0.1 * torch.rand(16, 1, 16, 16, generator=source), y)
    own = task(width=8)
    torch.manual_seed(0)
    model = own.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        own.loss(model, rows).backward()
        optimizer.step()
    with torch.no_grad():
        assert own.metrics(model.eval(), [rows])["dice"] > 0.9


# ---- what is refused


def rows(masks: np.ndarray | None, side: int = 4) -> Rows:
    x = np.zeros((2, 1, side, side), dtype=np.uint8)
    return Rows(("image",), x, masks, np.arange(2))


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (None, "holds no masks"),
        (np.zeros(2), "holds no masks"),
        (np.zeros((2, 4, 4), dtype=np.float32), "holds no masks"),
        (np.zeros((2, 4, 5), dtype=np.uint8), "masks are 4 x 5 pixels and images 4 x 4"),
        (np.full((2, 4, 4), 2, dtype=np.uint8), "2 of 2 masks have numbers that are no class.*0 to 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: np.ndarray | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_masks(rows(masks), SegmentationTask(use="image-segmenter"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"classes": ("background",)}, "name two to 255"),
        ({"classes": ("a", "a")}, "each once"),
        ({"class_weights": {"lung": 2.0}}, "none of the classes"),
        ({"class_weights": {"foreground": 0.0}}, "greater than 0"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"loss": "focal"}, "dice"),
    ],
)
def test_a_segmentation_that_makes_no_sense_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SegmentationTask(use="image-segmenter", **wrong)  # type: ignore[arg-type]
