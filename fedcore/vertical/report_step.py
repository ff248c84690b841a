"""Step `report`: what a party shows of the job (`report.html`, `tables/`), and what it scores with later (`packages/`).

Everything here comes from the party's own folders; nothing is sent.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedcore.jobs.reveals import is_binary, learned_by
from fedcore.jobs.vertical import Boosting, Logistic, SplitNetwork
from fedcore.vertical import results
from fedcore.vertical.evidence import codes_of
from fedcore.vertical.model_step import CARD, MODEL_FILE, OWN, PART
from fedcore.vertical.pipeline import SELECTION, Party
from fedcore.vertical.protocols import protocol_of
from fedcore.vertical.score_step import SCORES
from fedcore.vertical.scorecard import Card
from fedcore.vertical.selection_rules import Selection
from fedcore.vertical.state import read_json, write_json
from fedcore.vertical.steps import MODEL, SCORE
from fedcore.vertical.table import OUT_OF_TIME, PARTS, TEST, TRAIN, Table

RESULT = "result.json"
PACKAGES = "packages"
COST = "cost.json"
EXAMPLES = 3

Floats = npt.NDArray[np.float64]
_LEARNED = {
    "rows": "{who} learned which of its rows match rows of {owner}.",
    "woe": "{who} learned the weights of evidence of its own bins, from which the bad rates of these bins follow.",
    "totals": "{who} learned sums over the rows of each bin of the columns of {owner}, without names and limits.",
    "correlation": "{who} learned how the columns of {owner} correlate, among each other and with its own.",
    "splits": "{who} learned which rows go to which side of the tree splits of {owner}, without columns and limits, and so "
    "which rows share a leaf.",
    "activations": "{who} learned, for each row, what the half of {owner} of the split network sends: outputs of a bottom "
    "half, or gradients.",
    "scores": "{who} learned what {owner} adds to the score of each row.",
}


def report(party: Party) -> None:
    """Write the party's result, report and models to the step's folder."""
    from fedcore.vertical.report import write_report

    party.watch("writing the report", 0, 0)
    hashes = dict(party.hashes)
    for name in party.job.models:
        hashes[f"model {name}"] = _package(party, name)
    found = result_of(party, hashes)
    write_json(party.folder / RESULT, found.as_dict())
    write_report(party.folder, found)


def result_of(party: Party, hashes: Mapping[str, str]) -> results.PartyResult:
    """All that the party's report shows.

    Args:
        party: Whose.
        hashes: What to SHA-256 in hex.
    """
    from fedcore import __version__

    parts = _parts(party.table)
    holder = party.job.label.party
    role = results.LABEL_HOLDER if party.holds else results.PARTNER
    binned = is_binary(party.job)
    labels = (
        {name: party.table.label[rows] for name, rows in parts.items()}
        if party.table.label is not None
        else None
    )
    return results.PartyResult(
        party=party.name,
        role=role,  # type: ignore[arg-type]
        job=results.JobFacts(
            name=party.job.name,
            purpose=party.job.purpose,
            parties=tuple(
                results.PartyFacts(
                    name=name,
                    role=results.LABEL_HOLDER if name == holder else results.PARTNER,  # type: ignore[arg-type]
                    data=party.job.parties[name].data,
                    keys=party.job.parties[name].keys,
                    columns=_columns(party, name),
                )
                for name in (holder, *party.job.partners)
            ),
            label_column=party.job.label.column,
            settings=party.job.model_dump(mode="json", by_alias=True),
            run=party.run,
        ),
        match=party.match,
        split=tuple(
            results.PartFacts(
                name,
                len(rows),
                int(labels[name].sum()) if labels is not None and binned else None,
            )
            for name, rows in parts.items()
        ),
        variables=_variables(party, parts) if binned else (),
        models=tuple(_model(party, name, parts) for name in party.job.models),
        labels=labels,
        correlations=_correlations(party.selection()) if binned else None,
        protocols=tuple(
            found for step in party.state.steps if (found := protocol_of(step, party.job)) is not None
        ),
        leakage=_leakage(party),
        hashes=dict(hashes),
        versions={"fedcore": __version__, "Python": platform.python_version(), "numpy": np.__version__},
        costs=tuple(_costs(party)),
    )


def _parts(table: Table) -> dict[str, npt.NDArray[np.intp]]:
    """Rows of each part that has some."""
    found = {PARTS[part]: table.rows(part) for part in (TRAIN, TEST, OUT_OF_TIME)}
    return {name: rows for name, rows in found.items() if len(rows)}


def _columns(party: Party, name: str) -> int | None:
    if name == party.name:
        return len(party.table.columns)
    columns = party.job.parties[name].columns
    return None if columns is None else len(columns)


def _final(party: Party) -> Selection:
    """The selection of the champion, from which variables may have gone after a fit."""
    champion = party.state.of(MODEL + next(iter(party.job.models))) / SELECTION
    return Selection.from_dict(read_json(champion)) if champion.exists() else party.selection()


def _variables(party: Party, parts: Mapping[str, npt.NDArray[np.intp]]) -> tuple[results.VariableFacts, ...]:
    selection = _final(party)
    found = []
    for each in party.variables().variables:
        rows = {PARTS[TRAIN]: tuple(each.rows.tolist())}
        if each.bins is not None:
            codes = codes_of(party.table, each)
            rows = {
                name: tuple(np.bincount(codes[at], minlength=len(each.woe)).tolist())
                for name, at in parts.items()
            }
        vif = selection.vif.get(each.name)
        found.append(
            results.VariableFacts(
                owner=each.owner,
                name=each.name,
                labels=each.labels,
                rows=rows,
                good=None if each.good is None else tuple(each.good.tolist()),
                bad=None if each.bad is None else tuple(each.bad.tolist()),
                woe=tuple(each.woe.tolist()),
                iv=each.iv,
                missing=each.missing,
                stability=dict(selection.stability.get(each.name, {})),
                vif=vif,
                kept=each.name in selection.kept,
                reason=selection.reasons.get(each.name, ""),
                # Of categories no line is drawn: they have no order.
                regular=each.regular if each.ordered else 0,
            )
        )
    return tuple(found)


def _correlations(selection: Selection) -> results.Correlations:
    return results.Correlations(selection.correlated, selection.correlation)


def _model(party: Party, name: str, parts: Mapping[str, npt.NDArray[np.intp]]) -> results.ModelResult:
    settings = party.job.models[name]
    folder = party.state.of(MODEL + name)
    told = read_json(folder / MODEL_FILE)
    scores = own = None
    if party.holds:
        with np.load(party.state.of(SCORE) / SCORES) as kept:
            scores = {part: kept[name][rows] for part, rows in parts.items()}
        if (folder / OWN).exists():
            with np.load(folder / OWN) as kept:
                own = {part: kept["scores"][rows] for part, rows in parts.items()}
    return results.ModelResult(
        name=name,
        use=settings.use,
        target=_target(settings),
        settings=settings.model_dump(mode="json"),
        coefficients=tuple(
            results.CoefficientFacts(owner=party.name, **each) for each in told.get("coefficients", ())
        ),
        intercept=told.get("intercept"),
        iterations=told.get("iterations"),
        converged=told.get("converged"),
        trace=tuple(told.get("trace", ())),
        trace_name=str(told.get("trace_name", "")),
        importances=tuple(results.Importance(**each) for each in told.get("importances", ())),
        scores=scores,
        own_scores=own,
        card=_card(party, settings, folder / CARD, name, parts) if (folder / CARD).exists() else None,
        attacks=tuple(results.AttackFacts(**each) for each in told.get("attacks", ())),
        notes=_notes(party, settings, folder),
    )


def _target(settings: Logistic | Boosting | SplitNetwork) -> Any:
    if isinstance(settings, Logistic):
        return "binary" if settings.link == "logistic" else "number"
    if isinstance(settings, Boosting):
        return {"binary": "binary", "regression": "number", "multiclass": "classes"}[settings.loss]
    return "binary"


def _notes(party: Party, settings: Logistic | Boosting | SplitNetwork, folder: Any) -> tuple[str, ...]:
    if not isinstance(settings, Logistic):
        return ()
    notes = []
    if settings.scorecard is not None and party.holds:
        notes.append("Scores are those of the scorecard, in whole points, turned back into probabilities.")
    if (folder / SELECTION).exists():
        kept = Selection.from_dict(read_json(folder / SELECTION))
        before = party.selection()
        went = [name for name in before.kept if name not in kept.kept]
        if went:
            notes.append(f"After the fit these went for the sign of their coefficient: {', '.join(went)}.")
    return tuple(notes)


def _card(
    party: Party,
    settings: Logistic | Boosting | SplitNetwork,
    file: Any,
    name: str,
    parts: Mapping[str, npt.NDArray[np.intp]],
) -> results.CardFacts:
    made = Card.from_dict(read_json(file))
    rows = parts.get(PARTS[TEST], next(iter(parts.values())))[:EXAMPLES]
    few = Table({key: values[rows] for key, values in party.table.columns.items()}, party.table.part[rows])
    points = made.score(few).astype(np.float64)
    if party.holds:
        with np.load(party.state.of(SCORE) / SCORES) as kept:
            p = np.clip(kept[name][rows], 1e-15, 1 - 1e-15)
        from fedcore.vertical.scorecard import score_of

        points = np.rint(score_of(np.log(p / (1 - p)), made.settings))
    examples = tuple(
        results.ReasonExample(
            row=f"row {row} in the agreed order",
            score=float(score),
            reasons=tuple(f"{each.variable}: −{each.lost}" for each in reasons),
        )
        for row, score, reasons in zip(rows.tolist(), points.tolist(), made.reasons(few), strict=True)
    )
    return results.CardFacts(
        base=made.settings.base,
        odds=made.settings.odds,
        pdo=made.settings.pdo,
        variables=tuple(
            results.CardVariable(each.name, each.bins.labels, each.points) for each in made.variables
        ),
        examples=examples,
    )


def _leakage(party: Party) -> tuple[str, ...]:
    """Who learned what beyond its own results, as far as it concerns this party."""
    job, said = party.job, []
    for owner in (party.name, *(other for other in job.parties if other != party.name)):
        for what, who in learned_by(job, owner):
            if party.name in (owner, who):
                said.append(_LEARNED[what].format(who=who, owner=owner))
    if job.split.out_of_time is not None:
        said.append(f"All parties learned which rows are out of time, by a column of {job.label.party}.")
    if len(job.partners) > 1:
        said.append(
            f"{job.label.party} learned which of its rows match with each partner, also where not all parties have them."
        )
    said.append("The coordinator learned sizes, times and commitments, and no row, label, model or score.")
    return tuple(said)


def _costs(party: Party) -> list[results.StepCost]:
    found = []
    for step in party.state.steps:
        file = party.state.of(step) / COST
        if file.exists():
            told = read_json(file)
            found.append(
                results.StepCost(
                    step, float(told["seconds"]), int(told["bytes"]["sent"]), int(told["bytes"]["received"])
                )
            )
    return found


def _package(party: Party, name: str) -> str:
    """Keep what the party scores new customers with; SHA-256 of it."""
    from fedcore.vertical.network_part import Network
    from fedcore.vertical.package import About, Kind, Package, save_package
    from fedcore.vertical.split_part import SplitPart

    settings, job = party.job.models[name], party.job
    folder = party.state.of(MODEL + name)
    carded = isinstance(settings, Logistic) and settings.scorecard is not None
    arrays: Mapping[str, npt.NDArray[Any]] = {}
    kind: Kind = "scorecard" if carded else "linear"
    if isinstance(settings, SplitNetwork):
        network = Network(SplitPart.load(folder), tuple(party.table.columns))
        content, columns, arrays = network.as_dict(), list(network.columns), network.half.arrays
        kind = "split-network"
    else:
        content = read_json(folder / (CARD if carded else PART))
        if carded:
            columns = [each["name"] for each in content["variables"]]
        elif isinstance(settings, Boosting):
            columns, kind = list(content["columns"]), "boosting"
        else:
            columns = [each["column"] for each in content["terms"]]
    own = job.parties[party.name]
    about = About(
        party=party.name,
        role="label holder" if party.holds else "partner",
        run=party.run,
        model=name,
        kind=kind,
        holder=job.label.party,
        partners=job.partners,
        purpose=job.purpose,
        data=own.data,
        key=own.keys,
        items=job.items.model_dump(),
        columns=tuple(columns),
        inputs=dict(party.hashes),
    )
    return save_package(party.folder / PACKAGES / name, Package(about, content, arrays), party.identity)
