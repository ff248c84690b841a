"""A model that is really trained: federated averaging over handwritten digits, dealt unequally to the participants.

Small on purpose, so that many courses take seconds: scikit-learn's 1,797 digits of 8 x 8 pixels and a network with one
hidden layer, in numpy. What a round of it takes on this machine is of no interest; the simulated clock tells time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

Floats = npt.NDArray[np.float64]

HIDDEN, CLASSES = 32, 10
RATE, EPOCHS, BATCH = 0.2, 2, 7
TEST_ROWS = 397


class Digits:
    """A federation that learns digits.

    Args:
        owners: Each gets as many rows as any other, of digits in shares that differ: Dirichlet with `alpha`.
        seed: Of the deal, of the model's start and of the batches.
        alpha: The lower, the less alike the participants are.

    Attributes:
        rounds: Trained so far.
    """

    def __init__(self, owners: Sequence[str], seed: int = 7, alpha: float = 0.3) -> None:
        draw = np.random.default_rng([seed, 1])
        digits = load_digits()
        order = draw.permutation(len(digits.target))
        x, y = digits.data[order] / 16.0, digits.target[order]
        self._test = (x[:TEST_ROWS], y[:TEST_ROWS])
        x, y = x[TEST_ROWS:], y[TEST_ROWS:]
        dealt = deal(y, len(owners), alpha, draw)
        self.rows = {owner: (x[rows], y[rows]) for owner, rows in zip(owners, dealt, strict=True)}
        self._place = {owner: i for i, owner in enumerate(owners)}
        self._seed, self.rounds = seed, 0
        self.model = [
            draw.normal(0, 0.2, (x.shape[1], HIDDEN)),
            np.zeros(HIDDEN),
            draw.normal(0, 0.2, (HIDDEN, CLASSES)),
            np.zeros(CLASSES),
        ]

    def train(self, owners: Sequence[str]) -> float:
        """A round: each owner takes gradient steps on its own rows, the mean of what comes out is the new model.

        Args:
            owners: Whose updates came; without any the model stays.

        Returns:
            Accuracy on rows that nobody has.
        """
        self.rounds += 1
        if owners:
            models = [self._local(owner) for owner in sorted(owners)]
            self.model = [np.mean(parts, axis=0) for parts in zip(*models, strict=True)]
        return self.accuracy()

    def accuracy(self) -> float:
        """On the rows that nobody has."""
        x, y = self._test
        return float((_forward(self.model, x)[1].argmax(axis=1) == y).mean())

    def _local(self, owner: str) -> list[Floats]:
        draw = np.random.default_rng([self._seed, 2, self.rounds, self._place[owner]])
        x, y = self.rows[owner]
        model = [part.copy() for part in self.model]
        for _ in range(EPOCHS):
            order = draw.permutation(len(y))
            for start in range(0, len(y), BATCH):
                rows = order[start : start + BATCH]
                for part, slope in zip(model, gradients(model, x[rows], y[rows]), strict=True):
                    part -= RATE * slope
        return model


def _forward(model: Sequence[Floats], x: Floats) -> tuple[Floats, Floats]:
    hidden = np.maximum(x @ model[0] + model[1], 0.0)
    scores = hidden @ model[2] + model[3]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def loss(model: Sequence[Floats], x: Floats, y: npt.NDArray[np.int64]) -> float:
    """Mean cross-entropy."""
    return float(-np.log(_forward(model, x)[1][np.arange(len(y)), y]).mean())


def gradients(model: Sequence[Floats], x: Floats, y: npt.NDArray[np.int64]) -> list[Floats]:
    """Of `loss`, for each part of the model."""
    hidden, scores = _forward(model, x)
    scores[np.arange(len(y)), y] -= 1.0
    scores /= len(y)
    back = (scores @ model[2].T) * (hidden > 0)
    return [x.T @ back, back.sum(axis=0), hidden.T @ scores, scores.sum(axis=0)]


def deal(
    labels: npt.NDArray[np.int64], parts: int, alpha: float, draw: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Rows for each of so many parts, all of one size, with shares of the labels drawn from a Dirichlet distribution."""
    left = [list(np.flatnonzero(labels == label)) for label in range(CLASSES)]
    each = len(labels) // parts
    dealt = []
    for _ in range(parts):
        share = draw.dirichlet(np.full(CLASSES, alpha))
        mine = []
        for _ in range(each):
            # A digit of which no row is left gives its share to the others.
            open_ = np.array([len(rows) > 0 for rows in left])
            now = np.where(open_, share + 1e-9, 0.0)
            mine.append(left[int(draw.choice(CLASSES, p=now / now.sum()))].pop())
        dealt.append(np.array(mine, dtype=np.int64))
    return dealt
