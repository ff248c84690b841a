"""`fedcore privacy`: what was spent of a data set's privacy budget, and attacks on a job of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.output import Json, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from fedcore.privacy.budget import Cost
    from fedcore.privacy.ledger import Account

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Privacy budgets, and audits of what jobs tell.",
)


@app.callback()
def _group() -> None:
    """Privacy budgets, and audits of what jobs tell."""


@app.command()
def ledger(
    file: Annotated[Path, typer.Argument(help="The ledger of a data set.", metavar="FILE")],
    anchor: Annotated[
        Path | None,
        typer.Option(help="The second place of the newest hash; a ledger that was cut is found out with it."),
    ] = None,
    known: Annotated[
        str | None, typer.Option(help="A hash of an entry that was kept elsewhere, 64 hex digits.")
    ] = None,
    delta: Annotated[
        str | None, typer.Option(help="Also say which epsilon a budget in rho means at this delta, as 1e-6.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what was spent of a data set's privacy budget, and what is left.

    Every entry is checked against the one before it. Numbers in the table are
    rounded: spent upwards, remaining downwards; --json has them exactly.

    Example: fedcore privacy ledger ledgers/lung.jsonl --anchor anchors/lung
    """
    from fedcore.privacy.ledger import Ledger

    found = Ledger(file, anchor, known).account()
    epsilon = None if delta is None else _epsilon(found, delta)
    if as_json:
        print_json(ledger_json(found, checked=anchor is not None or known is not None, epsilon=epsilon))
        return
    from rich.console import Console

    show_ledger(found, Console(), checked=anchor is not None or known is not None, epsilon=epsilon)


@app.command()
def audit(
    job: Annotated[Path, typer.Argument(help="Job file or run folder.", metavar="JOB")],
    federation: Annotated[
        Path | None,
        typer.Option("--federation", "-f", help="Federation or participant file; its data are read."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of past runs, for an analytics job; runs/ when absent.")
    ] = None,
    minimum: Annotated[
        int, typer.Option(help="Fewest rows that may stand apart, for an analytics job.", min=3)
    ] = 5,
    participant: Annotated[
        str | None,
        typer.Option(help="Who gets the canaries, for a train job; the one with the most rows when absent."),
    ] = None,
    canaries: Annotated[int, typer.Option(help="Canaries in a training.", min=2)] = 200,
    trainings: Annotated[int, typer.Option(help="Audited trainings.", min=1)] = 1,
    rounds: Annotated[int | None, typer.Option(help="Fewer rounds than the job's.", min=1)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of canaries and coins; from the operating system when absent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Attack a job of your own, with your own data.

    An analytics job: which pairs of past questions about its data set differ by
    few rows. A train job: it is trained again with rows that have a wrong target,
    half of them by chance; how well the model tells which, bounds epsilon from
    below, beside what the job claims. Nothing is charged, nothing is sent.

    Example: fedcore privacy audit configs/jobs/digits.yaml -f configs/federations/five_hospitals.yaml
    """
    from fedcore.cli.privacy_audit import run_audit, show_audit

    told = run_audit(
        job,
        federation=federation,
        runs=runs,
        minimum=minimum,
        participant=participant,
        canaries=canaries,
        trainings=trainings,
        rounds=rounds,
        seed=seed,
    )
    if as_json:
        print_json(told)
        return
    from rich.console import Console

    show_audit(told, Console())


def _epsilon(found: Account, delta: str) -> float:
    from fedcore.errors import JobError
    from fedcore.privacy.budget import epsilon_of

    if found.budget.measure != "rho":
        raise JobError("--delta is for budgets in rho; this one is in epsilon as it stands")
    return epsilon_of(found.spent.amount, delta, found.spent.delta)


def ledger_json(found: Account, *, checked: bool, epsilon: float | None) -> dict[str, Any]:
    """The ledger for machines; amounts exact, as text: a decimal, or p/q where there is none."""
    return {
        "data": found.data,
        "neighbours": found.neighbours.word,
        "measure": found.budget.measure,
        "budget": _cost_json(found.budget),
        "spent": _cost_json(found.spent),
        "remaining": _cost_json(found.remaining),
        "spent_as_epsilon": epsilon,
        "entries": [
            {
                "time": each.time,
                "request": each.request,
                "source": each.source,
                "what": each.what,
                "cost": _cost_json(each.cost),
                "digest": each.digest,
                "answer": each.answer,
            }
            for each in found.charges
        ],
        "last": found.last,
        "checked_against_second_place": checked,
    }


def _cost_json(cost: Cost) -> dict[str, str]:
    from fedcore.privacy.exact import text

    return {"amount": text(cost.amount), "delta": text(cost.delta)}


def show_ledger(found: Account, console: Console, *, checked: bool, epsilon: float | None) -> None:
    """The ledger for people: a row for each charge, and the sums."""
    from rich.table import Table
    from rich.text import Text

    from fedcore.privacy.exact import shown

    measure = found.budget.measure
    head = Text(found.data, style="bold")
    head.append(f"  budget in {measure}, neighbours: {found.neighbours}", style="dim")
    console.print(head)
    deltas = any(each.cost.delta for each in found.charges) or bool(found.budget.delta)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("time", "request", "source", "what"):
        table.add_column(name, no_wrap=name in ("time", "source"), overflow="fold")
    for name in (measure, "delta") if deltas else (measure,):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("answer", no_wrap=True)

    def numbers(cost: Cost, *, up: bool) -> list[str]:
        return [shown(each, up=up) for each in ((cost.amount, cost.delta) if deltas else (cost.amount,))]

    for each in found.charges:
        # What others wrote is text, never markup.
        when = each.time[:16].replace("T", " ")
        words = [Text(word) for word in (when, each.request, each.source, each.what)]
        table.add_row(*words, *numbers(each.cost, up=True), each.answer[:8] if each.answer else "none yet")
    console.print(table)
    sums = Table(box=None, show_header=False, pad_edge=False)
    for name, cost, up in (
        ("budget", found.budget, False),
        ("spent", found.spent, True),
        ("remaining", found.remaining, False),
    ):
        sums.add_row(Text(name, style="bold"), cost.told(up=up))
    console.print(sums)
    if epsilon is not None:
        console.print(Text(f"Spent is epsilon {epsilon:.6g} at that delta, at most."))
    if not checked:
        console.print(
            Text(
                "Not compared with a second place: whether an older copy was put back is not known (--anchor, --known).",
                style="yellow",
            )
        )
    console.print(Text(f"last {found.last}", style="dim"), soft_wrap=True)
