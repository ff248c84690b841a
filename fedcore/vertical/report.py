"""One party's report of a vertical job: one HTML file that opens offline, and its tables as CSV and JSON."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from fedcore.drawing.markup import Markup, element
from fedcore.drawing.page import document, facts_list
from fedcore.vertical import report_account as account
from fedcore.vertical import report_card as card
from fedcore.vertical import report_data as data
from fedcore.vertical import report_opening as opening
from fedcore.vertical import report_quality as quality
from fedcore.vertical import report_uplift as uplift
from fedcore.vertical import report_variables as variables
from fedcore.vertical.report_tables import write_tables
from fedcore.vertical.results import PARTNER, PartyResult


def write_report(folder: Path, result: PartyResult) -> Path:
    """Write `report.html` and `tables/`, replacing older ones.

    Args:
        folder: Where; made when it is not there.
        result: What one party knows.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(folder / "tables", result)
    path, unfinished = folder / "report.html", folder / ".report.html.part"
    unfinished.write_text(render(result), encoding="utf-8")
    os.replace(unfinished, path)
    return path


def render(result: PartyResult) -> str:
    """The page of one party."""
    style = resources.files("fedcore.vertical").joinpath("report.css").read_text(encoding="utf-8")
    title = f"{result.job.name}: {result.party} · fedcore report"
    return document(title, [_opening(result), *_sections(result), _colophon(result)], style)


def _sections(result: PartyResult) -> list[Markup]:
    of_labels = (uplift.uplift, quality.ranking, quality.deciles, uplift.challengers, quality.stability)
    return [
        *(part(result) for part in of_labels if result.role != PARTNER),
        data.match(result),
        data.split(result),
        variables.variables(result),
        variables.correlations(result),
        card.coefficients(result),
        card.scorecards(result),
        quality.training(result),
        account.protocols(result),
        account.leakage(result),
        account.costs(result),
        account.inputs(result),
        account.parameters(result),
    ]


def _opening(result: PartyResult) -> Markup:
    label = element(
        "p", element("b", "fedcore"), f" · report for {result.party}, {result.role}", class_="label"
    )
    return element(
        "header",
        label,
        element("h1", result.job.name),
        element("p", opening.headline(result), class_="lede"),
        facts_list(opening.facts(result)),
    )


def _colophon(result: PartyResult) -> Markup:
    run = f"Run {result.job.run}. " if result.job.run else ""
    words = "Every table of this page stands in tables/ beside it, as CSV and JSON."
    return element("footer", element("p", f"{run}{words} This page loads nothing and runs no script."))
