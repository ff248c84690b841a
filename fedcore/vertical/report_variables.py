"""The report's sections on variables: information value, weights of evidence, what went and why, correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import count_text, metric_text, percent_text
from fedcore.drawing.page import figure, keys, middle_cut, section, short, table
from fedcore.vertical.charts_variables import Bar, BinRow, heat_map, ranking, woe_bars
from fedcore.vertical.results import PartyResult, VariableFacts

_MOST_RANKED = 60
_MOST_OPEN = 12
_MOST_CELLS = 60


def variables(result: PartyResult) -> Markup:
    """All variables: ranking, bins, table."""
    found = ranked(result.variables)
    if not found:
        return Markup("")
    parts: list[object] = []
    if any(each.iv is not None for each in found):
        parts += _ranking(result, found)
    drawn = [each for each in found if bin_rows(each)]
    kept, gone = [each for each in drawn if each.kept], [each for each in drawn if not each.kept]
    if drawn:
        parts += [
            element("h3", "Bins of the variables in use"),
            element("p", _bins_text(result), class_="quiet"),
        ]
    parts.append(_pictures(kept[:_MOST_OPEN]))
    if len(kept) > _MOST_OPEN:
        parts.append(_folded(f"{len(kept) - _MOST_OPEN} more variables in use", kept[_MOST_OPEN:]))
    if gone:
        parts.append(_folded(f"Bins of the {len(gone)} variables that went", gone))
    parts += [element("h3", "All variables"), _table(result, found)]
    return section("Variables", *parts)


def correlations(result: PartyResult) -> Markup:
    """The heat map, and the strongest pairs."""
    found = result.correlations
    if found is None or len(found.names) < 2:
        return Markup("")
    owners = {each.name: each.owner for each in result.variables}
    order = sorted(
        range(len(found.names)), key=lambda place: _place(result, owners.get(found.names[place], ""))
    )
    names = [found.names[place] for place in order]
    values = np.asarray(found.values)[np.ix_(order, order)]
    shown = names[:_MOST_CELLS]
    picture = heat_map(
        shown,
        values[: len(shown), : len(shown)].tolist(),
        owners=[owners.get(name, "") for name in shown],
        describe=f"Correlations of {len(shown)} variables",
    )
    legend = keys([("bar good", "rise together"), ("bar bad", "one rises as the other falls")])
    note = (
        "Of weights of evidence on training rows; stronger is darker. Columns carry the numbers of the rows."
    )
    if len({owners.get(name, "") for name in shown}) > 1:
        note += " Lines part the parties."
    if np.isnan(values).any():
        note += " Empty cells were not computed."
    if len(names) > len(shown):
        note += f" {len(names) - len(shown)} more variables stand in tables/correlations.csv."
    pairs = [
        (abs(values[i, j]), names[i], names[j], values[i, j])
        for i in range(len(names))
        for j in range(i)
        if math.isfinite(values[i, j])
    ]
    strongest = sorted(pairs, key=lambda pair: -pair[0])[:5]
    rows = [
        [middle_cut(one, 36), middle_cut(other, 36), metric_text(value, 3)]
        for _, one, other, value in strongest
    ]
    pairs_table = table(["Strongest pairs", "", "correlation"], rows, words=2) if rows else ""
    return section("Correlations", element("p", note), legend, figure(picture), pairs_table)


def ranked(found: Sequence[VariableFacts]) -> list[VariableFacts]:
    """Highest information value first; those without one as they came, last."""
    return sorted(found, key=lambda each: -math.inf if each.iv is None else each.iv, reverse=True)


def bin_labels(variable: VariableFacts) -> list[str]:
    """Names of a variable's bins; numbers where they are another party's."""
    if variable.labels is not None:
        return list(variable.labels)
    sizes = [len(each) for each in (variable.woe, variable.bad, variable.good) if each is not None]
    sizes += [len(each) for each in variable.rows.values()]
    return [f"bin {place + 1}" for place in range(max(sizes, default=0))]


def bin_rows(variable: VariableFacts) -> list[BinRow]:
    """Share of training rows, weight of evidence and bad rate of each bin, as far as they are known."""
    labels = bin_labels(variable)
    rows: Sequence[float] = variable.rows.get("train", ())
    if not rows and variable.good is not None and variable.bad is not None:
        rows = [good + bad for good, bad in zip(variable.good, variable.bad, strict=True)]
    whole = sum(rows)
    found = []
    for place, label in enumerate(labels):
        number = rows[place] if place < len(rows) else math.nan
        bad = math.nan if variable.bad is None else variable.bad[place]
        good = math.nan if variable.good is None else variable.good[place]
        woe = math.nan if variable.woe is None or number == 0 else variable.woe[place]
        rate = bad / (good + bad) if good + bad > 0 else math.nan
        joined = place < (len(labels) - 1 if variable.regular is None else variable.regular)
        found.append(BinRow(label, number / whole if whole else math.nan, woe, rate, joined))
    return found


def owner_style(result: PartyResult, owner: str) -> str:
    """The class of a variable's bar."""
    return ("bar good", "bar other", "phase-2", "phase-3", "phase-1")[min(_place(result, owner), 4)]


def _place(result: PartyResult, owner: str) -> int:
    names = [each.name for each in result.job.parties]
    return names.index(owner) if owner in names else len(names)


def _ranking(result: PartyResult, found: Sequence[VariableFacts]) -> list[object]:
    shown = [each for each in found if each.iv is not None][:_MOST_RANKED]
    bars = [
        Bar(
            each.name,
            math.nan if each.iv is None else each.iv,
            owner_style(result, each.owner) if each.kept else "bar gone",
            "" if each.kept else each.reason or "not used",
        )
        for each in shown
    ]
    owners = list(dict.fromkeys(each.owner for each in shown if each.kept))
    legend = [(owner_style(result, owner), f"of {owner}") for owner in owners]
    if any(not each.kept for each in shown):
        legend.append(("bar gone", "not used, with the reason"))
    picture = ranking(bars, describe=f"Information value of {len(bars)} variables", text=_three)
    return [element("h3", "Information value"), keys(legend), figure(picture)]


def _three(value: float) -> str:
    return metric_text(value, 3)


def _bins_text(result: PartyResult) -> str:
    known = any(each.bad is not None for each in result.variables)
    sign = "A weight of evidence is ln of the bin’s share of bad rows over its share of good rows: above zero is riskier."
    if not any(each.woe is not None for each in result.variables):
        return "Shares of training rows per bin."
    return sign + (" The line is the bad rate. Training rows only." if known else " Training rows only.")


def _pictures(found: Sequence[VariableFacts]) -> Markup:
    pictures = []
    for each in found:
        rows = [row for row in bin_rows(each) if row.share != 0]
        iv = f"IV {metric_text(each.iv, 3)}" if each.iv is not None else ""
        told = f"{each.name}: {len(rows)} bins {iv}"
        note = " · ".join(filter(None, (each.owner, iv)))
        pictures.append(figure(woe_bars(rows, describe=told), caption=middle_cut(each.name, 36), note=note))
    return element("div", *pictures, class_="multiples") if pictures else Markup("")


def _folded(title: str, found: Sequence[VariableFacts]) -> Markup:
    return element("details", element("summary", title), _pictures(found))


def _table(result: PartyResult, found: Sequence[VariableFacts]) -> Markup:
    parts = list(dict.fromkeys(part for each in found for part in each.stability))
    with_vif = any(each.vif is not None for each in found)
    with_iv = any(each.iv is not None for each in found)
    rows = []
    for each in found:
        row: list[object] = [
            middle_cut(each.name, 36),
            short(each.owner, 24),
            "used" if each.kept else each.reason,
        ]
        row += [count_text(len(bin_labels(each)) or None), percent_text(each.missing)]
        row += [metric_text(each.iv, 3)] if with_iv else []
        row += [_number(each.stability.get(part)) for part in parts]
        row += [_number(each.vif, 2)] if with_vif else []
        rows.append(row)
    head = ["Variable", "party", "", "bins", "missing", *(["IV"] if with_iv else [])]
    head += [f"PSI, {part}" for part in parts] + (["VIF"] if with_vif else [])
    return table(head, rows, words=3)


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")
