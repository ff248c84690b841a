"""`fedcore federation up | status | down`: a federation's processes on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.engines import federation as engine
from fedcore.jobs.load import load_federation

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Start, watch and stop a federation on this machine.",
)

File = Annotated[Path, typer.Argument(metavar="FED.yaml", help="Federation file.")]

_COLOURS = {"up": "green", "running": "green", "down": "dim", "failed": "red", "lost": "red"}


@app.command()
def up(
    file: File,
    foreground: Annotated[
        bool,
        typer.Option("--foreground", help="Stay here until Ctrl-C instead of going into the background."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the SuperLink and a SuperNode for each participant file, and wait until all are online.

    They are watched and restarted when they die, until `fedcore federation down`. Keys are checked first:
    a participant whose key is not the one in the roster stops the start (exit code 8).

    Example: fedcore federation up configs/federations/five_hospitals.yaml
    """
    loaded = load_federation(file)
    if foreground:
        seen: list[str] = []
        engine.up_in_foreground(loaded, lambda state: _lines(state, seen, as_json))
        return
    with _progress(as_json) as report:
        state = engine.up(loaded, report=report)
    if as_json:
        print_json(state)
    else:
        _show(state)


@app.command()
def status(file: File, as_json: Json = False) -> int:
    """Show what runs and who is online. Exit code 0 when the federation is up, 9 otherwise.

    Example: fedcore federation status configs/federations/five_hospitals.yaml --json
    """
    state = engine.status(load_federation(file))
    if as_json:
        print_json(state)
    else:
        _show(state)
    return 0 if state["status"] == "up" else 9


@app.command()
def down(file: File, as_json: Json = False) -> None:
    """Stop the federation and whatever an earlier start of it left behind.

    Example: fedcore federation down configs/federations/five_hospitals.yaml
    """
    ended = engine.down(load_federation(file))
    if as_json:
        print_json(ended)
        return
    what = "stopped" if ended["was_up"] else "was not up"
    swept = f"; ended {ended['swept']} processes that had lost their keeper" if ended["swept"] else ""
    typer.echo(f"{ended['federation']} {what}{swept}")


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """A line that says how far the start is; nothing where nobody looks."""
    if as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting the SuperLink") as line:

        def report(state: dict[str, Any]) -> None:
            here = [each for each in state["participants"] if each["here"]]
            if any(each["node"] for each in here):
                online = sum(each["online"] for each in here)
                line.update(f"SuperNodes online: {online} of {len(here)}")

        yield report


def _lines(state: dict[str, Any], seen: list[str], as_json: bool) -> None:
    """In the foreground: one line per change."""
    online = [each["name"] for each in state["participants"] if each["online"]]
    restarts = sum(each["restarts"] for each in state["processes"])
    line = f"{state['status']}: online {', '.join(online) or 'nobody'}; restarts {restarts}"
    if seen[-1:] == [line]:
        return
    seen[:] = [line]
    if as_json:
        import json

        typer.echo(json.dumps(state))
    else:
        typer.echo(line)


def _show(state: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def coloured(word: str) -> Text:
        return Text(word, style=_COLOURS.get(word, "yellow"))

    console = Console(soft_wrap=True)
    console.print(Text(f"{state['federation']}: "), coloured(state["status"]), sep="")
    if state.get("error"):
        console.print(Text(state["error"]["message"], style="red"))
    if state["status"] in ("up", "starting"):
        console.print(f"address    {state['address']}")
        console.print(f"authority  {state['authority']} (give it to participants on other machines)")
    if state.get("participants") and state["status"] != "down":
        table = Table("participant", "online", "started here", box=None, header_style="bold")
        for each in state["participants"]:
            online = Text("yes", style="green") if each["online"] else Text("no", style="yellow")
            table.add_row(each["name"], online, "yes" if each["here"] else "no")
        console.print(table)
    if state.get("processes"):
        table = Table("process", "status", "pid", "restarts", box=None, header_style="bold")
        for each in state["processes"]:
            pid = str(each["pid"]) if each["pid"] else ""
            table.add_row(each["name"], coloured(each["status"]), pid, str(each.get("restarts", "")))
        console.print(table)
