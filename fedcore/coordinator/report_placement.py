"""The report's section on placement: the plan on its map, what else it could have cost, predicted beside measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fedcore.coordinator.record import Record
from fedcore.coordinator.record_placement import PlacedRound, Placements, placements
from fedcore.coordinator.wording_placement import placed_text, time_text
from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import bytes_text, count_text, metric_text, seconds_text
from fedcore.drawing.page import section, short, table
from fedcore.errors import FedcoreError
from fedcore.network.made_of import MadeOf, load_made_of
from fedcore.network.plan import Plan, load_plan

log = logging.getLogger("fedcore.coordinator")

MOST_ROWS = 60
MOST_OFFERS = 400
"""Up to which a report plans anew for its front; a report is written in seconds."""
STEPS = 4


def placement(record: Record, run_dir: Path | None) -> Markup:
    """Who computed where by which plan; nothing where no round was placed."""
    told = placements(record.raw)
    if told is None:
        return Markup("")
    words = "; ".join(part for part in (placed_text(told, len(record.members)), time_text(told)) if part)
    parts: list[object] = [element("p", f"{words[0].upper()}{words[1:]}.")]
    plan, made_of = _files(run_dir)
    if plan is not None:
        parts += _pictures(plan, made_of)
        parts += [
            element("h3", "The last plan"),
            _quality(plan, made_of),
            _participants(plan, made_of),
            _aggregators(plan),
        ]
    parts += [*_rounds(told), *_events(told), *_left_out(told)]
    return section("Placement", *parts)


def _files(run_dir: Path | None) -> tuple[Plan | None, MadeOf | None]:
    """The plan and what it was made of, as far as the run folder has them."""
    if run_dir is None or not (run_dir / "plan.json").is_file():
        return None, None
    try:
        plan = load_plan(run_dir / "plan.json")
    except FedcoreError as error:
        log.warning("report: %s", error)
        return None, None
    try:
        return plan, load_made_of(run_dir / "plan.json")
    except FedcoreError as error:
        log.warning("report: %s", error)
        return plan, None


def _pictures(plan: Plan, made_of: MadeOf | None) -> list[Markup]:
    if made_of is None:
        return []
    from fedcore.network.draw import draw_plan, title_of
    from fedcore.network.svg import svg_text

    try:
        figure = draw_plan(plan, made_of.topology, made_of.offers)
    except FedcoreError as error:
        # A plan and a map that do not belong together, such as after somebody copied files.
        log.warning("report: %s", error)
        return []
    note = "Each disc is a participant at its site, each ring an aggregator; colours of lines are latency circles"
    drawn = [
        _picture(svg_text(figure, title_of(plan), prefix="plan-"), f"Plan {plan.version} on its map", note)
    ]
    return [*drawn, *_front(plan, made_of)]


def _front(plan: Plan, made_of: MadeOf) -> list[Markup]:
    from fedcore.network.draw_front import draw_front, front_title
    from fedcore.network.front import pareto, point_of
    from fedcore.network.svg import svg_text

    if len(made_of.offers) > MOST_OFFERS:
        command = element("code", "fedcore network show RUN --pareto --out front.svg")
        return [element("p", "What other weights would have cost is drawn by ", command, ".", class_="quiet")]
    policy = made_of.policy
    try:
        points = pareto(plan, made_of.offers, made_of.topology, policy, steps=STEPS)
    except FedcoreError as error:
        log.warning("report: no front: %s", error)
        return []
    figure = draw_front(points, point_of(plan, policy), currency=policy.currency, basis=policy.carbon.basis)
    note = "The same offers placed by other weights of time, carbon and cost; hard constraints hold in all"
    title = front_title(plan, points)
    return [_picture(svg_text(figure, title, prefix="front-"), "What else it could have cost", note)]


def _picture(svg: str, caption: str, note: str) -> Markup:
    # Written by matplotlib, which escapes; styles are attributes, which the page's policy allows.
    return element(
        "figure",
        element("figcaption", element("b", caption), element("span", note)),
        element("div", Markup(svg), class_="wide picture"),
    )


def _quality(plan: Plan, made_of: MadeOf | None) -> Markup:
    told, quality = plan.prediction, plan.quality
    currency = made_of.policy.currency if made_of is not None else ""
    policy = f" by policy {made_of.policy.name}" if made_of is not None else ""
    circles = ", ".join(f"{name} {count}" for name, count in told.circles.items())
    cause = "" if plan.cause == "first" else f", made because of: {plan.cause}"
    proven = ""
    if quality.gap is not None:
        proven = f" The plan is proven to be within {quality.gap:.2%} of (random − bound)."
    work = bytes_text((plan.work.down_mb + plan.work.up_mb) * 1e6)
    return element(
        "p",
        f"Plan {plan.version}{policy}{cause}. Predicted for a round: {seconds_text(told.round_s)}, "
        f"{_small(told.kwh)} kWh, {_small(told.gco2_location)} g CO2 by the grid ({_small(told.gco2_market)} by contracts), "
        f"{_small(told.cost)} {currency}; {work} travel for each participant. Latency circles: {circles}. Objective "
        f"{metric_text(quality.objective)}, of random placements {metric_text(quality.random)}.{proven}",
    )


def _participants(plan: Plan, made_of: MadeOf | None) -> Markup:
    rows: list[list[object]] = []
    for one in plan.participants[:MOST_ROWS]:
        circle = (
            made_of.topology.circle(one.site, one.aggregator)
            if _mapped(one.site, one.aggregator, made_of) and made_of
            else "–"
        )
        rows.append(
            [
                short(one.owner, 40),
                short(one.node, 40),
                one.site,
                one.aggregator,
                f"{circle}, {one.expected.latency_ms:.3g} ms",
                seconds_text(one.expected.seconds),
                _small(one.expected.gco2_location),
                _small(one.expected.cost),
            ]
        )
    head = ["Participant", "node", "site", "aggregator", "circle", "predicted", "g CO2", "cost"]
    return element("div", table(head, rows, words=5), _rest(len(plan.participants), "plan.json"))


def _mapped(site: str, aggregator: str, made_of: MadeOf | None) -> bool:
    return made_of is not None and {site, aggregator} <= set(made_of.topology.sites)


def _aggregators(plan: Plan) -> Markup:
    rows: list[list[object]] = [
        [one.site, "open", count_text(one.children), count_text(one.capacity), seconds_text(one.without)]
        for one in plan.aggregators
    ]
    rows += [[site, "standby", "", "", ""] for site in plan.standby]
    head = ["Aggregator", "", "adds up", "has room for", "a round without it"]
    return element("div", element("h3", "Its aggregators"), table(head, rows, words=2))


def _rounds(told: Placements) -> list[Markup]:
    shown = told.rounds if len(told.rounds) <= MOST_ROWS else told.rounds[-MOST_ROWS:]
    rows = [_round(each) for each in shown]
    head = ["Round", "plan", "took part", "predicted", "measured", "measured is"]
    note = "" if told.error is None else f"The prediction is {told.error:.0%} off in the mean. "
    note += "Measured from the first message of training to the last reply."
    return [
        element("h3", "Predicted and measured"),
        table(head, rows, words=1),
        _rest(len(told.rounds), "result.json"),
        element("p", note, class_="quiet"),
    ]


def _round(each: PlacedRound) -> list[object]:
    gap = "–"
    if each.predicted_s is not None and each.actual_s is not None:
        more = each.actual_s - each.predicted_s
        gap = f"{seconds_text(abs(more))} {'longer' if more >= 0 else 'shorter'}"
    return [
        str(each.number),
        count_text(each.version),
        count_text(len(each.participants)),
        seconds_text(each.predicted_s),
        seconds_text(each.actual_s),
        gap,
    ]


_WHAT = {"plan": "a plan", "refused": "a lease was refused", "lost": "something was lost"}


def _events(told: Placements) -> list[Markup]:
    if all(each.what == "plan" and each.said == "plan 1: first" for each in told.events):
        return []
    rows: list[Sequence[object]] = [
        [str(each.round), _WHAT.get(each.what, each.what), short(each.who, 40), short(each.said, 300)]
        for each in told.events[:MOST_ROWS]
    ]
    listed = table(["Round", "what", "who", "why"], rows, words=4)
    return [element("h3", "What happened to the plan"), listed, _rest(len(told.events), "result.json")]


def _left_out(told: Placements) -> list[Markup]:
    if not told.left_out:
        return []
    rows = [
        [short(owner, 40), short(name, 60), short(why, 300)] for owner, name, why in told.left_out[:MOST_ROWS]
    ]
    listed = table(["Owner", "offer", "why it was left out"], rows, words=3)
    return [element("h3", "Offers that could not be used"), listed, _rest(len(told.left_out), "result.json")]


def _rest(count: int, file: str) -> Markup:
    if count <= MOST_ROWS:
        return Markup("")
    return element("p", f"{count_text(count - MOST_ROWS)} more stand in {file}.", class_="quiet")


def _small(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
