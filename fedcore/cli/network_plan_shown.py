"""A plan as a person reads it in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.cli.network_shown import number

if TYPE_CHECKING:
    from fedcore.network.plan import Plan
    from fedcore.network.policy import Policy
    from fedcore.network.quotes import Quotes
    from fedcore.network.relax import Relaxation
    from fedcore.network.topology import Topology

MOST_ROWS = 40
MOST_REASONS = 10
FEW_NAMES = 8
WIDE = 100
"""Columns from which there is room for everything of a participant."""


def show_plan(
    made: Plan, policy: Policy, topology: Topology, quoted: Quotes | None, out: Path | None
) -> None:
    """Who computes where, who aggregates, what it takes, how good it is, and what was not chosen."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    head = Text(f"plan {made.version} of {made.job}", style="bold")
    head.append(f"  policy {policy.name}, map {topology.file.name}, coordinator at {made.root}", style="dim")
    console.print(head)
    if quoted is not None and quoted.trial:
        names = ", ".join(quoted.trial[:FEW_NAMES]) + (" ..." if len(quoted.trial) > FEW_NAMES else "")
        console.print(
            Text(f"a trial: the keys of {len(quoted.trial)} owners are not here ({names})", style="yellow")
        )
    console.print(_participants(made, policy, topology, wide=console.width >= WIDE))
    more = len(made.participants) - MOST_ROWS
    if more > 0:
        console.print(Text(f"{more} more participants stand in the plan file", style="dim"))
    console.print()
    console.print(_aggregators(made))
    console.print()
    for line in _figures(made, policy):
        console.print(line, highlight=False)
    for each in _reasons(made, quoted):
        console.print(each)
    if out is not None:
        console.print(Text(f"written to {out}; fedcore network show {out} draws it"), soft_wrap=True)


def show_infeasible(policy: str, relax: Sequence[Relaxation]) -> None:
    """The fewest constraints whose relaxing is enough."""
    from rich.console import Console
    from rich.text import Text

    errors = Console(stderr=True, soft_wrap=True)
    errors.print(Text(f"error: no placement keeps every hard constraint of policy {policy}", style="red"))
    count = len(relax[0].constraints)
    what = (
        "one of these constraints"
        if count == 1
        else f"the {count} constraints of one of these lines together"
    )
    errors.print(Text(f"it is enough to relax {what}, the least painful first:"))
    for one in relax:
        errors.print(Text(f"  {one}"))


def _participants(made: Plan, policy: Policy, topology: Topology, *, wide: bool) -> Any:
    from rich.text import Text

    words = ("participant", "node", "site", "aggregator") if wide else ("participant", "site", "aggregator")
    numbers = ("seconds", "g CO2", policy.currency, "ms", "circle")
    table = _table(words, numbers if wide else numbers[:-2])

    for one in made.participants[:MOST_ROWS]:
        told = one.expected
        grams = told.gco2_market if policy.carbon.basis == "market" else told.gco2_location
        names = (
            (one.owner, one.node, one.site, one.aggregator) if wide else (one.owner, one.site, one.aggregator)
        )
        figures = [number(value) for value in (told.seconds, grams, told.cost)]
        near = [number(told.latency_ms), topology.circle(one.site, one.aggregator)] if wide else []
        table.add_row(*map(Text, names), *figures, *near)
    return table


def _aggregators(made: Plan) -> Any:
    from rich.text import Text

    table = _table(("aggregator",), ("adds up", "has room for", "a round without it"))
    for one in made.aggregators:
        without = "not possible" if one.without is None else f"{number(one.without)} s"
        table.add_row(Text(one.site), str(one.children), str(one.capacity), without)
    for site in made.standby:
        table.add_row(Text(f"{site} (standby)"), "", "", "")
    return table


def _figures(made: Plan, policy: Policy) -> list[str]:
    told, quality = made.prediction, made.quality
    carbon = f"{number(told.gco2_location)} g CO2 by the grid"
    if policy.carbon.report_market or policy.carbon.basis == "market":
        carbon += f" ({number(told.gco2_market)} by contracts)"
    people = sum(told.circles.values()) or 1
    circles = ", ".join(
        f"{name} {told.circles[name]} ({told.circles[name] / people:.0%})"
        for name in ("city", "region", "national", "wide")
        if told.circles.get(name)
    )
    proven = "nothing proven; --gap 0.005 does that"
    if quality.bound is not None and quality.gap is not None:
        proven = f"bound {quality.bound:.6g}, gap at most {quality.gap:.3%} of (random - bound), proven in {number(quality.proof_seconds)} s"
    return [
        f"a round  {number(told.round_s)} s, {number(told.kwh)} kWh, {carbon}, {number(told.cost)} {policy.currency}",
        f"circles  {circles}; {number(told.latency_ms)} ms to the aggregator in the mean",
        f"quality  objective {quality.objective:.6g} (random placements {quality.random:.6g}), {proven}",
    ]


def _reasons(made: Plan, quoted: Quotes | None) -> list[Any]:
    """The first of what was not chosen, each kind in turn, so that none hides another."""
    from rich.text import Text

    left_out = list(quoted.left_out) if quoted is not None else []
    kinds: dict[str, list[Any]] = {}
    for one in (*left_out, *made.rejected):
        kinds.setdefault(one.what, []).append(one)
    every = [one for group in kinds.values() for one in group]
    shown: list[Any] = []
    while len(shown) < min(MOST_REASONS, len(every)):
        for group in kinds.values():
            if group and len(shown) < MOST_REASONS:
                shown.append(group.pop(0))
    counted = [f"{count} x {what}" for what, count in made.rejected_count.items() if count]
    if not shown and not counted:
        return []
    head = Text(f"not chosen ({len(shown)} of {len(every)} that are told)", style="bold")
    ordered = sorted(shown, key=lambda one: one.what)
    lines = [Text(f"  {one.what} {one.name or one.owner}: {one.reason}") for one in ordered]
    return [head, *lines, *([Text(f"  in all: {'; '.join(counted)}", style="dim")] if counted else [])]


def _table(words: Sequence[str], numbers: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
