"""The report's sections on linear models: coefficients with their signs, the scorecard, reason codes."""

from __future__ import annotations

import math

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import metric_text, percent_text
from fedcore.drawing.page import middle_cut, section, short, table
from fedcore.vertical.charts_variables import signed_bar
from fedcore.vertical.report_variables import bin_rows
from fedcore.vertical.results import LABEL_HOLDER, CardFacts, CoefficientFacts, ModelResult, PartyResult


def coefficients(result: PartyResult) -> Markup:
    """This party's coefficients of every linear model."""
    found = [model for model in result.models if model.coefficients]
    if not found:
        return Markup("")
    others = [each.name for each in result.job.parties if each.name != result.party]
    text = f"Those of {result.party}. {_and(others)} hold{'s' * (len(others) == 1)} their own."
    if len(others) == 1:
        text = text.replace("their own", "its own")
    if not others:
        text = f"Those of {result.party}."
    parts: list[object] = [element("p", text)]
    for model in found:
        parts += [element("h3", model.name)] if len(found) > 1 else []
        parts.append(_coefficients(model))
    return section("Coefficients", *parts)


def scorecards(result: PartyResult) -> Markup:
    """Points per bin of this party's variables, and why examples lost points."""
    found = [(model, model.card) for model in result.models if model.card is not None]
    if not found:
        return Markup("")
    parts: list[object] = []
    for model, card in found:
        parts += [element("h3", model.name)] if len(found) > 1 else []
        text = (
            f"{_plain(card.base)} points are odds of {_plain(card.odds)} good to 1 bad; {_plain(card.pdo)} more double "
            "the odds. A customer’s score is the sum of the points of all parties; each party keeps its own table."
        )
        parts += [element("p", text), _points(result, card)]
        if card.examples:
            parts += [element("h3", "Reason codes of examples"), _examples(result, card)]
    return section("Scorecard", *parts)


def _coefficients(model: ModelResult) -> Markup:
    reaches = [1.959964 * (each.standard_error or 0.0) for each in model.coefficients]
    reaches = [reach if math.isfinite(reach) else 0.0 for reach in reaches]
    values = [each.value for each in model.coefficients]
    ends = (
        min(value - reach for value, reach in zip(values, reaches, strict=True)),
        max(value + reach for value, reach in zip(values, reaches, strict=True)),
    )
    errors = any(each.standard_error is not None for each in model.coefficients)
    signs = any(each.sign_ok is not None for each in model.coefficients)
    rows: list[list[object]] = []
    if model.intercept is not None:
        rows.append(["intercept", "", metric_text(model.intercept), *["–"] * (2 * errors), *[""] * signs])
    for each, reach in zip(model.coefficients, reaches, strict=True):
        row: list[object] = [middle_cut(each.name, 36), signed_bar(each.value, ends, reach=reach)]
        row.append(metric_text(each.value))
        if errors:
            row += [metric_text(each.standard_error), _probability(each.p_value)]
        rows.append([*row, *([_sign(each)] if signs else [])])
    head = ["Variable", "", "coefficient", *(["standard error", "p-value"] if errors else [])]
    return table([*head, *(["sign"] if signs else [])], rows, words=2)


def _sign(each: CoefficientFacts) -> object:
    if each.sign_ok is None:
        return "–"
    style, word = ("on", "expected") if each.sign_ok else ("off", "opposite")
    return element("span", word, class_=f"state {style}")


def _probability(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _points(result: PartyResult, card: CardFacts) -> Markup:
    known = {each.name: each for each in result.variables if each.owner == result.party}
    labelled = result.role == LABEL_HOLDER
    rows = []
    for variable in card.variables:
        facts = known.get(variable.name)
        bins = {row.label: row for row in bin_rows(facts)} if facts else {}
        for place, (label, points) in enumerate(zip(variable.labels, variable.points, strict=True)):
            row: list[object] = [
                element("b", middle_cut(variable.name, 36)) if place == 0 else "",
                middle_cut(label, 48),
            ]
            found = bins.get(label)
            row.append(percent_text(found.share) if found else "–")
            if labelled:
                row.append(percent_text(found.bad_rate) if found else "–")
            row.append(metric_text(found.woe, 3) if found and math.isfinite(found.woe) else "–")
            rows.append([*row, _plain(points)])
    head = ["Variable", "bin", "rows", *(["bad rate"] if labelled else []), "weight of evidence", "points"]
    lowest = sum(min(each.points, default=0) for each in card.variables)
    highest = sum(max(each.points, default=0) for each in card.variables)
    span = f"From {_plain(lowest)} to {_plain(highest)} points of {result.party}."
    full = table(head, rows, words=2)
    return element("div", full, element("p", span, class_="quiet below"))


def _examples(result: PartyResult, card: CardFacts) -> Markup:
    rows = [[short(each.row, 40), "; ".join(each.reasons), _plain(each.score)] for each in card.examples]
    head = [
        "Example",
        "points below the best bin, most first",
        "score" if result.role == LABEL_HOLDER else "points",
    ]
    return table(head, rows, words=2)


def _plain(value: float) -> str:
    return (f"{value:.0f}" if value == round(value) else f"{value:g}").replace("-", "−")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
