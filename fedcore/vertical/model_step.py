"""Step `model:NAME` at one party: its part of a joint model, and at the label holder a model of its own columns alone.

model.json     how the fit went, as this party knows it
part.json      what it scores with: a linear part, a half of an ensemble, and the card where the job asks for one
split.*        its half of a split network
own.npz        at the label holder: scores of the model on its own columns, for comparison
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedcore.errors import DataError
from fedcore.jobs.vertical import FEWEST, Bin, Boosting, Logistic, SplitNetwork
from fedcore.vertical.binning import Bins, prebins
from fedcore.vertical.linear_part import LinearPart, Term, mean_of
from fedcore.vertical.own_model import fit_alone
from fedcore.vertical.pipeline import SELECTION, Party
from fedcore.vertical.scorecard import card
from fedcore.vertical.selection_rules import Selection
from fedcore.vertical.state import write_json
from fedcore.vertical.table import TEST, TRAIN, Table

if TYPE_CHECKING:
    from fedcore.vertical.glm_fit import Fit

MODEL_FILE, PART, CARD, OWN = "model.json", "part.json", "card.json", "own.npz"

Floats = npt.NDArray[np.float64]


def fit(name: str, party: Party) -> None:
    """Fit one model of the job with the others.

    Args:
        name: Of the model.
        party: Who, and with whom.
    """
    settings = party.job.models[name]
    if isinstance(settings, Logistic):
        _linear(party, settings)
    elif isinstance(settings, Boosting):
        _boosting(party, settings)
    else:
        _split_network(party, settings)


# ---- linear ---------------------------------------------------------------------------------------------------------


def _linear(party: Party, settings: Logistic) -> None:
    if settings.on == "values":
        terms = standardised(party.table)
        found = _fit_linear(party, settings, _matrix(terms, party.table))
        _keep_linear(party, settings, terms, found, None)
        return
    variables, selection = party.variables(), party.selection()
    # A constrained fit has the right signs already.
    most = len(variables.variables) if party.job.select.sign and not settings.sign else 0
    for _ in range(most + 1):
        names = selection.own(variables)
        found = _fit_linear(party, settings, variables.transformed(party.table, names))
        if not most:
            break
        selection, again = _by_sign(party, selection, dict(zip(names, _coefficients(found), strict=True)))
        if not again:
            break
    terms = [
        Term(each.name, 0.0, each.bins, tuple(each.woe.tolist()))
        for each in variables.own
        if each.name in selection.kept
    ]
    _keep_linear(party, settings, terms, found, selection)


def _by_sign(party: Party, selection: Selection, coefficients: Mapping[str, float]) -> tuple[Selection, bool]:
    from fedcore.vertical.selection import sign_label_holder, sign_partner

    variables = party.variables()
    if party.holds:
        return sign_label_holder(
            party.to_partners, selection, coefficients, variables, partners=party.job.partners
        )
    return sign_partner(party.to_holder, selection, coefficients, variables)


def _fit_linear(party: Party, settings: Logistic, x: Floats) -> Fit:
    from fedcore.vertical import glm

    train, test = party.table.rows(TRAIN), party.table.rows(TEST)
    own = np.ascontiguousarray(x[train])
    if party.holds:
        y = _label(party.table)
        held_out = (np.ascontiguousarray(x[test]), y[test]) if settings.early_stop else None
        return glm.fit_label_holder(
            party.to_partners, own, y[train], settings, party.watch, held_out=held_out
        )
    return glm.fit_partner(
        party.to_holder,
        own,
        settings,
        party.watch,
        party.first,
        others=party.among_partners if party.first else (),
        to_first=None if party.first else party.among_partners[0],
        held_out=np.ascontiguousarray(x[test]) if settings.early_stop else None,
    )


def _keep_linear(
    party: Party, settings: Logistic, terms: Sequence[Term], found: Fit, selection: Selection | None
) -> None:
    coefficients = _coefficients(found)
    fitted = tuple(
        Term(each.column, value, each.bins, each.woe, each.mean, each.scale)
        for each, value in zip(terms, coefficients, strict=True)
    )
    intercept = float(found.intercept) if party.holds else 0.0
    part = LinearPart(fitted, intercept, settings.link)
    write_json(party.folder / PART, part.as_dict())
    if selection is not None:
        write_json(party.folder / SELECTION, selection.as_dict())
    if settings.scorecard is not None:
        own = [each for each in party.variables().own if selection is None or each.name in selection.kept]
        made = card(
            own,
            dict(zip((each.column for each in fitted), coefficients, strict=True)),
            settings.scorecard,
            intercept if party.holds else None,
        )
        write_json(party.folder / CARD, made.as_dict())
    errors, p_values = found.standard_errors, found.p_values
    opened = [each for each in found.trace if "loss" in each or "change" in each]
    write_json(
        party.folder / MODEL_FILE,
        {
            "coefficients": [
                {
                    "name": each.column,
                    "value": each.coefficient,
                    "standard_error": None if errors is None else float(errors[place]),
                    "p_value": None if p_values is None else float(p_values[place]),
                    "sign_ok": each.coefficient >= 0 if settings.on == "woe" else None,
                }
                for place, each in enumerate(fitted)
            ],
            "intercept": intercept if party.holds else None,
            "iterations": int(found.iterations),
            "converged": None if found.converged is None else bool(found.converged),
            "trace": [each["loss"] if "loss" in each else each["change"] for each in opened],
            "trace_name": (
                "loss on the test rows" if "loss" in opened[0] else "largest change of a coefficient"
            )
            if opened
            else "",
        },
    )
    if party.holds:
        train = party.table.rows(TRAIN)
        x, y = _matrix(fitted, party.table), _label(party.table)
        alone, constant = fit_alone(x[train], y[train], settings)
        predictor = np.rint((x @ alone + constant) * 2.0**32).astype(np.int64)
        np.savez(party.folder / OWN, scores=mean_of(predictor, settings.link)[1])


def standardised(table: Table) -> list[Term]:
    """One term for each column, which centres and scales it by the training rows; of no coefficient yet.

    Raises:
        DataError: A column is of text, or has one value only in all training rows.
    """
    train, terms = table.rows(TRAIN), []
    for name, values in table.columns.items():
        if values.dtype == object:
            raise DataError(
                f"column {name!r} is text; a network, and a linear model with on: values, take numbers only. Leave it out of the "
                "party's columns, or take weights of evidence (on: woe)",
                step="read",
            )
        known = values[train][~np.isnan(values[train])]
        scale = float(known.std()) if len(known) else 0.0
        if scale == 0:
            raise DataError(
                f"column {name!r} has one value only, or none, in all training rows; leave it out of the party's columns",
                step="read",
            )
        terms.append(Term(name, 0.0, mean=float(known.mean()), scale=scale))
    return terms


def _matrix(terms: Sequence[Term], table: Table) -> Floats:
    """What each term's coefficient is multiplied with, (n, terms)."""
    out = np.empty((len(table), len(terms)))
    for place, each in enumerate(terms):
        out[:, place] = Term(each.column, 1.0, each.bins, each.woe, each.mean, each.scale).of(
            table.columns[each.column]
        )
    return out


def _coefficients(found: Fit) -> list[float]:
    return [float(each) for each in found.coefficients]


def _label(table: Table) -> Floats:
    if table.label is None:
        raise DataError("this party has no label", step="fit")
    return table.label


# ---- trees ----------------------------------------------------------------------------------------------------------


def _boosting(party: Party, settings: Boosting) -> None:
    from fedcore.vertical.boosted_part import Boosted
    from fedcore.vertical.boosting.label_holder import grow_label_holder
    from fedcore.vertical.boosting.losses import expected
    from fedcore.vertical.boosting.partner import grow_partner
    from fedcore.vertical.boosting.predict import predict_label_holder

    table, train = party.table, party.table.rows(TRAIN)
    bins = tree_bins(table, settings)
    sizes = [each.size for each in bins.values()]
    codes = [each.codes(table.columns[name], name=name) for name, each in bins.items()]
    training = [each[train] for each in codes]
    made: list[dict[str, Any]] = []
    if party.holds:
        y, seed = _label(table)[train], party.job.seed
        half: Any = grow_label_holder(party.to_partners, training, sizes, y, settings, seed, party.watch)
        own, others = half.importance()
        made += [
            {"owner": party.name, "name": list(bins)[column], "splits": splits, "gain": gain}
            for column, (splits, gain) in own.items()
        ]
        made += [
            {"owner": party.job.partners[place - 1], "name": "all columns", "splits": splits, "gain": gain}
            for place, (splits, gain) in others.items()
        ]
        if training:
            alone = grow_label_holder(
                [], training, sizes, y, settings.model_copy(update={"own_first": 0}), seed
            )
            margins = predict_label_holder([], alone, codes, len(table))
            np.savez(party.folder / OWN, scores=expected(settings.loss, margins))
    else:
        half = grow_partner(party.to_holder, training, sizes, settings, party.watch)
        made += [
            {"owner": party.name, "name": list(bins)[column], "splits": splits, "gain": None}
            for column, splits in half.importance().items()
        ]
    write_json(party.folder / PART, Boosted(half, tuple(bins), tuple(bins.values())).as_dict())
    write_json(party.folder / MODEL_FILE, {"importances": made, "iterations": settings.trees})


def tree_bins(table: Table, settings: Boosting) -> dict[str, Bins]:
    """Bins of each column, by its training rows.

    Args:
        table: With the columns.
        settings: Most bins, and fewest rows on a side of a split.
    """
    wanted = Bin(method="monotone", prebins=settings.bins, min_rows=max(FEWEST, settings.min_bin))
    train = table.rows(TRAIN)
    return {name: prebins(values[train], wanted, name=name) for name, values in table.columns.items()}


# ---- networks -------------------------------------------------------------------------------------------------------


def _split_network(party: Party, settings: SplitNetwork) -> None:
    from fedcore.vertical.split_network import fit_label_holder, fit_partner

    table, train = party.table, party.table.rows(TRAIN)
    x = filled(table)[train]
    if party.holds:
        # Who knows the top half's start reads more out of gradients, so that it is not the job's seed.
        seed = secrets.randbits(63)
        part = fit_label_holder(party.to_partners, x, _label(table)[train], settings, seed, party.watch)
    else:
        # Halves of the same width must not begin alike.
        seed = party.job.seed + 1 + party.job.partners.index(party.name)
        part = fit_partner(party.to_holder, x, settings, seed, party.watch)
    part.save(party.folder)
    whom = {-1: "all partners together", **dict(enumerate(party.job.partners))}
    write_json(
        party.folder / MODEL_FILE,
        {
            "iterations": settings.epochs,
            "trace": list(part.losses),
            "trace_name": "training loss" if part.losses else "",
            "attacks": [
                {
                    "attack": f"{leak.attack}, {whom[leak.partner]}",
                    # Over all epochs is what a partner has in the end.
                    "auc": max(leak.protected, leak.accumulated),
                    "note": str(leak),
                }
                for leak in part.leaks
            ],
        },
    )


def filled(table: Table) -> Floats:
    """Columns as numbers, missing values at the mean of the training rows.

    Raises:
        DataError: A column is of text, or has one value only.
    """
    out = np.empty((len(table), len(table.columns)))
    for place, term in enumerate(standardised(table)):
        values = table.columns[term.column]
        out[:, place] = np.where(np.isnan(values), term.mean, values)
    return out
