"""A small scorecard, a linear model and an ensemble of a bank and two partners, and their customers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from crypto.psi.items import ItemRules, keys_of
from fedcore.jobs.vertical import Scorecard
from fedcore.vertical.binning import Bins
from fedcore.vertical.keyed_rows import KeyedRows
from fedcore.vertical.linear_part import LinearPart, Term
from fedcore.vertical.package import About, Package
from fedcore.vertical.scorecard import Card, CardVariable
from fedcore.vertical.table import Table

BANK, TELECOM, SHOP = "bank-a", "telecom-b", "shop-c"
ROWS = 60
rng = np.random.default_rng(5)
COLUMNS: dict[str, dict[str, Any]] = {
    BANK: {"income": rng.normal(size=ROWS)},
    TELECOM: {"calls": rng.normal(size=ROWS), "plan": np.array(["a", "b", None] * 20, dtype=object)},
    SHOP: {"spent": rng.normal(size=ROWS)},
}
COLUMNS[TELECOM]["calls"][3] = np.nan
NUMBERS = Bins(numeric=True, edges=(-0.5, 0.5))
PLANS = Bins(numeric=False, groups=(("a",), ("b",)))
POINTS = {
    "income": (250, 300, 350, 290),
    "calls": (-20, 1, 20, -7),
    "plan": (5, -5, -30),
    "spent": (3, 2, 1, 0),
}


def bins_of(name: str) -> Bins:
    return PLANS if name == "plan" else NUMBERS


def items_of(names: Any) -> Any:
    return keys_of([pa.array(names)], ItemRules()).blocks


CUSTOMERS = [f"person-{i}" for i in range(ROWS)]


def about(party: str, partners: tuple[str, ...] = (TELECOM,), **changed: Any) -> About:
    told: dict[str, Any] = {
        "party": party,
        "role": "label holder" if party == BANK else "partner",
        "run": "run-1",
        "model": "champion",
        "kind": "scorecard",
        "holder": BANK,
        "partners": partners,
        "data": "customers",
        "key": ("person",),
        "items": {"trim": False, "fold_case": False},
        "columns": tuple(COLUMNS[party]),
        **changed,
    }
    return About(**told)


def card(party: str) -> Card:
    made = [CardVariable(name, bins_of(name), POINTS[name], 0) for name in COLUMNS[party]]
    return Card(Scorecard(), tuple(made))


def linear(party: str) -> LinearPart:
    terms = []
    for place, name in enumerate(COLUMNS[party]):
        if name == "plan":
            terms.append(Term(name, 0.7, PLANS, (0.5, -0.25, 1.0)))
        else:
            terms.append(Term(name, 0.3 + place, mean=0.1, scale=2.0))
    return LinearPart(tuple(terms), -1.25 if party == BANK else 0.0)


def package(party: str, partners: tuple[str, ...] = (TELECOM,), **changed: Any) -> Package:
    told = about(party, partners, **changed)
    part = linear(party) if told.kind == "linear" else card(party)
    return Package(told, part.as_dict())


def table(party: str, rows: Any = slice(None)) -> Table:
    columns = {name: values[rows] for name, values in COLUMNS[party].items()}
    return Table(columns, np.zeros(len(next(iter(columns.values()))), dtype=np.int8))


def keyed(party: str, known: int = ROWS) -> KeyedRows:
    """The party's first customers, in another order than the bank's."""
    order = np.arange(known)[::-1]
    items = items_of([CUSTOMERS[i] for i in order])
    columns = {name: values[order] for name, values in COLUMNS[party].items()}
    return KeyedRows(items, np.arange(known), columns)
