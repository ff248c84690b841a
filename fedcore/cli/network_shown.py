"""What a person sees of the compute network in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedcore.network.quantity import Quantity

_GROUPS = {
    "machine": ("cores", "accelerators", "memory.cpu", "memory.cuda"),
    "speed": ("gemm", "memory", "work", "ecc", "cipher", "score"),
    "network": ("link", "rtt"),
    "power and carbon": ("power", "pue", "carbon"),
    "terms": ("price", "security", "availability", "mtbf", "mttr"),
}
_WIDE = 110
"""Columns from which there is room to say how each number was obtained."""
_SOURCES = {"measured": "green", "attested": "green", "declared": "cyan", "derived": "magenta"}


def show_probe(told: Mapping[str, Any], quantities: Mapping[str, Quantity]) -> None:
    """A table of quantities: value and unit, source, spread, age and method; the unreliable ones marked."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    head = Text(f"{told['owner']}/{told['node']}" if "node" in told else "this machine", style="bold")
    head.append(
        f"  {told['processor'] or 'unknown processor'}, measured in {told['seconds']:.1f} s", style="dim"
    )
    console.print(head)
    wide = console.width >= _WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("quantity", "value", "unit", "source", "spread", "age"):
        right = column in ("value", "spread", "age")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    if wide:
        table.add_column("how", overflow="fold")
    reasons = {name: _own_reason(each.doubt, told["busy"]) for name, each in quantities.items() if each.doubt}
    for group, names in _grouped(list(quantities)):
        table.add_row(Text(group, style="bold dim"))
        for name in names:
            each = quantities[name]
            style = "yellow" if each.doubt else ""
            how = Text(each.method, style="dim")
            if reasons.get(name):
                how = Text(f"{reasons[name]}\n", style="yellow").append_text(how)
            table.add_row(
                Text(f"{'!' if each.doubt else ' '} {name}", style=style),
                Text(number(each.value), style=style),
                each.unit,
                Text(each.source, style=_SOURCES[each.source]),
                Text("" if each.spread is None else f"{each.spread:.0%}", style=style),
                age(each.age()),
                *([how] if wide else []),
            )
    console.print(table)
    for name, why in reasons.items() if not wide else ():
        if why:
            console.print(Text(f"! {name}: {why}", style="yellow"))
    for name, why in told["skipped"].items():
        console.print(Text(f"not measured: {name} ({why})", style="dim"))
    doubtful = told["unreliable"]
    if doubtful:
        line = f"{len(doubtful)} of {len(quantities)} quantities are unreliable (!)"
        if told["busy"] > 0.25:
            line += (
                f": others used {told['busy']:.0%} of the processors. Run it again when the machine is quiet"
            )
        console.print(Text(line, style="yellow"))
    if "node" in told:
        _signature(console, told)


def _own_reason(doubt: str, busy: float) -> str:
    """Why a quantity is unreliable, without what holds for all of them and is said once."""
    return "; ".join(part for part in doubt.split("; ") if part != _busy(busy))


def _busy(busy: float) -> str:
    return f"others used {busy:.0%} of the processors"


def _signature(console: Any, told: Mapping[str, Any]) -> None:
    from rich.text import Text

    if told["signed"]:
        console.print(
            Text(
                f"signed by {told['owner']} ({told['fingerprint']}), valid until {told['expires']}",
                style="green",
            )
        )
    else:
        console.print(Text("not signed: nobody will plan with it; --key FILE signs it", style="yellow"))
    if told["file"]:
        console.print(Text(f"written to {told['file']}, exposure {told['exposure']}"), soft_wrap=True)


def number(value: float) -> str:
    """Three digits that count, without an exponent where people write none.

    Example:
        >>> number(98.7654), number(15233.0), number(2.0), number(0.00042)
        ('98.8', '15,233', '2', '0.00042')
    """
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def age(seconds: float | None) -> str:
    """How old something is, in one unit.

    Example:
        >>> age(None), age(0.4), age(90), age(7200), age(3 * 86400)
        ('', 'now', '2 min', '2 h', '3 d')
    """
    if seconds is None:
        return ""
    if seconds < 15:
        return "now"
    for most, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} d"


def _grouped(names: list[str]) -> list[tuple[str, list[str]]]:
    left = list(names)
    found = []
    for group, words in _GROUPS.items():
        mine = [name for name in left if name in words or name.split(".")[0] in words]
        if group == "machine":
            mine = [name for name in left if name in words]
        left = [name for name in left if name not in mine]
        if mine:
            found.append((group, mine))
    return [*found, *([("other", left)] if left else [])]
