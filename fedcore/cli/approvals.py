"""`fedcore approvals list | show | grant | deny`: the site's desk, where requests wait that no rule allows."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedcore.cli.output import Json, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from fedcore.jobs.participant import Participant
    from fedcore.trust.approvals import Request

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The site's desk: requests that wait for a person.",
)

File = Annotated[Path, typer.Argument(metavar="PARTICIPANT_FILE", help="Participant file of this site.")]
Hash = Annotated[str, typer.Argument(metavar="HASH", help="Of the request; its first digits do.")]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who decides; policy.approval.by of the file when absent.")
]


@app.callback()
def _group() -> None:
    """The site's desk: requests that wait for a person."""


@app.command("list")
def list_(
    file: File,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only those that nobody has decided on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the requests that came to this site's desk, and where each is.

    Example: fedcore approvals list hospital-1.yaml --waiting
    """
    from fedcore.trust import approvals

    site, desk = _desk(file)
    found = approvals.listed(desk)
    if waiting:
        found = [each for each in found if each.status == "waiting"]
    if as_json:
        print_json({"participant": site.name, "requests": [each.as_json() for each in found]})
        return
    from rich.console import Console

    show_list(found, Console())


@app.command()
def show(file: File, hash_: Hash, as_json: Json = False) -> None:
    """Show all that a request asks, why no rule allows it, and what was decided.

    Example: fedcore approvals show hospital-1.yaml 3f9a0c
    """
    from fedcore.trust import approvals

    _tell(approvals.found_by(_desk(file)[1], hash_), as_json)


@app.command()
def grant(
    file: File,
    hash_: Hash,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last day on which it holds, as 2027-03-31 (UTC).")
    ] = None,
    uses: Annotated[
        int | None, typer.Option(metavar="N", help="Runs that may use it; any number when absent.")
    ] = None,
    by: By = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For the record.")] = "",
    as_json: Json = False,
) -> None:
    """Allow exactly this request: the same question, of the same asker, for the same purpose, protected alike.

    A request that differs in anything waits by itself. What a rule's min_cell and
    min_cohort hold back stays held back. A grant is taken back with `deny`.

    Example: fedcore approvals grant hospital-1.yaml 3f9a0c --until 2027-03-31 --uses 1
    """
    from fedcore.trust import approvals

    site, desk = _desk(file)
    approvals.found_by(desk, hash_)
    who = _who(site, by)
    _tell(approvals.grant(desk, hash_, who, until=_day(until), uses=uses, reason=reason), as_json)


@app.command()
def deny(
    file: File,
    hash_: Hash,
    by: By = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Told to the asker.")] = "",
    as_json: Json = False,
) -> None:
    """Refuse a request, also one that was granted before.

    Example: fedcore approvals deny hospital-1.yaml 3f9a0c --reason "ask the ethics board first"
    """
    from fedcore.trust import approvals

    site, desk = _desk(file)
    approvals.found_by(desk, hash_)
    _tell(approvals.deny(desk, hash_, _who(site, by), reason=reason), as_json)


def _desk(file: Path) -> tuple[Participant, Path]:
    from fedcore.jobs.load import load_participant
    from fedcore.participant.mods.policy_analytics import desk

    site = load_participant(file)
    return site, desk(site)


def _who(site: Participant, by: str | None) -> str:
    from fedcore.errors import JobError

    if site.policy.approval is None:
        raise JobError(
            f"{site.name}: the participant file lets nobody approve anything, so a decision would change nothing. Cure: "
            "policy: {approval: {by: NAME, for: [...]}} in the file"
        )
    return by if by is not None else site.policy.approval.by


def _day(until: str | None) -> date | None:
    from fedcore.errors import JobError

    try:
        return None if until is None else date.fromisoformat(until)
    except ValueError:
        raise JobError(f'--until: "{until}" is no date; allowed: year-month-day, as 2027-03-31') from None


def _tell(request: Request, as_json: bool) -> None:
    if as_json:
        print_json(request.as_json())
        return
    from rich.console import Console

    show_request(request, Console())


def show_list(found: list[Request], console: Console) -> None:
    """The requests for people: a row each."""
    from rich.table import Table
    from rich.text import Text

    from fedcore.trust.approvals import SHOWN

    if not found:
        console.print("No requests.")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("hash", "came", "status", "asker", "purpose", "data"):
        table.add_column(name, no_wrap=name in ("hash", "came"), overflow="fold")
    table.add_column("question", overflow="fold")
    for each in found:
        # What others wrote is text, never markup.
        asked = each.asked
        words = (
            each.hash[:SHOWN],
            _minute(each.time),
            each.status,
            asked.asker,
            asked.purpose,
            asked.data,
            asked.text,
        )
        table.add_row(*map(Text, map(_printable, words)))
    console.print(table)


def show_request(request: Request, console: Console) -> None:
    """All of a request for people: a line each."""
    from rich.text import Text

    asked = request.asked
    lines = {
        "hash": request.hash,
        "status": request.status,
        "came": f"{_minute(request.time)} in run {asked.run} of job {asked.job}",
        "asker": asked.asker,
        "purpose": asked.purpose,
        "data": asked.data,
        "question": asked.text,
        "columns": ", ".join(asked.columns) or "none, rows are counted",
        "statistics": ", ".join(asked.statistics),
        "protection": asked.protection,
        "no rule allows": asked.lacking,
    }
    if request.by is not None and request.decided is not None:
        lines["decided"] = f"by {request.by}, {_minute(request.decided)}"
        if request.reason:
            lines["reason"] = request.reason
    if request.status in ("granted", "ended", "used up"):
        lines["holds until"] = _minute(request.until) if request.until else "it is denied"
        lines["uses"] = f"{len(request.runs)} of {request.uses or 'any number'}"
    for name, value in lines.items():
        line = Text(f"{name:<15}", style="bold")
        line.append(_printable(value), style="not bold")
        console.print(line, soft_wrap=True)


def _minute(when: str) -> str:
    return when[:16].replace("T", " ")


def _printable(text: str) -> str:
    """Text of others without what moves a terminal's cursor or hides other text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
