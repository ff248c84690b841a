"""Step `score`: joint scores of all rows at the label holder, for each model, to judge it by.

    score.part    8 n bytes   partner, label holder   of a linear model: what the partner's columns add to each row, in points
                                                      where the job asks for a scorecard, else in units of 2^-32,
                                                      rounded to 2^-8 but for the linear link
    boost.sides, split.*                              of trees and networks: see `fedcore.vertical.boosting.predict` and
                                                      `fedcore.vertical.split_network`

Who learns what. The label holder learns the partner's part of each row's score, of training, test and out-of-time rows. With few
columns a part tells their bins. An exact part would mostly tell all bins of a row, however many columns there are, since
the label holder knows the weights of evidence and can solve for the coefficients; points and rounded parts tell less. The
partner learns nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.channel import recv_array
from fedcore.jobs.vertical import Boosting, Logistic
from fedcore.vertical.linear_part import LinearPart, mean_of
from fedcore.vertical.model_step import CARD, PART, filled
from fedcore.vertical.pipeline import Party
from fedcore.vertical.scorecard import Card
from fedcore.vertical.state import read_json
from fedcore.vertical.steps import MODEL

SCORES = "scores.npz"
STEP = "score.part"

Floats = npt.NDArray[np.float64]


def score(party: Party) -> None:
    """Score all rows with all models of the job; `scores.npz` at the label holder has them by model.

    Raises:
        ProtocolError: What a partner sent is not allowed.
    """
    found: dict[str, Floats] = {}
    for done, (name, settings) in enumerate(party.job.models.items()):
        party.watch("scoring", done, len(party.job.models))
        folder = party.state.of(MODEL + name)
        if isinstance(settings, Logistic):
            part: Card | LinearPart
            if settings.scorecard is not None:
                part = Card.from_dict(read_json(folder / CARD))
            else:
                part = LinearPart.from_dict(read_json(folder / PART))
            total = _summed(party, part.score(party.table))
            if total is not None:
                found[name] = expected_of(part, total)
        elif isinstance(settings, Boosting):
            margins = _trees(party, read_json(folder / PART))
            if margins is not None:
                found[name] = margins
        else:
            values = _network(party, name)
            if values is not None:
                found[name] = values
    np.savez(party.folder / SCORES, **found)  # type: ignore[arg-type]


def expected_of(part: Card | LinearPart, total: npt.NDArray[np.int64]) -> Floats:
    """Probability, or expected label, of summed parts."""
    if isinstance(part, Card):
        return np.asarray(0.5 * (1 + np.tanh(0.5 * part.log_odds(total))))
    return mean_of(total, part.link)[1]


def _summed(party: Party, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """The sum of all parts at the label holder; None at a partner.

    Raises:
        ProtocolError: A part is beyond what any model gives.
    """
    if not party.holds:
        party.to_holder.send(STEP, np.ascontiguousarray(own, dtype="<i8"))
        return None
    from fedcore.vertical.scoring import summed

    return summed([own, *(recv_array(channel, STEP, "<i8", len(own)) for channel in party.to_partners)])


def _trees(party: Party, told: dict[str, Any]) -> Floats | None:
    from fedcore.vertical.boosted_part import Boosted
    from fedcore.vertical.boosting.ensemble import Ensemble, PartnerSplits
    from fedcore.vertical.boosting.losses import expected
    from fedcore.vertical.boosting.predict import predict_label_holder, predict_partner

    part = Boosted.from_dict(told, holder=party.holds)
    codes = part.codes(party.table)
    if isinstance(part.half, Ensemble):
        margins = predict_label_holder(party.to_partners, part.half, codes, len(party.table))
        return expected(part.half.loss, margins)
    if isinstance(part.half, PartnerSplits):
        predict_partner(party.to_holder, part.half, codes)
    return None


def _network(party: Party, name: str) -> Floats | None:
    from fedcore.vertical.split_network import predict_label_holder, predict_partner
    from fedcore.vertical.split_part import SplitPart

    part = SplitPart.load(party.state.of(MODEL + name))
    if party.holds:
        return predict_label_holder(party.to_partners, part, filled(party.table))
    predict_partner(party.to_holder, part, filled(party.table))
    return None
