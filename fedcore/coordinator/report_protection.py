"""The report's section on secure aggregation: from whom updates were hidden, while what holds, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fedcore.coordinator.plots import stacked_bars
from fedcore.coordinator.record import Record
from fedcore.coordinator.record_protection import Exchange, Protected, Stage, protected
from fedcore.coordinator.wording_protection import (
    assumption_text,
    dropped_text,
    error_text,
    groups,
    how_text,
    learned_text,
    limits_text,
    outcome_text,
    promise_rows,
    small,
    stage_group,
    stage_text,
)
from fedcore.drawing.markup import Markup, element
from fedcore.drawing.numbers import bytes_text, count_text, people, seconds_text
from fedcore.drawing.page import figure, keys, section, short, table

_MOST_ROWS = 60
_MOST_ROUNDS = 200


def secure_aggregation(record: Record) -> Markup:
    """What was hidden from whom, how many dropped out, and what each stage cost; nothing where it was off."""
    told = protected(record.raw)
    if told is None:
        return Markup("")
    parts: list[object] = [element("p", how_text(told)), _facts(record, told)]
    if told.exchanges:
        parts += [*_failed(told), _plots(told), _stages(told), *_dropped(told), _rounds(told)]
    else:
        parts.append(element("p", "No exchange was made before the run stopped.", class_="quiet"))
    return section("Secure aggregation", *parts)


def differential_privacy(record: Record) -> Markup:
    """What was promised to each participant or row, by how much noise, and what of it was spent; nothing where it was off."""
    told = record.raw.get("privacy")
    if not isinstance(told, Mapping):
        return Markup("")
    rows = [
        element("tr", element("th", name, scope="row"), element("td", short(text, 300)))
        for name, text in promise_rows(told)
    ]
    if told.get("level") == "record":
        how = "In each step of training the gradient of each row was clipped and noise added, at the site, so that the model "
        how += "tells little about any one row. The number of rows of a site is taken as public."
    else:
        how = "Each update was clipped and noise added before it left its site, so that the model tells little about any one "
        how += "participant. PLD and RDP are upper bounds, Fourier an estimate to check them by."
    facts = element("table", element("tbody", *rows), class_="facts-table")
    return section("Differential privacy", element("p", how), facts)


def _facts(record: Record, told: Protected) -> Markup:
    rows = [
        ("Who learns what", learned_text(told)),
        ("Holds against", assumption_text(told)),
        *_trial(record),
        ("Does not hold against", _beyond(told)),
        ("Limits", limits_text(told)),
    ]
    if told.exchanges:
        outcome = outcome_text(told)
        rows += [
            ("Outcome", f"{outcome[0].upper()}{outcome[1:]}."),
            ("Dropped out", dropped_text(told)),
            ("Accuracy", error_text(told)),
        ]
    if told.opened_by:
        names = [short(name, 40) for name in told.opened_by[:_MOST_ROWS]]
        rows.append(("Opened by", ", ".join(names)))
    if told.blamed:
        rows.append(("Sent wrong shares", ", ".join(short(name, 40) for name in told.blamed[:_MOST_ROWS])))
    rows += _more(told.exchanges)
    made = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
    return element("table", element("tbody", *made), class_="facts-table")


def _trial(record: Record) -> list[tuple[str, str]]:
    if record.engine not in ("embedded", "simulation"):
        return []
    text = f"On engine {record.engine} keys are not signed, and one machine has all vectors: the protocol was run, and "
    return [("In this run", f"{text}nobody was kept from anything.")]


def _beyond(told: Protected) -> str:
    models = "a coordinator that sends participants different models or settings, or asks again with another cohort and "
    models += "subtracts; nothing bounds what the mean itself tells"
    if told.protocol == "secagg+" or (
        told.protocol == "threshold" and told.asked.get("adversary") == "active"
    ):
        return f"{models[0].upper()}{models[1:]}."
    return f"A coordinator that does not follow the protocol; in particular {models}."


def _more(exchanges: Sequence[Exchange]) -> list[tuple[str, str]]:
    """What a protocol recorded beyond what all record: the last value, or the largest of a number."""
    found: dict[str, list[object]] = {}
    for each in exchanges:
        for name, value in each.more.items():
            if value not in (None, "", [], {}):
                found.setdefault(name, []).append(value)
    rows = []
    for name, values in found.items():
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == len(values):
            largest = max(numbers)
            text = count_text(largest) if isinstance(largest, int) else small(largest)
            text += ", at most" if len(set(numbers)) > 1 else ""
        else:
            last = values[-1]
            text = ", ".join(map(str, last)) if isinstance(last, list | tuple) else str(last)
        rows.append((name.replace("_", " ").capitalize()[:60], short(text, 300)))
    return rows


def _failed(told: Protected) -> list[Markup]:
    if not told.failed:
        return []
    intro = f"{people(len(told.failed), 'exchange').capitalize()} gave no sum: the coordinator learned nothing from "
    intro += f"{'it' if len(told.failed) == 1 else 'them'}, and the next round could go on."
    rows = [[str(e.round), e.phase, short(e.failed, 300)] for e in told.failed[:_MOST_ROWS]]
    made = [element("p", intro, class_="notice warn"), table(["Round", "exchange", "why"], rows, words=3)]
    if len(told.failed) > _MOST_ROWS:
        made.append(
            element("p", f"{len(told.failed) - _MOST_ROWS} more stand in result.json.", class_="quiet")
        )
    return made


def _plots(told: Protected) -> Markup:
    numbers = sorted({each.round for each in told.exchanges})
    kinds = groups([stage.name for stage in told.stages])

    def seconds(stage: Stage) -> float:
        return stage.seconds

    def traffic(stage: Stage) -> float:
        return stage.down + stage.up

    return element(
        "div",
        _plot("Time by stage", numbers, kinds, told, seconds, seconds_text),
        _plot("Traffic by stage", numbers, kinds, told, traffic, bytes_text),
        class_="multiples",
    )


def _plot(
    title: str,
    numbers: Sequence[int],
    kinds: Sequence[str],
    told: Protected,
    amount: Callable[[Stage], float],
    text: Callable[[float | None], str],
) -> Markup:
    values = {kind: dict.fromkeys(numbers, 0.0) for kind in kinds}
    for each in told.exchanges:
        for stage in each.stages:
            values[stage_group(stage.name)][each.round] += amount(stage)
    totals = {kind: sum(of.values()) for kind, of in values.items()}
    whole = sum(totals.values())
    note = f"{text(whole)} in all, {text(whole / len(numbers))} per round"
    legend = keys(
        [(f"phase-{i % 4}", f"{kind}, {text(total)}") for i, (kind, total) in enumerate(totals.items())]
    )
    picture = stacked_bars(
        numbers,
        {kind: list(of.values()) for kind, of in values.items()},
        describe=f"{title}: {note}",
        text=text,
    )
    return element("div", figure(picture, caption=title, note=note), legend)


def _stages(told: Protected) -> Markup:
    rows: list[list[object]] = [
        [
            short(each.name, 40),
            stage_text(each.name),
            count_text(each.exchanges),
            seconds_text(each.seconds),
            seconds_text(each.seconds / each.exchanges),
            bytes_text(each.down),
            bytes_text(each.up),
            f"{count_text(each.answered)} of {count_text(each.asked)}",
        ]
        for each in told.stages
    ]
    head = ["Stage", "what it is for", "times", "time", "each", "to sites", "from sites", "replies"]
    note = "Sizes are those of the protocol and of what it carries, without the request that goes with each message."
    return element(
        "div", element("h3", "Stages"), table(head, rows, words=2), element("p", note, class_="quiet")
    )


def _dropped(told: Protected) -> list[Markup]:
    if not told.dropped:
        return []
    rows = [
        [str(each.round), short(party, 40), each.phase, stage, _counted(each, stage)]
        for each, party, stage in told.dropped[:_MOST_ROWS]
    ]
    made = [
        element("h3", "Who dropped out"),
        table(["Round", "Participant", "exchange", "stage", "its vector"], rows, words=5),
    ]
    if len(told.dropped) > _MOST_ROWS:
        made.append(
            element("p", f"{len(told.dropped) - _MOST_ROWS} more stand in result.json.", class_="quiet")
        )
    return made


def _counted(exchange: Exchange, stage: str) -> str:
    if exchange.failed:
        return "no sum was made"
    return "is in the sum" if stage in ("confirm", "reveal", "decrypt") else "is not in the sum"


def _rounds(told: Protected) -> Markup:
    rows = [
        [
            str(each.round),
            each.phase,
            "no sum" if each.failed else f"{each.summed} of {each.asked}",
            "–" if each.threshold is None else count_text(each.threshold),
            "–" if each.neighbours is None else count_text(each.neighbours),
            count_text(each.clipped),
            small(None if each.failed else each.error_bound),
            seconds_text(sum(stage.seconds for stage in each.stages)),
            bytes_text(sum(stage.down + stage.up for stage in each.stages)),
        ]
        for each in told.exchanges[:_MOST_ROUNDS]
    ]
    head = [
        "Round",
        "exchange",
        "in the sum",
        "threshold",
        "neighbours",
        "cut",
        "error below",
        "time",
        "traffic",
    ]
    left = len(told.exchanges) - _MOST_ROUNDS
    more = f" (the first {_MOST_ROUNDS})" if left > 0 else ""
    return element(
        "details", element("summary", f"All exchanges in numbers{more}"), table(head, rows, words=2)
    )
