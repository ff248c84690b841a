"""What a partner could tell about labels from the gradients of a split network: two published attacks, run on them.

The label holder sees the gradients before and after protection and has the labels, so it plays the attacker itself,
batch by batch while it trains, and the partner hears nothing of it. The number is the attack's AUC: 1 when every row
with the event scores above every row without, 0.5 when the attacker guesses.

    norm        a row scores the length of its gradient. Without protection a rare event's gradients are longer, since
                the model expects the event less.
    direction   a row scores the cosine of its gradient and that of one row whose label the attacker knows to be the
                event. Without protection gradients of the two classes point in opposite directions.

An AUC below 0.5 is as good to the attacker, who may turn the score around, so what is reported is the distance from
0.5 of the mean over batches, on the upper side.

The paper's attacks look at one batch. A partner gets a gradient for every row in every epoch, and noise that is drawn
anew averages out, so each attack is also run on the mean of a row's scores over all epochs (`accumulated`). That number
is the one to judge a protection by: it grows with the number of epochs. Other attacks exist (on the trained bottom half,
on activations): an AUC near 0.5 here is no proof that nothing leaks.

Source: Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022 (arXiv 2102.08504), sections
3.1 (norm) and 3.2 (direction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedcore.vertical import metrics

Attack = Literal["norm", "direction"]
ATTACKS: tuple[Attack, ...] = ("norm", "direction")
KNOWN = 5
"""Rows of a batch, at most, that the direction attack knows in turn; their AUCs are averaged."""
CLEAR = 0.75
"""An AUC from which on a run says that labels leak: the attacker ranks three pairs of four rightly."""


@dataclass(frozen=True)
class Leak:
    """What one attack finds in the gradients for one partner.

    Args:
        attack: Which.
        partner: Number of the partner in the order of the job, from 0; -1 for all of them working together.
        unprotected: AUC on the gradients before protection, mean over the batches of the epoch in which it is largest.
        protected: The same on the gradients that left.
        first_unprotected, first_protected: In the first epoch.
        accumulated: AUC on what left when the attacker takes the mean of each row's scores over all epochs.
        batches: That had both classes and so were measured; 0 leaves 0.5 everywhere.
    """

    attack: Attack
    partner: int
    unprotected: float
    protected: float
    first_unprotected: float
    first_protected: float
    accumulated: float
    batches: int

    @property
    def clear(self) -> bool:
        """Whether the attack still reads labels off what left."""
        return max(self.protected, self.accumulated) >= CLEAR

    def __str__(self) -> str:
        whom = "all partners together" if self.partner < 0 else f"partner {self.partner + 1}"
        return (
            f"{self.attack} attack by {whom}: AUC {self.protected:.3f} on what was sent in one epoch, "
            f"{self.accumulated:.3f} over all epochs, {self.unprotected:.3f} in one epoch without protection"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Audit:
    """Attacks on the gradients of one run, added up as they go by; lives at the label holder.

    Args:
        widths: Columns of the gradients that each partner gets.
        y: Labels of all training rows, 0 or 1.
    """

    def __init__(self, widths: Sequence[int], y: npt.NDArray[np.float64]) -> None:
        ends = np.cumsum([0, *widths])
        self._columns = {place: slice(ends[place], ends[place + 1]) for place in range(len(widths))}
        if len(widths) > 1:
            self._columns[-1] = slice(None)
        self._y = y
        views: list[tuple[Attack, int]] = [(attack, view) for attack in ATTACKS for view in self._columns]
        self._found: dict[tuple[Attack, int], list[list[tuple[float, float]]]] = {each: [] for each in views}
        self._sums = {each: np.zeros(len(y)) for each in views}
        self._seen = {each: np.zeros(len(y)) for each in views}

    def epoch(self) -> None:
        """Begin an epoch."""
        for epochs in self._found.values():
            epochs.append([])

    def batch(
        self,
        clean: npt.NDArray[np.float32],
        sent: npt.NDArray[np.float32],
        rows: npt.NDArray[np.intp],
    ) -> None:
        """Attack one batch.

        Args:
            clean: Gradients before protection, float32 [rows, sum of widths].
            sent: Those that left, of the same shape.
            rows: Numbers of the rows, int [rows].
        """
        y = self._y[rows]
        if y.min() == y.max():
            return
        for key, epochs in self._found.items():
            attack, view = key
            columns = self._columns[view]
            attacked = norm_attack if attack == "norm" else direction_attack
            found = attacked(clean[:, columns], y), attacked(sent[:, columns], y)
            if np.isnan(found).any():
                continue
            epochs[-1].append(found)
            scores = _comparable(attack, sent[:, columns], y)
            known = ~np.isnan(scores)
            self._sums[key][rows[known]] += scores[known]
            self._seen[key][rows[known]] += 1

    def leaks(self) -> tuple[Leak, ...]:
        """What was found, by attack and partner."""
        return tuple(self._leak(*key) for key in sorted(self._found))

    def _leak(self, attack: Attack, view: int) -> Leak:
        epochs = self._found[attack, view]
        means = [np.mean(each, axis=0) for each in epochs if each]
        if not means:
            return Leak(attack, view, 0.5, 0.5, 0.5, 0.5, 0.5, 0)
        # Folded after the mean: folding each batch would count the scatter around 0.5 as leakage.
        folded = np.maximum(means, 1.0 - np.asarray(means))
        largest = folded.max(axis=0)
        seen = self._seen[attack, view] > 0
        whole = auc(self._sums[attack, view][seen] / self._seen[attack, view][seen], self._y[seen])
        return Leak(
            attack=attack,
            partner=view,
            unprotected=float(largest[0]),
            protected=float(largest[1]),
            first_unprotected=float(folded[0][0]),
            first_protected=float(folded[0][1]),
            accumulated=0.5 if np.isnan(whole) else max(whole, 1 - whole),
            batches=sum(len(each) for each in epochs),
        )


def norm_attack(gradients: npt.NDArray[np.float32], y: npt.NDArray[np.float64]) -> float:
    """AUC of the lengths of gradients as scores of labels.

    Args:
        gradients: float32 [rows, width].
        y: Labels, 0 or 1, both there.

    Source: arXiv 2102.08504, section 3.1.
    """
    return auc(np.linalg.norm(gradients.astype(np.float64), axis=1), y)


def direction_attack(gradients: npt.NDArray[np.float32], y: npt.NDArray[np.float64]) -> float:
    """AUC of the cosines with the gradient of a row that is known to be the event, over the other rows.

    Args:
        gradients: float32 [rows, width].
        y: Labels, 0 or 1, both there.

    Returns:
        Mean over the first `KNOWN` rows with the event as the known one; NaN where only one row has the event.

    Source: arXiv 2102.08504, section 3.2.
    """
    unit = _unit(gradients)
    events = np.flatnonzero(y == 1)
    if len(events) < 2:
        return float("nan")
    found = []
    for known in events[:KNOWN]:
        others = np.arange(len(y)) != known
        # Cosines of parallel gradients differ in the last digits, which must not decide.
        found.append(auc(np.round(unit[others] @ unit[known], 9), y[others]))
    return float(np.mean(found))


def auc(scores: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Share of the pairs of a row with the event and one without in which the first scores higher; ties count half.

    Args:
        scores: float64 [rows].
        y: Labels, 0 or 1; NaN comes back where only one is there.

    Source: Mann and Whitney, 1947.
    """
    return metrics.auc(y, scores) if metrics.both_classes(y) else float("nan")


def _comparable(
    attack: Attack, gradients: npt.NDArray[np.float32], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Scores of a batch that can be averaged with those of others; NaN for rows that the attacker knows."""
    if attack == "norm":
        norms = np.linalg.norm(gradients.astype(np.float64), axis=1)
        # Gradients shrink while a model learns: lengths count against those of their batch.
        logs = np.log(np.maximum(norms, 1e-30))
        return np.asarray(logs - np.median(logs))
    unit = _unit(gradients)
    known = np.flatnonzero(y == 1)[:KNOWN]
    scores = unit @ unit[known].mean(axis=0)
    scores[known] = np.nan
    return np.asarray(scores)


def _unit(gradients: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = gradients.astype(np.float64)
    # A gradient of length zero stays zero, and so do its cosines.
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30))
