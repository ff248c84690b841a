"""The top of the report: the sentence that the business reads, and the first numbers."""

from __future__ import annotations

from fedcore.drawing.numbers import (
    bytes_text,
    count_text,
    difference_text,
    metric_text,
    people,
    percent_text,
    seconds_text,
)
from fedcore.vertical import metrics
from fedcore.vertical.evaluation import APPROVE, against_own, figure_title, figures, main_part, scored
from fedcore.vertical.results import PARTNER, PartyResult

PART_WORDS = {"test": "kept for testing", "out of time": "of the later time", "train": "of the training"}


def headline(result: PartyResult) -> str:
    """The result in two sentences."""
    if result.role == PARTNER:
        return _partner(result)
    found = [each for each in scored(result, main_part(result)) if not each.own]
    if not found:
        return f"{_who(result)} matched {count_text(result.match.matched)} rows; no model was trained."
    champion = found[0]
    rows = f"{count_text(len(champion.labels))} rows {PART_WORDS[champion.part]}"
    pair = against_own(result)
    if pair is None:
        reached = [pair for pair in figures(champion).items() if pair[0] != "gini"][:2]
        told = " and ".join(f"{figure_title(name)} {metric_text(value, 3)}" for name, value in reached)
        return f"On the {rows}, the model of {_who(result)} reached {told}."
    joint, own = pair
    gain = metrics.auc_difference(joint.labels, joint.scores, own.scores)
    low, high = gain.interval
    how = "better than" if low > 0 else "worse than" if high < 0 else "not measurably better than"
    areas = [metrics.auc(each.labels, each.scores) for each in pair]
    sentence = (
        f"On the {rows}, {_who(result)} together tell bad from good {how} {result.party} alone: "
        f"AUC {metric_text(areas[0], 3)} against {metric_text(areas[1], 3)} "
        f"({difference_text(gain.value, 3)}; 95\u202f% interval {difference_text(low, 3)} to {difference_text(high, 3)})."
    )
    swap = metrics.swap_set(joint.labels, joint.scores, own.scores, APPROVE)
    rates = swap.old_bad / swap.approved, swap.new_bad / swap.approved
    verb = "falls" if rates[1] < rates[0] else "rises" if rates[1] > rates[0] else "stays"
    moved = f"from {percent_text(rates[0])} to {percent_text(rates[1])}" if verb != "stays" else "the same"
    return f"{sentence} When {percent_text(APPROVE, 0)} are approved, the bad rate of the approved {verb} {moved}."


def facts(result: PartyResult) -> list[tuple[str, str, str]]:
    """Name, value and note of the first numbers."""
    rate = result.match.matched / result.match.rows if result.match.rows else None
    seconds = sum(each.seconds for each in result.costs) if result.costs else None
    traffic = sum(each.sent + each.received for each in result.costs) if result.costs else None
    kept = sum(each.kept for each in result.variables)
    own = [each for each in result.variables if each.owner == result.party]
    found = [
        ("Matched rows", count_text(result.match.matched), f"{percent_text(rate)} of own" if rate else ""),
        ("Time", seconds_text(seconds), "at this party"),
        ("Traffic", bytes_text(traffic), "both ways"),
    ]
    if result.role == PARTNER:
        stay = sum(each.kept for each in own)
        return [found[0], ("Variables", str(stay), f"used of {len(own)}"), *found[1:]]
    head = _figures(result)
    bads, rows = sum(each.bad or 0 for each in result.split), sum(each.rows for each in result.split)
    known = bool(result.split) and all(each.bad is not None for each in result.split)
    bad_rate = ("Bad rate", percent_text(bads / rows) if known and rows else "–", "of matched rows")
    used = ("Variables", str(kept) if result.variables else "–", f"used of {len(result.variables)}")
    parties = ("Parties", count_text(len(result.job.parties) or None), "")
    return [*head, found[0], bad_rate, used, parties, *found[1:]]


def _figures(result: PartyResult) -> list[tuple[str, str, str]]:
    found = [each for each in scored(result, main_part(result)) if not each.own]
    if not found:
        return []
    values = list(figures(found[0]).items())
    chosen = (
        [pair for pair in values if pair[0] != "gini"][:2]
        if found[0].model.target == "binary"
        else values[:2]
    )
    pair = against_own(result)
    shown = []
    for name, value in chosen:
        alone = figures(pair[1]).get(name) if pair else None
        note = f"{metric_text(alone, 3)} alone" if alone is not None else f"{found[0].name}, {found[0].part}"
        shown.append((figure_title(name), metric_text(value, 3), note))
    return shown


def _partner(result: PartyResult) -> str:
    own = [each for each in result.variables if each.owner == result.party]
    used = sum(each.kept for each in own)
    holder = result.job.parties[0].name if result.job.parties else "the label holder"
    trained = people(len(result.models), "model")
    models = f"{trained} with {holder}" if result.models else f"no model with {holder}"
    return (
        f"{result.party} brought {count_text(used)} of its {people(len(own), 'variable')} about "
        f"{count_text(result.match.matched)} matched rows to {models}. The labels stayed at {holder}, "
        f"and {result.party}’s columns stayed here."
    )


def _who(result: PartyResult) -> str:
    names = [each.name for each in result.job.parties] or [result.party]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
