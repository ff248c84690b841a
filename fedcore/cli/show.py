"""`fedcore show` and `fedcore compare`: look at a run, put two side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.coordinator.record import Metrics, Record, parse, read_result
from fedcore.coordinator.record_protection import protected
from fedcore.drawing.markup import plain
from fedcore.errors import JobError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

_HOME = Path("runs")
_MOST_SITES = 20
_MISSING = "(absent)"

RunName = Annotated[
    str, typer.Argument(help='A run folder, a name in runs/, or "last".', metavar="RUN", show_default=False)
]


def command(
    run: RunName = "last",
    open_report: Annotated[bool, typer.Option("--open", help="Open the report in the web browser.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a run ended: its sentence, the comparison, what was protected, where the report is.

    A report that is missing or older than the result is written again.

    Example: fedcore show last --open
    """
    folder = find_run(run)
    result = read_result(folder)
    report = _fresh_report(folder) if open_report or not as_json else None
    if as_json:
        sums = protected(result)
        # A run of an older version has no summary of its own.
        told = {"secure_aggregation": sums.as_dict()} if sums is not None else {}
        print_json({"folder": str(folder), **without_nan({**told, **result})})
    else:
        from fedcore.coordinator.terminal import print_summary

        print_summary(result, report=str(report) if report else None)
    if open_report:
        import webbrowser

        if report is None:
            raise JobError(
                f"{folder}: report.html cannot be written there; copy the run folder, then try again"
            )
        webbrowser.open(report.resolve().as_uri())


def compare(first: RunName, second: RunName, as_json: Json = False) -> None:
    """Put two runs side by side: settings that differ, final metrics, and the difference at each site.

    Example: fedcore compare runs/hospital-tabular-20261121-101500 last
    """
    folders = [find_run(first), find_run(second)]
    records = [parse(read_result(folder)) for folder in folders]
    found = differences(records[0], records[1])
    if as_json:
        print_json({"runs": [str(folder) for folder in folders], **without_nan(found)})
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for title, table in _tables(found, [folder.name for folder in folders], records[0]):
        console.print(Text(title, style="bold"), table, "", sep="\n")


def find_run(name: str, home: Path = _HOME) -> Path:
    """The run folder that a person means.

    Args:
        name: A folder, its `result.json`, the name (or its unmistakable beginning) of a folder in `home`, or
            `last`.
        home: Where runs are kept.

    Raises:
        JobError: There is none, or more than one.
    """
    given = Path(name)
    if given.is_dir():
        return given
    if given.name == "result.json" and given.is_file():
        return given.parent
    runs = sorted((each for each in home.glob("*") if (each / "result.json").is_file()), key=_written)
    if name == "last" and runs:
        return runs[-1]
    names = [each.name for each in runs]
    matching = [each for each in runs if each.name == name] or [
        each for each in runs if name and each.name.startswith(name)
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = ", ".join(each.name for each in matching[-5:])
        raise JobError(
            f'"{name}" is the beginning of {len(matching)} runs in {home}/: {listed}; write one out'
        )
    raise JobError(
        f'no run "{name}": not a folder, and not in {home}/; {did_you_mean(name, [*names[-20:], "last"])}'
    )


def differences(first: Record, second: Record) -> dict[str, Any]:
    """What differs between two runs.

    Args:
        first, second: The runs; each difference is second minus first.

    Returns:
        `settings`: dotted name to `[first, second]`, where they differ. `final`, `central`: metric to
        `{first, second, difference}`. `sites`: site to the same. `cost`: seconds and bytes likewise; `answers`, of
        two analytics jobs: `fedcore.cli.compare_answers.differing`. A value that is absent or not a number is NaN.
    """
    settings = [_settings(record) for record in (first, second)]
    names = list(dict.fromkeys([*settings[0], *settings[1]]))
    sites = dict.fromkeys([*first.final_sites, *second.final_sites])
    return {
        "settings": {
            name: [each.get(name, _MISSING) for each in settings]
            for name in names
            if settings[0].get(name, _MISSING) != settings[1].get(name, _MISSING)
        },
        "final": _side_by_side(first.final, second.final),
        "central": _side_by_side(first.final_central, second.final_central),
        "sites": {
            site: _side_by_side(first.final_sites.get(site, {}), second.final_sites.get(site, {}))
            for site in sites
        },
        "cost": _side_by_side(_cost(first), _cost(second)),
        **_answers(first, second),
    }


def without_nan(value: Any) -> Any:
    """JSON values with `null` for what is not a number, which JSON cannot write."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fresh_report(folder: Path) -> Path | None:
    """The report, written again when it is missing or old; None when the folder takes no files."""
    report = folder / "report.html"
    if not report.is_file() or report.stat().st_mtime < (folder / "result.json").stat().st_mtime:
        from fedcore.coordinator.report import write_report

        try:
            return write_report(folder)
        except OSError:
            return None
    return report


def _written(run: Path) -> float:
    return (run / "result.json").stat().st_mtime


def _settings(record: Record) -> dict[str, Any]:
    """Every setting by its dotted name, with what else a person chose or that came out."""
    flat = {"engine": record.engine, "status": record.status, "rounds completed": len(record.rounds)}
    flat |= {"fedcore": record.raw.get("fedcore", _MISSING), "participants": len(record.members)}
    flat |= {"rows": record.rows, "parameters": record.parameters}
    return {**flat, **_flat(record.job, "job")}


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= _flat(each, f"{name}.{key}")
    return found


def _answers(first: Record, second: Record) -> dict[str, Any]:
    if first.kind != "analytics" or second.kind != "analytics":
        return {}
    from fedcore.cli.compare_answers import differing

    return {"answers": differing(first, second)}


def _answers_table(found: Mapping[str, Any], head: list[str]) -> Table:
    from fedcore.cli.compare_answers import shown

    table = _table(["", *head], right=2)
    for row in shown(found["answers"]):
        table.add_row(*map(_cell, row))
    if not found["answers"]:
        table.add_row("none", "", "")
    left = len(found["answers"]) - table.row_count
    if left > 0:
        table.add_row(f"{left} more", "", "")
    return table


def _cost(record: Record) -> Metrics:
    traffic = sum(record.total("bytes").values())
    return {
        "seconds": math.nan if record.seconds is None else record.seconds,
        "seconds in rounds": sum(record.total("seconds").values()),
        "bytes in rounds": traffic,
    }


def _side_by_side(first: Metrics, second: Metrics) -> dict[str, dict[str, float]]:
    found = {}
    for name in dict.fromkeys([*first, *second]):
        values = [each.get(name, math.nan) for each in (first, second)]
        found[name] = {"first": values[0], "second": values[1], "difference": values[1] - values[0]}
    return found


def _tables(found: Mapping[str, Any], names: list[str], record: Record) -> list[tuple[str, Table]]:
    from fedcore.drawing.numbers import bytes_text, difference_text, metric_text, seconds_text

    head = [plain(name) for name in names]
    if head[0] == head[1]:
        head = ["first", "second"]
    settings = _table(["", *head])
    for name, pair in found["settings"].items():
        settings.add_row(*(_cell(each) for each in (name, *map(_setting, pair))))
    if not found["settings"]:
        settings.add_row("none", "", "")
    final = _table(["", *head, "difference"], right=3)
    for group, label in (("final", ""), ("central", ", central")):
        for name, each in found[group].items():
            numbers = [
                metric_text(each["first"]),
                metric_text(each["second"]),
                difference_text(each["difference"]),
            ]
            final.add_row(_cell(f"{name}{label}"), *numbers)
    for name, each in found["cost"].items():
        text = bytes_text if name.startswith("bytes") else seconds_text
        gap = each["difference"]
        sign = "−" if gap < 0 else "+"
        told = f"{sign}{text(abs(gap))}" if math.isfinite(gap) else "–"
        final.add_row(_cell(name), text(each["first"]), text(each["second"]), told)
    metric = record.primary
    ranked = sorted(
        ((site, each[metric]) for site, each in found["sites"].items() if metric in each),
        key=lambda pair: (not math.isfinite(pair[1]["difference"]), pair[1]["difference"], pair[0]),
    )
    tables = [("Settings that differ", settings), ("Final model", final)]
    if "answers" in found:
        tables = [("Settings that differ", settings), ("Answers that differ", _answers_table(found, head))]
        tables += [("Cost", final)]
    if not ranked:
        return tables
    left = len(ranked) - _MOST_SITES
    shown = ranked if left <= 0 else [*ranked[: _MOST_SITES // 2], *ranked[-_MOST_SITES // 2 :]]
    title = f"{plain(metric)} at each site" + (f" ({left} sites between are not shown)" if left > 0 else "")
    sites = _table(["", *head, "difference"], right=3)
    for site, each in shown:
        numbers = [
            metric_text(each["first"]),
            metric_text(each["second"]),
            difference_text(each["difference"]),
        ]
        sites.add_row(_cell(site), *numbers)
    return [*tables, (title, sites)]


def _table(head: list[str], right: int = 0) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 3, 0, 0))
    for place, name in enumerate(head):
        number = place >= len(head) - right
        table.add_column(
            Text(name), justify="right" if number else "left", header_style="dim", overflow="fold"
        )
    return table


def _cell(text: object) -> Any:
    from rich.text import Text

    return Text(plain(text))


def _setting(value: Any) -> str:
    return "–" if value is None else str(value)
