"""The report's sections on the run itself: protocols, who learned what, costs, inputs, parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedcore.drawing.markup import Markup, element, join
from fedcore.drawing.numbers import bytes_text, seconds_text
from fedcore.drawing.page import section, short, table
from fedcore.vertical.results import PartyResult

_MOST_TEXT = 400


def protocols(result: PartyResult) -> Markup:
    """What ran in each step, with its parameters and the assumption."""
    if not result.protocols:
        return Markup("")
    rows = []
    for each in result.protocols:
        parameters = "; ".join(f"{name} {value}" for name, value in each.parameters.items())
        small = [f"Assumes {each.assumption}."] * bool(each.assumption) + [f"{parameters}."] * bool(
            parameters
        )
        lines = [element("br"), element("small", " ".join(small))] if small else []
        rows.append([_capital(each.step), join([each.name, *lines])])
    return section("Protocols", table(["Step", "protocol"], rows, words=2))


def leakage(result: PartyResult) -> Markup:
    """Who learned what beyond its own results."""
    if not result.leakage:
        return Markup("")
    lines = [element("li", sentence) for sentence in result.leakage]
    return section("Who learned what", element("ul", *lines, class_="plain"))


def costs(result: PartyResult) -> Markup:
    """Seconds and bytes of each step."""
    if not result.costs:
        return Markup("")
    rows = [
        [_capital(each.step), seconds_text(each.seconds), bytes_text(each.sent), bytes_text(each.received)]
        for each in result.costs
    ]
    total = [
        sum(values) for values in zip(*((e.seconds, e.sent, e.received) for e in result.costs), strict=True)
    ]
    if len(rows) > 1:
        rows.append(["In all", seconds_text(total[0]), bytes_text(total[1]), bytes_text(total[2])])
    note = f"Wall clock and traffic at {result.party}, waiting for the others included."
    return section("What it cost", element("p", note), table(["Step", "time", "sent", "received"], rows))


def inputs(result: PartyResult) -> Markup:
    """Hashes, versions and dates: what this report stands on."""
    facts: list[tuple[str, object]] = []
    for name, text in (
        ("Run", result.job.run),
        ("Started", result.job.started),
        ("Finished", result.job.finished),
    ):
        facts += [(name, text)] if text else []
    facts += [
        (what[:1].upper() + what[1:], join(["SHA-256 ", element("code", digest)]))
        for what, digest in result.hashes.items()
    ]
    if result.versions:
        facts.append(
            ("Versions", ", ".join(f"{name} {version}" for name, version in result.versions.items()))
        )
    if not facts:
        return Markup("")
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts]
    return section("What it stands on", element("table", element("tbody", *rows), class_="facts-table"))


def parameters(result: PartyResult) -> Markup:
    """The job, one line per setting."""
    facts = [
        ("name", result.job.name),
        ("purpose", result.job.purpose),
        ("label column", result.job.label_column),
    ]
    found = [(name, text) for name, text in [*facts, *flat(result.job.settings)] if text]
    shown = dict(found)
    rows = [
        element("tr", element("th", short(name, 80), scope="row"), element("td", short(text, _MOST_TEXT)))
        for name, text in shown.items()
    ]
    return section(
        "Parameters",
        element(
            "details",
            element("summary", "Everything the job says, with all defaults"),
            element("table", element("tbody", *rows), class_="facts-table"),
        ),
    )


def flat(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names with their texts."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, (list, tuple)):
        yield name, ", ".join(str(each) for each in settings)
    else:
        yield (
            name,
            "none"
            if settings is None
            else str(settings).lower()
            if settings in (True, False)
            else str(settings),
        )


def _capital(text: str) -> str:
    """The first letter large, the others as they are: a step (`model:NAME`) may end in a model's name."""
    return (text[:1].upper() + text[1:]).replace(":", " ")
