"""The report's tables as files: each as CSV for a spreadsheet and as JSON, with unrounded numbers."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedcore.vertical import metrics
from fedcore.vertical.evaluation import (
    APPROVALS,
    against_own,
    confusions,
    figures,
    main_part,
    scored,
    stability_of,
)
from fedcore.vertical.report_account import flat
from fedcore.vertical.report_variables import bin_labels
from fedcore.vertical.results import PartyResult, VariableFacts

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class Sheet:
    """A table: names of its columns, and its rows."""

    head: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


def sheets(result: PartyResult) -> dict[str, Sheet]:
    """All tables that have rows, by name."""
    found = {**_rows(result), **_variables(result), **_models(result), **_account(result)}
    return {name: sheet for name, sheet in found.items() if sheet.rows}


def write_tables(folder: Path, result: PartyResult) -> list[Path]:
    """Write `NAME.csv` and `NAME.json` of every table; those of an earlier report in the folder are removed.

    In CSV a text that a spreadsheet would run as a formula has an apostrophe in front.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.csv"), *folder.glob("*.json")]:
        old.unlink()
    paths = []
    for name, sheet in sheets(result).items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_safe(each) for each in sheet.head)
        writer.writerows([_safe(each) for each in row] for row in sheet.rows)
        records = [dict(zip(sheet.head, map(_finite, row), strict=True)) for row in sheet.rows]
        written = json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False)
        for path, content in (
            (folder / f"{name}.csv", text.getvalue()),
            (folder / f"{name}.json", f"{written}\n"),
        ):
            unfinished = path.with_name(f".{path.name}.part")
            unfinished.write_text(content, encoding="utf-8")
            os.replace(unfinished, path)
            paths.append(path)
    return paths


def _rows(result: PartyResult) -> dict[str, Sheet]:
    found = result.match
    brought = {result.party: found.rows, **found.others}
    return {
        "match": Sheet(
            ("party", "rows", "matched", "match_rate"),
            [
                (name, rows, found.matched, found.matched / rows if rows else None)
                for name, rows in brought.items()
            ],
        ),
        "match_groups": Sheet(
            ("group", "rows", "matched", "match_rate"),
            [(e.name, e.rows, e.matched, e.matched / e.rows if e.rows else None) for e in found.groups],
        ),
        "split": _split(result),
    }


def _split(result: PartyResult) -> Sheet:
    if all(each.bad is None for each in result.split):
        return Sheet(("part", "rows"), [(each.name, each.rows) for each in result.split])
    rows = [
        (each.name, each.rows, each.bad, None if each.bad is None or not each.rows else each.bad / each.rows)
        for each in result.split
    ]
    return Sheet(("part", "rows", "bad", "bad_rate"), rows)


def _variables(result: PartyResult) -> dict[str, Sheet]:
    found = {
        "variables": Sheet(
            ("variable", "party", "kept", "reason", "bins", "missing", "iv", "vif"),
            [
                (e.name, e.owner, e.kept, e.reason, len(bin_labels(e)), e.missing, e.iv, e.vif)
                for e in result.variables
            ],
        ),
        "variable_stability": Sheet(
            ("variable", "party", "part", "psi"),
            [(e.name, e.owner, part, value) for e in result.variables for part, value in e.stability.items()],
        ),
        "bins": _bins(result),
    }
    if result.correlations is not None:
        names, values = result.correlations.names, result.correlations.values
        rows: list[Sequence[Cell]] = [
            [name, *line.tolist()] for name, line in zip(names, values, strict=True)
        ]
        found["correlations"] = Sheet(("variable", *names), rows)
    return found


def _bins(result: PartyResult) -> Sheet:
    labelled = any(each.bad is not None for each in result.variables)
    parts = list(dict.fromkeys(part for each in result.variables for part in each.rows))
    rows = [
        (each.name, each.owner, label, *_bin(each, place, parts, labelled))
        for each in result.variables
        for place, label in enumerate(bin_labels(each))
    ]
    counted = ("good", "bad", "bad_rate") if labelled else ()
    return Sheet(("variable", "party", "bin", *(f"rows_{part}" for part in parts), "woe", *counted), rows)


def _bin(each: VariableFacts, place: int, parts: Sequence[str], labelled: bool) -> list[Cell]:
    found: list[Cell] = [each.rows[part][place] if part in each.rows else None for part in parts]
    found.append(None if each.woe is None else each.woe[place])
    if labelled:
        good, bad = (None if values is None else values[place] for values in (each.good, each.bad))
        rate = None if good is None or bad is None or good + bad == 0 else bad / (good + bad)
        found += [good, bad, rate]
    return found


def _models(result: PartyResult) -> dict[str, Sheet]:
    champion = [each for each in scored(result, main_part(result)) if not each.own and each.binary][:1]
    groups = [group for each in champion for group in metrics.groups(each.labels, each.scores)]
    pair = against_own(result)
    swaps = (
        [metrics.swap_set(pair[0].labels, pair[0].scores, pair[1].scores, a) for a in APPROVALS]
        if pair
        else []
    )
    return {
        "metrics": Sheet(
            ("model", "scores", "part", "rows", "figure", "value"),
            [
                (e.model.name, "own" if e.own else "joint", e.part, len(e.labels), name, value)
                for e in scored(result)
                for name, value in figures(e).items()
            ],
        ),
        "groups": Sheet(
            (
                "group",
                "low",
                "high",
                "mean",
                "rows",
                "bad",
                "bad_rate",
                "lift",
                "gain",
                "cumulative_lift",
                "ks",
            ),
            [
                (
                    i + 1,
                    g.low,
                    g.high,
                    g.mean,
                    g.rows,
                    g.bad,
                    g.bad_rate,
                    g.lift,
                    g.gain,
                    g.cumulative_lift,
                    g.ks,
                )
                for i, g in enumerate(groups)
            ],
        ),
        "swap_set": Sheet(
            ("approve", "approved", "bad_alone", "bad_joint", "in", "in_bad", "out", "out_bad"),
            [(s.approve, s.approved, s.old_bad, s.new_bad, *s.swapped_in, *s.swapped_out) for s in swaps],
        ),
        "cut_offs": Sheet(
            (
                "cut_off",
                "true_bad",
                "false_bad",
                "true_good",
                "false_good",
                "precision",
                "recall",
                "false_rate",
                "f1",
            ),
            [
                (
                    c.cutoff,
                    c.true_bad,
                    c.false_bad,
                    c.true_good,
                    c.false_good,
                    c.precision,
                    c.recall,
                    c.false_rate,
                    c.f1,
                )
                for each in champion
                for c in confusions(each)
            ],
        ),
        "score_stability": Sheet(
            ("model", "part", "psi"),
            [(m.name, part, psi) for m in result.models for part, psi in stability_of(result, m).items()],
        ),
        "coefficients": Sheet(
            ("model", "party", "variable", "coefficient", "standard_error", "p_value", "sign_ok"),
            [
                *(
                    (m.name, result.party, "(intercept)", m.intercept, None, None, None)
                    for m in result.models
                    if m.intercept
                ),
                *(
                    (m.name, e.owner, e.name, e.value, e.standard_error, e.p_value, e.sign_ok)
                    for m in result.models
                    for e in m.coefficients
                ),
            ],
        ),
        "scorecard": Sheet(
            ("model", "variable", "bin", "points"),
            [
                (m.name, v.name, label, points)
                for m in result.models
                if m.card is not None
                for v in m.card.variables
                for label, points in zip(v.labels, v.points, strict=True)
            ],
        ),
        "importances": Sheet(
            ("model", "party", "variable", "splits", "gain"),
            [(m.name, e.owner, e.name, e.splits, e.gain) for m in result.models for e in m.importances],
        ),
        "leakage_audit": Sheet(
            ("model", "attack", "auc", "note"),
            [(m.name, e.attack, e.auc, e.note) for m in result.models for e in m.attacks],
        ),
    }


def _account(result: PartyResult) -> dict[str, Sheet]:
    return {
        "costs": Sheet(
            ("step", "seconds", "sent", "received"),
            [(e.step, e.seconds, e.sent, e.received) for e in result.costs],
        ),
        "protocols": Sheet(
            ("step", "protocol", "parameter", "value"),
            [
                (e.step, e.name, name, value)
                for e in result.protocols
                for name, value in (e.parameters or {"": ""}).items()
            ],
        ),
        "hashes": Sheet(("what", "sha256"), list(result.hashes.items())),
        "parameters": Sheet(("setting", "value"), list(flat(result.job.settings))),
    }


def _safe(value: Cell) -> Cell:
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
    return _finite(value)


def _finite(value: Cell) -> Cell:
    return None if isinstance(value, float) and not math.isfinite(value) else value
