"""The report's sections on decisions: what the joint model changes, and what the challenger would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import count_text, difference_text, metric_text, percent_text
from fedcore.drawing.page import figure, keys, section, table
from fedcore.vertical import metrics
from fedcore.vertical.charts import Axis, Line, chart
from fedcore.vertical.evaluation import APPROVALS, APPROVE, Scored, against_own, figures, main_part, scored
from fedcore.vertical.results import PartyResult

_SHARES = np.linspace(0.2, 1.0, 41)


def uplift(result: PartyResult) -> Markup:
    """The joint model against the label holder's own: bad rate by approval, swap set."""
    pair = against_own(result)
    if pair is None:
        return Markup("")
    joint, own = pair
    intro = (
        f"Both scores approve the same number of the {count_text(len(joint.labels))} {joint.part} rows, those of least "
        f"risk. {own.name} is a model of the same kind on the columns of {result.party} only."
    )
    legend = keys([(f"line {joint.style}", f"{joint.name}, joint"), (f"line {own.style}", own.name)])
    picture = figure(_approval([joint, own]), caption="Bad rate of the approved")
    swap = metrics.swap_set(joint.labels, joint.scores, own.scores, APPROVE)
    square = element(
        "div",
        element("h3", f"Swap set at {percent_text(APPROVE, 0)} approved"),
        _square(swap, own.name),
        element("p", _swap_text(swap, own.name), class_="below"),
    )
    parts = element("div", element("div", picture, legend), square, class_="multiples")
    return section("What the joint model adds", element("p", intro), parts, _table(joint, own))


def challengers(result: PartyResult) -> Markup:
    """The champion against every other model on the same rows."""
    found = [each for each in scored(result, main_part(result)) if not each.own and each.binary]
    if len(found) < 2:
        return Markup("")
    champion, others = found[0], found[1:]
    rows: list[list[object]] = []
    for each in found:
        values = figures(each)
        row: list[object] = [each.name, "champion" if each is champion else "challenger"]
        row += [metric_text(values[name]) for name in ("auc", "ks", "brier")]
        if each is champion:
            rows.append([*row, "–", "–", "–"])
            continue
        gain = metrics.auc_difference(each.labels, each.scores, champion.scores)
        swap = metrics.swap_set(each.labels, each.scores, champion.scores, APPROVE)
        row.append(difference_text(gain.value))
        row.append(f"{difference_text(gain.interval[0], 3)} to {difference_text(gain.interval[1], 3)}")
        rows.append([*row, difference_text((swap.new_bad - swap.old_bad) / swap.approved * 100, 2)])
    head = ["Model", "", "AUC", "KS", "Brier", "AUC less champion’s", "95\u202f% interval"]
    head.append(f"bad rate at {percent_text(APPROVE, 0)} approved, points")
    text = (
        f"On the {count_text(len(champion.labels))} {champion.part} rows. {_challenge_text(champion, others)}"
    )
    return section("Champion against challenger", element("p", text), table(head, rows, words=2))


def _challenge_text(champion: Scored, others: Sequence[Scored]) -> str:
    told = []
    for each in others:
        low, high = metrics.auc_difference(each.labels, each.scores, champion.scores).interval
        how = "ranks better than" if low > 0 else "ranks worse than" if high < 0 else "ranks as well as"
        told.append(f"{each.name} {how} {champion.name}")
    ties = (
        "; as well means that the interval of the difference has 0 in it"
        if "as well" in " ".join(told)
        else ""
    )
    return f"{'; '.join(told)}{ties}."


def _approval(shown: Sequence[Scored]) -> Markup:
    lines = []
    for each in reversed(shown):
        bads = np.cumsum(each.labels[np.argsort(each.scores, kind="stable")])
        numbers = np.maximum(1, np.round(_SHARES * len(bads))).astype(int)
        points = [(float(n / len(bads)), float(bads[n - 1] / n)) for n in numbers]
        lines.append(Line(points, each.style, each.name))
    return chart(
        lines,
        Axis("rows approved", 0.2, 1.0, percent=True),
        Axis("bad rate of the approved", 0.0, percent=True),
        describe="Bad rate of the approved rows by the share approved",
    )


def _square(swap: metrics.SwapSet, name: str) -> Markup:
    def cell(pair: tuple[int, int]) -> str:
        return f"{count_text(pair[0])} rows, {_rate(pair)} bad"

    rows = [
        ["joint model approves", cell(swap.both), cell(swap.swapped_in)],
        ["joint model declines", cell(swap.swapped_out), cell(swap.neither)],
    ]
    return table(["", f"{name}: approves", f"{name}: declines"], rows)


def _swap_text(swap: metrics.SwapSet, name: str) -> str:
    spared = swap.old_bad - swap.new_bad
    change = f"{count_text(abs(spared))} {'fewer' if spared >= 0 else 'more'} bad rows among the approved"
    return (
        f"{count_text(swap.swapped_in[0])} rows that {name} declines come in ({_rate(swap.swapped_in)} bad), as many go "
        f"out ({_rate(swap.swapped_out)} bad): {change}."
    )


def _table(joint: Scored, own: Scored) -> Markup:
    rows = []
    for share in APPROVALS:
        swap = metrics.swap_set(joint.labels, joint.scores, own.scores, share)
        rates = [bad / swap.approved if swap.approved else None for bad in (swap.old_bad, swap.new_bad)]
        spared = swap.old_bad - swap.new_bad
        rows.append(
            [
                percent_text(share, 0),
                *(percent_text(rate) for rate in rates),
                f"{'−' if spared < 0 else ''}{count_text(abs(spared))}",
                count_text(swap.swapped_in[0]),
                _rate(swap.swapped_in),
                _rate(swap.swapped_out),
            ]
        )
    head = ["Approved", "bad rate alone", "bad rate joint", "bad rows spared"]
    head += ["rows swapped", "bad rate of those in", "of those out"]
    return element("div", table(head, rows), class_="below")


def _rate(pair: tuple[int, int]) -> str:
    return percent_text(pair[1] / pair[0]) if pair[0] else "–"
