"""What a person sees of an intersection: progress while it goes on, counts and places at its end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"
EVENTS_TO = "FEDCORE_PSI_EVENTS"
"""Environment variable: the file to which a party that nobody watches writes its progress."""

_PHASES = {
    "read": "reading the keys",
    "collapse": "sorting, collapsing duplicates",
    "meet": "waiting for the other party",
    "agree": "agreeing on the settings",
    "vole": "preparing and exchanging masked keys",
    "ecdh": "exchanging masked keys",
    "ecdh-cached": "masking keys",
    "check": "checking planted items and counts",
    "write": "writing the rows",
}


@contextmanager
def party_shown(as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line of progress; or events in a file for the process that started this one."""
    file = os.environ.get(EVENTS_TO)
    if file:
        with Path(file).open("a", buffering=1) as events:

            def write(phase: str, done: int, of: int) -> None:
                events.write(json.dumps([phase, done, of]) + "\n")

            yield write
        return
    if as_json:
        yield lambda phase, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[much]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=None, much="")
        yield lambda phase, done, of: bars.update(
            bar,
            description=_PHASES.get(phase, phase),
            completed=done,
            total=of or None,
            much=f"{done:,}" if done else "",
        )


@contextmanager
def both_shown(out: Path, as_json: bool) -> Iterator[Callable[[], None]]:
    """Progress of both parties, from the events they write."""
    if as_json:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[side]:<6}"),
        TextColumn("{task.description:<40}"),
        BarColumn(),
        TextColumn("{task.fields[much]:>14}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {
            side: bars.add_task("starting", total=None, side=side, much="") for side in ("left", "right")
        }

        def poll() -> None:
            for side, task in tasks.items():
                file = out / side / EVENTS
                lines = file.read_text().splitlines() if file.exists() else []
                if lines:
                    phase, done, of = json.loads(lines[-1])
                    much = f"{done:,}" if done else ""
                    bars.update(
                        task,
                        description=_PHASES.get(phase, phase),
                        completed=done,
                        total=of or None,
                        much=much,
                    )

        yield poll


def print_machine(result: dict[str, Any]) -> None:
    """The result as one JSON document on stdout, as `fedcore.cli.output` prints it."""
    sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")


def print_result(result: dict[str, Any]) -> None:
    """Counts, what each side gave and got, where the rows are."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="; ".join(answered(result)), title_justify="left")
    for column in (
        "side",
        "rows",
        "nulls",
        "duplicates",
        "items",
        "matched",
        "MB sent",
        "CPU s",
    ):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name in ("left", "right"):
        side = result[name]
        matched = side["matched_rows"]
        table.add_row(
            name,
            *(f"{side[word]:,}" for word in ("rows", "nulls", "duplicates", "items")),
            "not told" if matched is None else f"{matched:,}",
            f"{side['bytes']['sent'] / 1e6:,.1f}",
            f"{sum(phase['cpu_seconds'] for phase in side['phases'].values()):.1f}",
        )
    console.print(table)
    compiled = max(result[name]["compile_seconds"] for name in ("left", "right"))
    if compiled > 1:
        console.print(
            f"of {result['seconds']:.1f} s, {compiled:.1f} s went into compiling kernels, once per machine"
        )
    _print_places(console, [Path(result["folder"]) / name for name in ("left", "right")], result)


def _print_places(console: Any, folders: list[Path], result: dict[str, Any]) -> None:
    for folder in folders:
        if (folder / "rows.parquet").exists():
            console.print(
                f"rows: {folder / 'rows.parquet'} (row number from 0, number of the match)", soft_wrap=True
            )


def answered(result: dict[str, Any]) -> list[str]:
    """What the receiver learned: the number of shared items and sums, or that there are too few."""
    count, sums = result["intersection"], result.get("sums") or {}
    lines = [f"sum of {name}: {total}" for name, total in sums.items()]
    if result.get("refused"):
        fewer = f"fewer than {result['min_matches']:,} shared items (--min-matches)"
        return [fewer + (", so nothing is told" if count is None else f": {count:,}, so no sum is told")]
    return [f"{count:,} shared items", *lines]


def print_party(result: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    console = Console()
    count = result["intersection"]
    console.print(
        f"{result['rows']:,} rows, {result['nulls']:,} without a key, {result['duplicates']:,} duplicates, "
        f"{result['items']:,} items"
    )
    if result["role"] == "sender" and count is not None:
        told = "is told that they are too few" if result["refused"] else "learns the result"
        console.print(f"{count:,} shared items; the other party {told}")
    elif count is None and not result["refused"]:
        console.print("the other party learns the result")
    else:
        for line in answered(result):
            console.print(line)
    _print_places(console, [out], result)
