"""What the benchmarks share: figures, targets, and the three ways to tell them (JSON, terminal, Markdown).

A benchmark prints one JSON object with `--json`:

    {"benchmark": "engines",
     "settings": {"participants": 100, ..., "machine": {...}},
     "figures": [{"participants": 100, "side": "fedcore, embedded", "seconds": 4.2, "peak MiB": 410}, ...],
     "targets": [{"name": "...", "value": 6.1, "at_least": 5, "met": true}, ...],
     "absent": {"pfl 0.6.0": "why it was not measured"}}

A target that is missed stays in the list as missed; one that could not be measured has the value null and is
not met.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIDES = Path(__file__).parent / "sides"
WORK = ROOT / ".fedcore" / "bench"

Figure = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A bound that a figure must keep.

    Args:
        name: What is bounded.
        value: As measured; None when it could not be measured.
        at_least, at_most: The bound; exactly one of them.
    """

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"target {self.name!r} needs exactly one of at_least and at_most")

    @property
    def met(self) -> bool:
        """Whether the value keeps the bound; never when there is no value."""
        if self.value is None or math.isnan(self.value):
            return False
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.at_most is not None and self.value <= self.at_most

    @property
    def verdict(self) -> str:
        """For people."""
        if self.value is None or math.isnan(self.value):
            return "not measured"
        return "met" if self.met else "**missed**"

    @property
    def bound(self) -> str:
        """For people."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN and None become null."""
        limit = {"at_least": self.at_least} if self.at_least is not None else {"at_most": self.at_most}
        value = None if self.value is None or math.isnan(self.value) else self.value
        return {"name": self.name, "value": value, **limit, "met": self.met}


@dataclass
class Report:
    """What a benchmark found.

    Args:
        benchmark: Its name.
        settings: What was run, and on what.
        figures: One row per measured side; rows may have different columns, and a `part` that they belong to.
        targets: The bounds, kept or missed.
        absent: Sides that were not measured, and why.
    """

    benchmark: str
    settings: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "benchmark": self.benchmark,
            "settings": self.settings,
            "figures": self.figures,
            "targets": [target.as_dict() for target in self.targets],
            "absent": self.absent,
        }

    def tell(self, as_json: bool) -> None:
        """Print it: one JSON object, or tables for people."""
        if as_json:
            json.dump(self.as_dict(), sys.stdout, indent=1, allow_nan=False)
            sys.stdout.write("\n")
            return
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            print(self.markdown())
            return
        console = Console()
        for title, (columns, rows) in self._tables().items():
            table = Table(title=title, title_justify="left")
            for column in columns:
                table.add_column(column)
            for row in rows:
                table.add_row(*row)
            console.print(table)
        for side, reason in self.absent.items():
            console.print(f"[yellow]not measured: {side}[/yellow] ({reason})")

    def markdown(self) -> str:
        """The same tables as Markdown."""
        parts = []
        for title, (columns, rows) in self._tables().items():
            lines = [columns, ["---"] * len(columns), *rows]
            parts.append(
                f"**{title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
            )
        parts += [f"Not measured: {side} ({reason}).\n" for side, reason in self.absent.items()]
        return "\n".join(parts)

    def _tables(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        # A part of a benchmark, where rows name theirs, has a table and columns of its own.
        parts: dict[str, list[Figure]] = {} if self.figures else {"figures": []}
        for row in self.figures:
            rest = {column: value for column, value in row.items() if column != "part"}
            parts.setdefault(row.get("part", "figures"), []).append(rest)
        tables = {}
        for part, rows in parts.items():
            columns = list(dict.fromkeys(column for row in rows for column in row))
            cells = [[shown(row.get(column)) for column in columns] for row in rows]
            tables[f"{self.benchmark}: {part}"] = (columns, cells)
        targets = [
            [target.name, shown(target.value), target.bound, target.verdict] for target in self.targets
        ]
        tables[f"{self.benchmark}: targets"] = (["target", "value", "bound", ""], targets)
        return tables


def report_from(told: Mapping[str, Any]) -> Report:
    """The report whose `as_dict` this is."""
    bounds = ("name", "value", "at_least", "at_most")
    targets = [Target(**{k: v for k, v in one.items() if k in bounds}) for one in told["targets"]]
    return Report(told["benchmark"], told["settings"], told["figures"], targets, told["absent"])


def shown(value: Any) -> str:
    """A value as a cell: three significant digits, nothing for None; a list has one value for each party."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " + ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def machine() -> dict[str, Any]:
    """What the figures were taken on, and how busy it was when they began."""
    # Not at the top: a machine lent for its GPU has torch, and little else.
    import psutil

    from benchmarks.measure import memory_kind

    return {
        "processor": _processor(),
        "cores used": cores(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("fedcore", "flwr", "ray", "torch", "numpy")},
        "load average at start": round(os.getloadavg()[0], 2),
        "memory": f"peak of the summed {memory_kind()} of the process tree",
    }


def cores() -> int:
    """Cores that this process may use."""
    import psutil

    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def parser(text: str | None, repeats: int = 1) -> argparse.ArgumentParser:
    """The options that every benchmark has.

    Args:
        text: Its module's docstring.
        repeats: How often each side is measured unless told otherwise.
    """
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--repeats", type=_positive, default=repeats, help="of each side; medians are told")
    made.add_argument("--cores", type=_positive, default=2, help="cores that every side may use (2)")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def ratio(above: float | None, below: float | None) -> float | None:
    """`above / below`; None when one of them is missing or `below` is zero."""
    return None if above is None or not below else above / below


def greatest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest absolute difference between two models' arrays (or two dicts of metrics).

    Returns:
        Infinity when their names or shapes differ, or a value is not a number in one of them only.
    """
    import numpy as np

    if set(one) != set(other):
        return math.inf
    worst = 0.0
    for name, value in one.items():
        a, b = np.asarray(value, dtype=np.float64), np.asarray(other[name], dtype=np.float64)
        if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
            return math.inf
        apart = np.abs(a - b)[~np.isnan(a)]
        worst = max(worst, float(apart.max(initial=0.0)))
    return worst


def progress(text: str, as_json: bool) -> None:
    """Say on stderr what is being measured, unless a machine listens."""
    if not as_json:
        print(text, file=sys.stderr, flush=True)
