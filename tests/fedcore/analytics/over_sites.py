"""Data sets cut over sites, and fits over them: what a coordinator will do, with sums in the clear."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.analytics import cox, cox_pooled, glm
from fedcore.analytics.sums import Sums, add, form

Site = dict[str, Any]
LUNG = Path(__file__).resolve().parents[3] / "configs" / "federations" / "data" / "lung.csv"
NO_HOSPITAL = ("", "329", "1", "69", "1", "2", "70", "80", "713", "20")


def lung() -> Site:
    """Survival of 228 patients with lung cancer at 18 institutions (one patient has none); NaN where missing.

    North Central Cancer Treatment Group: Loprinzi et al., Journal of Clinical Oncology 12, 1994; as in lifelines, with
    status 1 for a death.
    """
    with LUNG.open() as file:
        rows = list(csv.DictReader(file))
    # The file holds the patients of the hospitals.
    rows.insert(155, dict(zip(rows[0], NO_HOSPITAL, strict=True)))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def pick(data: Site, rows: Any) -> Site:
    """Some rows."""
    return {name: np.asarray(each)[rows] for name, each in data.items()}


def complete(data: Site, *names: str) -> Site:
    """The rows that have all of these."""
    return pick(data, ~np.isnan(np.stack([data[name] for name in names])).any(axis=0))


def split(data: Site, places: Any) -> list[Site]:
    """A site for each place, 0 to the highest; rows by their place."""
    places = np.asarray(places)
    return [pick(data, places == place) for place in range(int(places.max(initial=0)) + 1)]


def thirds(data: Site) -> list[Site]:
    """One site with a row, one with none, two that share the rest."""
    places = np.arange(len(next(iter(data.values())))) % 2 + 2
    places[0] = 0
    return split(data, places)


def total(parts: list[Sums]) -> Sums:
    """Added, after a look that nothing but counts and sums stands there."""
    for each in parts:
        assert {kind for kind, _ in form(each).values()} <= {"int64", "float64"}
    return add(parts)


def fit_glm(sites: list[Site], asked: glm.Regression, **keywords: Any) -> glm.RegressionResult:
    state = glm.combine_start(total([glm.partial_start(site, asked) for site in sites]), asked)
    while True:
        sums = total([glm.partial_step(site, asked, state) for site in sites])
        state = glm.combine_step(sums, asked, state)
        if state.done:
            return glm.result(sums, asked, state, **keywords)


def fit_cox(sites: list[Site], asked: cox.Cox, **keywords: Any) -> cox.CoxResult:
    start = total([cox.partial_start(site, asked) for site in sites])
    state = cox.combine_start(start, asked)
    times, events = cox_pooled.event_times(start, asked) if asked.grid else (np.empty(0), np.empty(0, int))
    while not state.done:
        if asked.grid:
            first = total([cox_pooled.partial_risk(site, asked, state, times) for site in sites])
            risk = cox_pooled.combine_risk(first, asked, events)
            second = total([cox_pooled.partial_spread(site, asked, state, times, risk) for site in sites])
            state = cox_pooled.combine_spread(second, first, risk, state)
        else:
            state = cox.combine_stratified(
                total([cox.partial_stratified(site, asked, state) for site in sites]), state
            )
    return cox.result(start, asked, state, **keywords)


def estimates(found: Any) -> np.ndarray:
    return np.array([each.estimate for each in found.coefficients])


def errors(found: Any) -> np.ndarray:
    return np.array([each.error for each in found.coefficients])


def p_values(found: Any) -> np.ndarray:
    return np.array([each.p for each in found.coefficients])
