"""Words about placement that the terminal and the report share."""

from __future__ import annotations

from fedcore.coordinator.record_placement import Placements
from fedcore.drawing.numbers import number_word, people, seconds_text

FEW = 6


def placed_text(told: Placements, members: int | None) -> str:
    """Who took part and where updates were added up."""
    everybody, last = told.everybody, told.last
    of = f" of {number_word(members)}" if members and members > len(everybody) else ""
    names = ""
    if of and len(everybody) <= FEW:
        names = f" ({', '.join(everybody)})"
    sites = list(last.aggregators)
    where = f"at {', '.join(sites)}" if len(sites) <= FEW else f"at {len(sites)} sites"
    plans = len({each.version for each in told.rounds})
    count = f"{number_word(plans)} plan{'s' * (plans != 1)}"
    if of:
        return f"{number_word(len(everybody))}{of} participants took part{names} by {count}, added up {where}"
    return f"{people(len(everybody))} took part by {count}, added up {where}"


def time_text(told: Placements) -> str:
    """Predicted and measured seconds of a round; empty where nothing was measured."""
    predicted, actual = told.mean("predicted_s"), told.mean("actual_s")
    if predicted is None or actual is None:
        return ""
    count = sum(each.actual_s is not None for each in told.rounds)
    mean = f", mean of {people(count, 'round')}" if count > 1 else ""
    return f"a round was predicted to take {seconds_text(predicted)} and took {seconds_text(actual)}{mean}"


def events_text(told: Placements) -> str:
    """How often the plan broke; empty where it did not."""
    refused = sum(each.what == "refused" for each in told.events)
    repaired = sum(" lost" in each.said for each in told.events if each.what == "plan")
    said = [people(refused, "lease") + " refused"] if refused else []
    said += [people(repaired, "plan") + " repaired"] if repaired else []
    return " and ".join(said)
