"""The figures of every model on every part, once, for the report and its tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedcore.drawing.page import middle_cut
from fedcore.vertical import metrics
from fedcore.vertical.record import Floats
from fedcore.vertical.results import ModelResult, PartyResult
from fedcore.vertical.table import PARTS

APPROVE = 0.8
"""Share of rows approved where the report names one."""
APPROVALS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of rows approved in the table of the swap set."""
CUT_OFFS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of rows that are about called bad in the table of cut-offs."""
_STYLES = ("federated", "pooled", "central", "site")
_NAMES = {
    "auc": "AUC",
    "gini": "Gini",
    "ks": "KS",
    "brier": "Brier",
    "log_loss": "log loss",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "accuracy": "accuracy",
}


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of one model on one part.

    Args:
        name: As the report calls it: the model's name, or who made it alone.
        model: Whose scores these are.
        own: Whether the model had the label holder's columns only.
        part: `train`, `test` or `out of time`.
        style: Class of its lines.
        labels, scores: (rows,), or (rows, classes).
    """

    name: str
    model: ModelResult
    own: bool
    part: str
    style: str
    labels: Floats
    scores: Floats

    @property
    def binary(self) -> bool:
        """Whether AUC and its kin can be had: bad rows and good ones."""
        return self.model.target == "binary" and metrics.both_classes(self.labels)


def scored(result: PartyResult, part: str | None = None) -> list[Scored]:
    """Scores that the result holds, joint before own, the champion first; of all parts when None."""
    return [each for each in _all(result) if part in (None, each.part)]


def parts_of(result: PartyResult) -> list[str]:
    """Parts that have labels and rows, train first."""
    return [part for part in PARTS if len((result.labels or {}).get(part, ()))]


def main_part(result: PartyResult) -> str:
    """The part that the report's charts show: test, or what else there is; empty without labels."""
    found = parts_of(result)
    for part in ("test", "out of time", "train"):
        if part in found and metrics.both_classes((result.labels or {})[part]):
            return part
    return found[-1] if found else ""


def figures(each: Scored) -> dict[str, float]:
    """Figures by name (`figure_title`), those that the target and the rows allow."""
    labels, scores = each.labels, each.scores
    if each.model.target == "number":
        spread = float(np.sum((labels - labels.mean()) ** 2))
        left = float(np.sum((labels - scores) ** 2))
        return {
            "rmse": math.sqrt(left / len(labels)),
            "mae": float(np.mean(np.abs(labels - scores))),
            "r2": 1 - left / spread if spread else math.nan,
        }
    if each.model.target == "classes":
        chosen = scores[np.arange(len(labels)), labels.astype(np.int64)]
        tiny = float(np.finfo(np.float64).eps)
        return {
            "accuracy": float(np.mean(scores.argmax(axis=1) == labels)),
            "log_loss": float(-np.mean(np.log(np.clip(chosen, tiny, 1)))),
        }
    if not each.binary:
        return {"brier": metrics.brier(labels, scores)}
    return {
        "auc": metrics.auc(labels, scores),
        "gini": metrics.gini(labels, scores),
        "ks": metrics.ks(labels, scores).value,
        "brier": metrics.brier(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
    }


def figure_title(name: str) -> str:
    """A figure's name as a reader says it."""
    return _NAMES.get(name, name)


def against_own(result: PartyResult) -> tuple[Scored, Scored] | None:
    """The champion and the label holder's own model on the main part; None where one is missing."""
    found = [each for each in scored(result, main_part(result)) if each.model is result.models[0]]
    return (found[0], found[1]) if len(found) == 2 and found[0].binary else None


def confusions(each: Scored) -> list[metrics.Confusion]:
    """The champion's hits and misses at cut-offs that call about `CUT_OFFS` of the rows bad, without repetition."""
    descending = np.sort(each.scores)[::-1]
    places = [max(math.ceil(share * len(descending)) - 1, 0) for share in CUT_OFFS]
    cuts = dict.fromkeys(float(descending[place]) for place in places)
    return [metrics.confusion(each.labels, each.scores, cut) for cut in cuts]


def stability_of(result: PartyResult, model: ModelResult) -> dict[str, float]:
    """Population stability index of a model's scores against training rows, by part."""
    scores = model.scores or {}
    if model.target == "classes" or not len(scores.get("train", ())):
        return {}
    later = [part for part in parts_of(result) if part != "train" and part in scores]
    return {part: metrics.score_stability(scores["train"], scores[part]) for part in later}


def _all(result: PartyResult) -> Iterator[Scored]:
    labels, alone = result.labels or {}, f"{middle_cut(result.party, 32)} alone"
    for part in parts_of(result):
        for place, model in enumerate(result.models):
            called = middle_cut(model.name, 32)
            name = alone if place == 0 else f"{alone}, {called}"
            style = _STYLES[min(place, len(_STYLES) - 1)]
            if part in (model.scores or {}):
                yield Scored(called, model, False, part, style, labels[part], (model.scores or {})[part])
            if part in (model.own_scores or {}):
                own = (model.own_scores or {})[part]
                yield Scored(name, model, True, part, "alone", labels[part], own)
