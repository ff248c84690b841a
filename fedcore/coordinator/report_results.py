"""The report's sections on what the model reached: comparison, curves per round, single sites."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedcore.coordinator.plots import Band, Curve, Spread, curves, dot_axis, dot_row, histogram
from fedcore.coordinator.plots import comparison as comparison_plot
from fedcore.coordinator.record import Baselines, Metrics, Record, Round, mean
from fedcore.drawing.axes import Scale, domain
from fedcore.drawing.markup import Markup, element, join
from fedcore.drawing.numbers import count_text, difference_text, metric_text, metric_title
from fedcore.drawing.page import figure, keys, section, short, table

MANY = 40
"""More participants than this are shown as quantiles, with the best and the worst by name."""

_SHARES = {"lowest": 0.0, "10 %": 0.1, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "90 %": 0.9, "highest": 1.0}
_EXTREMES = 10
_MOST_CHARTS = 9
_MOST_SMALL_LINES = 12
_MOST_ROUND_ROWS = 200


def comparison(record: Record) -> Markup:
    """Each site alone, federated, pooled."""
    base = record.baselines
    if base is None:
        if not record.rounds:
            return Markup("")
        if record.raw.get("privacy"):
            text = Markup(
                "This run trained no baselines: what a site reaches alone would leave it without noise."
            )
            return section("Federated against alone and pooled", element("p", text, class_="quiet"))
        asked = join(["This run trained no baselines. With ", element("code", "baselines: [local, pooled]")])
        text = join([asked, " in the job, the report compares the federated model with each site alone."])
        return section("Federated against alone and pooled", element("p", text, class_="quiet"))
    metric = record.primary
    spreads = []
    if base.local:
        dots = [(site, each[metric]) for site, each in base.local.items() if metric in each]
        note = f"mean over {count_text(len(dots))} sites" if len(dots) > 1 else "its own model"
        spreads.append(Spread("Each site alone", "alone", dots, _or_nan(mean(v for _, v in dots)), note))
    own = _own_rows(base)
    dots = (
        [(site, each[metric]) for site, each in record.final_sites.items() if metric in each] if own else []
    )
    value = base.federated.get(metric, record.final.get(metric, math.nan))
    spreads.append(Spread("Federated", "federated", dots, value, "one model, trained together"))
    if base.pooled:
        note = "one model, all rows in one place"
        spreads.append(Spread("Pooled", "pooled", [], base.pooled.get(metric, math.nan), note))
    told = "; ".join(f"{each.label} {metric_text(each.value)}" for each in spreads)
    better = "more" if record.maximize(metric) else "less"
    intro = f"{metric_title(metric)} measured on {base.measured_on}; {better} is better."
    if base.local:
        intro += (
            " Faint dots are single sites." if len(base.local) <= 60 else " Faint strokes are single sites."
        )
    picture = figure(comparison_plot(spreads, describe=f"{metric}: {told}"))
    return section(
        "Federated against alone and pooled", element("p", intro), picture, _comparison_table(record, base)
    )


def progress(record: Record) -> Markup:
    """Every metric over the rounds."""
    names = [name for name in record.metrics if any(_has(each, name) for each in record.rounds)]
    if not record.rounds or not names:
        return Markup("")
    many = max(len(each.sites) for each in record.rounds) > MANY
    legend = [("line federated", "mean over the sites, as the strategy weighs them")]
    if any(len(each.sites) > 1 for each in record.rounds):
        if many:
            legend += [("band inner", "middle half of the sites"), ("band middle", "80 % of the sites")]
        else:
            legend.append(("line site", "single sites"))
        legend.append(("band", "from the lowest to the highest site"))
    if any(each.central for each in record.rounds):
        legend.append(("line central", "on the coordinator’s own data"))
    first = _titled_chart(record, names[0], large=True)
    others = [_titled_chart(record, name) for name in names[1:_MOST_CHARTS]]
    left = len(names) - _MOST_CHARTS
    rest = element("p", f"{left} more metrics stand in result.json.", class_="quiet") if left > 0 else ""
    grid = element("div", *others, class_="multiples") if others else ""
    return section(
        "Round by round",
        keys(legend),
        first,
        grid,
        rest,
        _round_table(record, names),
    )


def sites(record: Record) -> Markup:
    """The final model at each site."""
    metric = record.primary
    found = {site: values[metric] for site, values in record.final_sites.items() if metric in values}
    if not found:
        if not record.rounds:
            return Markup("")
        text = "The record holds no metric of a single site."
        return section("Site by site", element("p", text, class_="quiet"))
    base = record.baselines if record.baselines and _own_rows(record.baselines) else None
    alone = {site: each[metric] for site, each in base.local.items() if metric in each} if base else {}
    when = f" after round {record.final_round}" if record.final_round else ""
    intro = f"{metric_title(metric)} of the federated model on each site’s own validation rows{when}."
    if len(found) > MANY:
        return section("Site by site", element("p", intro), *_many_sites(record, found, alone))
    legend = [("federated", "federated model")]
    if alone:
        legend.append(("alone", "the site’s own model, trained alone"))
    if len(found) > 1:
        intro += " Worst first. The dashed line is the mean."
    ranked = [site for site, _ in record.ranked(metric)]
    order = [*ranked, *(site for site in found if site not in ranked)]
    return section(
        "Site by site",
        element("p", intro),
        keys(legend),
        _site_table(record, order, alone, _row_scale(record, found, alone)),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the finite values lies, interpolated; NaN when there are none."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return math.nan
    place = share * (len(known) - 1)
    low = math.floor(place)
    high = min(low + 1, len(known) - 1)
    return known[low] + (known[high] - known[low]) * (place - low)


def _comparison_table(record: Record, base: Baselines) -> Markup:
    rows = []
    for name in filter(None, dict.fromkeys([record.primary, *base.federated, *base.pooled])):
        alone = [each[name] for each in base.local.values() if name in each]
        middle, federated, pooled = mean(alone), base.federated.get(name), base.pooled.get(name)
        better = "more" if record.maximize(name) else "less"
        row: list[object] = [join([name, element("small", f" {better} is better")])]
        if base.local:
            row += [
                metric_text(middle),
                f"{metric_text(quantile(alone, 0))} to {metric_text(quantile(alone, 1))}",
            ]
        row += [metric_text(federated), *([metric_text(pooled)] if base.pooled else [])]
        for other in [middle] * bool(base.local) + [pooled] * bool(base.pooled):
            row.append(difference_text(None if other is None or federated is None else federated - other))
        rows.append(row)
    head = ["", *(["alone, mean", "alone, range"] if base.local else []), "federated"]
    head += (["pooled"] if base.pooled else []) + (["federated − alone"] if base.local else [])
    head += ["federated − pooled"] if base.pooled else []
    return table(head, rows)


def _titled_chart(record: Record, metric: str, large: bool = False) -> Markup:
    means = [each.evaluate[metric] for each in record.rounds if metric in each.evaluate]
    note = "a gap in a line: not a number" if not all(map(math.isfinite, means)) else ""
    return figure(_chart(record, metric, large), caption=metric_title(metric), note=note)


def _chart(record: Record, metric: str, large: bool = False) -> Markup:
    rounds = [each for each in record.rounds if _has(each, metric)]
    values = {"federated": [each.evaluate.get(metric, math.nan) for each in rounds]}
    if any(metric in each.central for each in rounds):
        values["central"] = [each.central.get(metric, math.nan) for each in rounds]
    reports = [[s.evaluate[metric] for s in each.sites.values() if metric in s.evaluate] for each in rounds]
    if not any(math.isfinite(value) for value in values["federated"]) and not any(reports):
        values["federated"] = [each.train.get(metric, math.nan) for each in rounds]
    lines, bands = [], []
    if max(map(len, reports), default=0) > MANY:
        for style, share in (("band", 0.0), ("band middle", 0.1), ("band inner", 0.25)):
            edges = [[quantile(each, at) for each in reports] for at in (share, 1 - share)]
            bands.append(Band(edges[0], edges[1], style))
    elif max(map(len, reports), default=0) > 1:
        bands.append(Band([quantile(each, 0) for each in reports], [quantile(each, 1) for each in reports]))
        if large or max(map(len, reports)) <= _MOST_SMALL_LINES:
            lines += _site_lines(rounds, metric, large)
    titles = {"federated": "mean", "central": "central"}
    for style in ("central", "federated"):
        if style in values:
            last = next((v for v in reversed(values[style]) if math.isfinite(v)), math.nan)
            label = f"{titles[style]} {metric_text(last)}" if large else metric_text(last, 3)
            lines.append(Curve(values[style], style, label, titles[style]))
    kept = record.final_round if record.final_round != rounds[-1].number else None
    told = f"{metric} over {len(rounds)} rounds, at the end {metric_text(values['federated'][-1])}"
    return curves(
        [each.number for each in rounds],
        lines,
        bands,
        describe=told,
        width=900 if large else 440,
        height=320 if large else 210,
        right=170 if large else 58,
        mark=(kept, "model kept") if kept else None,
    )


def _site_lines(rounds: Sequence[Round], metric: str, large: bool) -> list[Curve]:
    """One line per site; in the large chart those that end highest and lowest carry their names."""
    names = dict.fromkeys(site for each in rounds for site in each.sites)
    values, last = {}, {}
    for site in names:
        reports = [each.sites[site].evaluate if site in each.sites else {} for each in rounds]
        values[site] = [each.get(metric, math.nan) for each in reports]
        if math.isfinite(values[site][-1]):
            last[site] = values[site][-1]
    named = (
        {min(last, key=last.__getitem__), max(last, key=last.__getitem__)}
        if large and len(last) > 2
        else set()
    )
    lines = []
    for site in names:
        label = f"{short(site, 14)} {metric_text(last[site], 3)}" if site in named else ""
        style = "site named" if site in named else "site" if len(names) <= _MOST_SMALL_LINES else "site crowd"
        lines.append(Curve(values[site], style, label, site))
    return lines


def _round_table(record: Record, names: Sequence[str]) -> Markup:
    shown = names[:6]
    step = math.ceil(len(record.rounds) / _MOST_ROUND_ROWS)
    rows = []
    for each in record.rounds[::step]:
        replies = f"{len(each.replied)} of {each.cohort}" if each.cohort else "–"
        cells = [metric_text(each.evaluate.get(name)) for name in shown]
        central = (
            [metric_text(each.central.get(record.primary))] if any(r.central for r in record.rounds) else []
        )
        rows.append([str(each.number), *cells, *central, replies])
    central_head = [f"{record.primary}, central"] if any(r.central for r in record.rounds) else []
    head = ["Round", *shown, *central_head, "replies"]
    every = f" (every {step}th)" if step > 1 else ""
    return element("details", element("summary", f"All rounds in numbers{every}"), table(head, rows))


def _site_table(record: Record, order: Sequence[str], alone: Metrics, scale: Scale) -> Markup:
    metric, rows = record.primary, []
    final = {site: record.final_sites[site].get(metric, math.nan) for site in order}
    members = {member.name: member for member in record.members}
    others = [
        name
        for name in record.metrics
        if name != metric and any(name in v for v in record.final_sites.values())
    ]
    others = others[: 2 if alone else 4]
    for site in order:
        value, own = final[site], alone.get(site)
        marks = [("alone", own)] if own is not None else []
        told = f"federated {metric_text(value)}" + (f", alone {metric_text(own)}" if own is not None else "")
        reference = record.final.get(metric, math.nan)
        dots = dot_row(scale, [*marks, ("federated", value)], describe=told, reference=reference)
        held = members[site].validation_rows if site in members else None
        numbers = [metric_text(value)]
        if alone:
            numbers += [metric_text(own), difference_text(None if own is None else value - own)]
        numbers += [metric_text(record.final_sites[site].get(name)) for name in others]
        rows.append([short(site, 28), element("div", dots, class_="dots"), count_text(held), *numbers])
    head = [metric, "alone", "difference"] if alone else [metric]
    axis = element("div", dot_axis(scale), class_="dots")
    return table(["Participant", axis, "validation rows", *head, *others], rows, words=2)


def _row_scale(record: Record, found: Metrics, alone: Metrics) -> Scale:
    low, high = domain([*found.values(), *alone.values(), record.final.get(record.primary, math.nan)])
    return Scale(low, high, 10.0, 290.0)


def _many_sites(record: Record, found: Metrics, alone: Metrics) -> list[Markup]:
    values, metric = list(found.values()), record.primary
    legend = [("bar federated", "sites by what the federated model reaches there")]
    if alone:
        legend.append(("line alone", "sites by what their own model reaches, trained alone"))
    rows = [["federated", *(metric_text(quantile(values, share)) for share in _SHARES.values())]]
    if alone:
        own = list(alone.values())
        rows.append(["alone", *(metric_text(quantile(own, share)) for share in _SHARES.values())])
    told = f"{metric} at {len(values)} sites, median {metric_text(quantile(values, 0.5))}"
    scale = _row_scale(record, found, alone)
    ranked = [site for site, _ in record.ranked(metric)]
    without = len(values) - len(ranked)
    parts = [
        keys(legend),
        figure(histogram(values, list(alone.values()), describe=told)),
        table(["", *_SHARES], rows),
    ]
    if without:
        parts.append(element("p", f"At {without} sites {metric} is not a number.", class_="quiet"))
    for title, chosen in (
        (f"The {_EXTREMES} worst sites", ranked[:_EXTREMES]),
        (f"The {_EXTREMES} best sites", ranked[::-1][:_EXTREMES]),
    ):
        parts += [
            element("h3", title),
            _site_table(record, chosen, {s: alone[s] for s in chosen if s in alone}, scale),
        ]
    return parts


def _has(each: Round, metric: str) -> bool:
    if metric in each.evaluate or metric in each.central:
        return True
    if not each.evaluate and not each.central:
        return metric in each.train
    return any(metric in site.evaluate for site in each.sites.values())


def _own_rows(base: Baselines) -> bool:
    """Whether the baselines and the sites' final metrics were measured on the same rows."""
    return "central" not in base.measured_on


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
