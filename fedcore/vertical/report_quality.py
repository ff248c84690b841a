"""The report's sections on how well scores order and predict: curves, calibration, groups, stability, training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import count_text, metric_text, percent_text
from fedcore.drawing.page import figure, keys, middle_cut, section, short, table
from fedcore.vertical import metrics
from fedcore.vertical.charts import Axis, Bars, Line, Upright, chart, stepped, thinned
from fedcore.vertical.evaluation import (
    Scored,
    confusions,
    figure_title,
    figures,
    main_part,
    parts_of,
    scored,
    stability_of,
)
from fedcore.vertical.record import Floats
from fedcore.vertical.results import ModelResult, PartyResult

_SHARE = Axis("share of rows, riskiest first", 0.0, 1.0, percent=True)
_BINS = 40


def ranking(result: PartyResult) -> Markup:
    """ROC, KS, gain, lift, calibration and the distribution of scores, and the figures behind them."""
    part = main_part(result)
    shown = _curves(result, part)
    if not scored(result):
        return Markup("")
    parts: list[object] = [element("p", _intro(shown, part))] if shown else []
    if shown:
        entries = [(f"line {each.style}", f"{each.name}, AUC {_area(each)}") for each in shown]
        parts.append(keys(entries))
        champion = shown[0]
        pictures = [_roc(shown), _ks(champion), _gain(shown), _lift(shown), _calibration(shown)]
        pictures.append(_distribution(champion))
        parts.append(element("div", *pictures, class_="multiples"))
    parts += [element("h3", "All figures"), _figures_table(result)]
    return section("How well it tells bad from good" if shown else "How well it predicts", *parts)


def deciles(result: PartyResult) -> Markup:
    """Ten groups of rows by the champion's score."""
    shown = _curves(result, main_part(result))
    if not shown:
        return Markup("")
    champion = shown[0]
    found = metrics.groups(champion.labels, champion.scores)
    average = float(champion.labels.mean())
    edges = [place + 0.5 for place in range(len(found) + 1)]
    told = [
        f"Group {i + 1}: {percent_text(g.bad_rate)} of {count_text(g.rows)} rows" for i, g in enumerate(found)
    ]
    picture = chart(
        [],
        Axis("group, riskiest first", 0.5, len(found) + 0.5, ticks=10),
        Axis("bad rate", 0.0, percent=True),
        bars=[Bars(edges, [each.bad_rate for each in found], "bar good", told)],
        level=(average, f"all rows {percent_text(average)}"),
        describe="Bad rate of each group",
        width=900,
        height=240,
    )
    rows = [
        [
            str(place + 1),
            f"{metric_text(each.low, 3)} to {metric_text(each.high, 3)}",
            count_text(each.rows),
            count_text(each.bad),
            percent_text(each.bad_rate),
            f"{each.lift:.2f}",
            percent_text(each.gain),
            f"{each.cumulative_lift:.2f}",
            metric_text(each.ks, 3),
        ]
        for place, each in enumerate(found)
    ]
    head = ["Group", "score", "rows", "bad", "bad rate", "lift", "bad so far", "lift so far", "KS"]
    note = f"{champion.name}, {champion.part} rows; rows with one score are never parted."
    cuts = element("div", element("h3", "At a cut-off"), _cut_offs(champion))
    return section("Groups by score", element("p", note), figure(picture), table(head, rows), cuts)


def stability(result: PartyResult) -> Markup:
    """Scores of later parts against training rows."""
    found = [(model, values) for model in result.models if (values := stability_of(result, model))]
    if not found:
        return Markup("")
    parts = list(dict.fromkeys(part for _, values in found for part in values))
    rows = [
        [middle_cut(model.name, 32), *(metric_text(values.get(part), 4) for part in parts), _verdict(values)]
        for model, values in found
    ]
    text = (
        "Population stability index (PSI) of the scores against training rows, over ten groups that are equal among "
        "training rows. By custom, below 0.1 is stable and above 0.25 is not."
    )
    head = ["Model", *(f"{part} against train" for part in parts), ""]
    return section(
        "Stability over the split",
        element("p", text),
        _shift(found[0][0], parts),
        element("div", table(head, rows), class_="below"),
    )


def training(result: PartyResult) -> Markup:
    """Passes, convergence and what the party saw of it."""
    if not result.models:
        return Markup("")
    rows, pictures, audits = [], [], []
    for model in result.models:
        ended = {True: "converged", False: "did not converge", None: ""}[model.converged]
        rows.append([middle_cut(model.name, 32), model.use, ended, count_text(model.iterations)])
        if len(model.trace) > 1:
            line = Line(
                [(float(i + 1), value) for i, value in enumerate(model.trace)], "federated", dots=True
            )
            picture = chart(
                [line],
                Axis("pass", whole=True),
                Axis(model.trace_name or "figure"),
                describe=f"{model.trace_name} of {model.name}",
                height=220,
            )
            pictures.append(figure(picture, caption=middle_cut(model.name, 40)))
        if model.importances:
            pictures.append(_importances(model))
        if model.attacks:
            audits.append(_attacks(model))
    notes = [element("p", note, class_="notice") for model in result.models for note in model.notes]
    return section(
        "Training",
        table(["Model", "kind", "", "passes, trees or epochs"], rows, words=3),
        element("div", *pictures, class_="multiples") if pictures else "",
        *audits,
        *notes,
    )


def _cut_offs(champion: Scored) -> Markup:
    rows = []
    for each in confusions(champion):
        called = each.true_bad + each.false_bad
        counts = [
            count_text(value) for value in (each.true_bad, each.false_bad, each.false_good, each.true_good)
        ]
        rates = [percent_text(value) for value in (each.precision, each.recall, each.false_rate)]
        share = percent_text(called / len(champion.labels))
        rows.append([metric_text(each.cutoff, 3), share, *counts, *rates, f"{each.f1:.3f}"])
    head = [
        "Score from",
        "called bad",
        "bad, called bad",
        "good, called bad",
        "bad, called good",
        "good, called good",
    ]
    return table([*head, "precision", "recall", "false positives", "F1"], rows)


def _curves(result: PartyResult, part: str) -> list[Scored]:
    """What the charts show: the champion, the label holder alone, the other joint models."""
    found = [each for each in scored(result, part) if each.binary]
    champion = [each for each in found if each.model is result.models[0]]
    others = [each for each in found if each.model is not result.models[0] and not each.own]
    joint = [each for each in champion if not each.own]
    return [*joint, *(each for each in champion if each.own), *others] if joint else []


def _intro(shown: Sequence[Scored], part: str) -> str:
    champion = shown[0]
    bad = int(champion.labels.sum())
    words = (
        f"Measured on the {count_text(len(champion.labels))} {part} rows, of which {count_text(bad)} are bad."
    )
    return f"{words} KS, distribution and groups are those of {champion.name}, the champion."


def _area(each: Scored) -> str:
    return metric_text(metrics.auc(each.labels, each.scores), 3)


def _roc(shown: Sequence[Scored]) -> Markup:
    lines = []
    for each in reversed(shown):
        found = metrics.curve(each.labels, each.scores)
        lines.append(Line(_points(found.good_share, found.bad_share), each.style, each.name))
    picture = chart(
        lines,
        Axis("good rows called bad", 0.0, 1.0, percent=True),
        Axis("bad rows found", 0.0, 1.0, percent=True),
        diagonal=True,
        describe="ROC: " + "; ".join(f"{each.name} AUC {_area(each)}" for each in shown),
    )
    return figure(picture, caption="ROC")


def _ks(champion: Scored) -> Markup:
    found, at = metrics.curve(champion.labels, champion.scores), metrics.ks(champion.labels, champion.scores)
    place = int(np.searchsorted(found.share, at.share))
    ends = sorted((float(found.good_share[place]), float(found.bad_share[place])))
    lines = [
        Line(_points(found.share, found.good_share), "good", "good rows"),
        Line(_points(found.share, found.bad_share), "bad", "bad rows"),
    ]
    picture = chart(
        lines,
        _SHARE,
        Axis("rows of the class so far", 0.0, 1.0, percent=True),
        uprights=[Upright(at.share, f"KS {metric_text(at.value, 3)}", *ends)],
        describe=f"KS {metric_text(at.value, 3)} at {percent_text(at.share)} of rows",
    )
    legend = keys([("line bad", "bad"), ("line good", "good")])
    return element("div", figure(picture, caption="KS", note=champion.name), legend)


def _gain(shown: Sequence[Scored]) -> Markup:
    lines = []
    for each in reversed(shown):
        found = metrics.curve(each.labels, each.scores)
        lines.append(Line(_points(found.share, found.bad_share), each.style, each.name))
    axis = Axis("bad rows so far", 0.0, 1.0, percent=True)
    return figure(chart(lines, _SHARE, axis, diagonal=True, describe="Gain"), caption="Gain")


def _lift(shown: Sequence[Scored]) -> Markup:
    lines = []
    for each in reversed(shown):
        found = metrics.groups(each.labels, each.scores)
        points = [(group.rows_so_far / group.rows_in_all, group.cumulative_lift) for group in found]
        lines.append(Line(points, each.style, each.name, dots=True))
    picture = chart(
        lines,
        _SHARE,
        Axis("bad rate so far over that of all", 0.0),
        level=(1.0, ""),
        describe="Lift by tenth of rows",
    )
    return figure(picture, caption="Lift", note="cumulative, by tenth")


def _calibration(shown: Sequence[Scored]) -> Markup:
    lines, drawn = [], [each for each in shown if each.scores.min() >= 0 and each.scores.max() <= 1]
    for each in reversed(drawn):
        found = metrics.groups(each.labels, each.scores)
        reach = [group.interval for group in found] if each is shown[0] else []
        points = [(group.mean, group.bad_rate) for group in found]
        lines.append(Line(points, each.style, each.name, dots=True, reach=reach))
    if not lines:
        return Markup("")
    widest = max(point[0] for line in lines for point in line.points)
    highest = max(
        [point[1] for line in lines for point in line.points]
        + [high for line in lines for _, high in line.reach]
    )
    picture = chart(
        lines,
        Axis("predicted", 0.0, min(1.0, widest * 1.05), percent=True),
        Axis("bad rate found", 0.0, min(1.0, highest * 1.05), percent=True),
        diagonal=True,
        describe="Bad rate found against the predicted one, by tenth of rows",
    )
    return figure(
        picture, caption="Calibration", note="by tenth; bars are 95\u202f% intervals of the champion’s"
    )


def _distribution(champion: Scored) -> Markup:
    scores = champion.scores
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    shares = [np.histogram(scores[champion.labels == kind], edges)[0].astype(float) for kind in (0, 1)]
    good, bad = ((counts / counts.sum()).tolist() for counts in shares)
    ends = edges.tolist()
    axis = Axis("share of the class", 0.0, percent=True)
    lines = [Line(stepped(ends, good), "good", "good rows"), Line(stepped(ends, bad), "bad", "bad rows")]
    bars = [Bars(ends, good, "bar faint-good"), Bars(ends, bad, "bar faint-bad")]
    picture = chart(
        lines, Axis("score"), axis, bars=bars, describe="Distribution of scores of good and bad rows"
    )
    legend = keys([("bar faint-good", "good"), ("bar faint-bad", "bad")])
    return element("div", figure(picture, caption="Scores", note=champion.name), legend)


def _figures_table(result: PartyResult) -> Markup:
    found = scored(result)
    names = list(dict.fromkeys(name for each in found for name in figures(each)))
    rows = []
    for part in reversed(parts_of(result)):
        for each in (one for one in found if one.part == part):
            values = figures(each)
            row = [each.name, part, count_text(len(each.labels))]
            rows.append([*row, *(metric_text(values.get(name)) for name in names)])
    return table(["Model", "part", "rows", *(figure_title(name) for name in names)], rows, words=2)


def _shift(model: ModelResult, parts: Sequence[str]) -> Markup:
    scores = model.scores or {}
    bounds = np.unique(np.quantile(scores["train"], np.arange(1, 10) / 10, method="inverted_cdf"))
    styles = ("federated", "alone", "pooled")
    lines, legend = [], []
    for style, part in zip(styles, ["train", *parts], strict=False):
        counts = np.bincount(np.searchsorted(bounds, scores[part]), minlength=len(bounds) + 1)
        shares = counts / counts.sum()
        points = [(float(place + 1), float(share)) for place, share in enumerate(shares)]
        lines.append(Line(points, style, part, dots=True))
        legend.append((f"line {style}", part))
    picture = chart(
        lines[::-1],
        Axis("group by score, equal among training rows", 0.5, len(bounds) + 1.5, ticks=10),
        Axis("share of rows", 0.0, percent=True),
        describe=f"Share of rows by score of {model.name}",
        width=900,
        height=220,
    )
    return element("div", keys(legend), figure(picture))


def _verdict(values: dict[str, float]) -> str:
    worst = max(values.values())
    return "stable" if worst < 0.1 else "some shift" if worst <= 0.25 else "shifted"


def _importances(model: ModelResult) -> Markup:
    gains = any(each.gain is not None for each in model.importances)
    found = sorted(model.importances, key=lambda each: (each.gain or 0.0, each.splits), reverse=True)[:30]
    rows = [
        [
            middle_cut(each.name, 24),
            short(each.owner, 16),
            count_text(each.splits),
            *([metric_text(each.gain, 1)] if gains else []),
        ]
        for each in found
    ]
    head = ["Variable", "party", "splits", *(["gain"] if gains else [])]
    return element(
        "div", element("h3", f"Splits of {middle_cut(model.name, 32)}"), table(head, rows, words=2)
    )


def _attacks(model: ModelResult) -> Markup:
    rows = [[each.attack, each.note, metric_text(each.auc, 3)] for each in model.attacks]
    text = "AUC with which the attack tells labels from what a partner sees: 0.5 is chance, 1 is all of them."
    titled = element("h3", f"Leakage audit of {middle_cut(model.name, 32)}")
    return element("div", titled, element("p", text), table(["Attack", "", "AUC"], rows, words=2))


def _points(x: Floats, y: Floats) -> list[tuple[float, float]]:
    found = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    return thinned([point for point in found if math.isfinite(point[0])])
