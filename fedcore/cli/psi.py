"""`fedcore psi` and `fedcore psi party`: the rows that two parties share, without a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedcore.cli.output import Json
from fedcore.cli.psi_both import intersect_both
from fedcore.cli.psi_options import (
    AmountBounds,
    AmountScale,
    Dataset,
    Dates,
    Fold,
    Key,
    MemoryLimit,
    MinMatches,
    Numbers,
    Protocol,
    Published,
    Reveal,
    Secret,
    Table,
    Trim,
)
from fedcore.cli.psi_party import take_part
from fedcore.cli.psi_publish import publish

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    invoke_without_command=True,
    help="Find the rows that two parties share, and nothing else.",
)


@app.callback()
def psi(
    context: typer.Context,
    left: Annotated[Path | None, typer.Option(help="File of the side that learns the result.")] = None,
    right: Annotated[Path | None, typer.Option(help="File of the other side.")] = None,
    key: Key = None,
    right_key: Annotated[
        list[str] | None, typer.Option("--right-key", help="Key column of the right file where it differs.")
    ] = None,
    protocol: Protocol = None,
    reveal: Reveal = "rows",
    to: Annotated[
        str, typer.Option(help="Who learns the result: left, right, or both in the same order.")
    ] = "left",
    min_matches: MinMatches = None,
    amount_scale: AmountScale = None,
    amount_bounds: AmountBounds = None,
    holder: Annotated[
        str | None, typer.Option(help="Whose column is added up where both files have it: left or right.")
    ] = None,
    left_table: Table = None,
    right_table: Table = None,
    left_dataset: Dataset = None,
    right_dataset: Dataset = None,
    memory_limit: MemoryLimit = None,
    trim: Trim = False,
    fold_case: Fold = False,
    numbers_as_text: Numbers = False,
    dates_as_text: Dates = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/psi"),
    as_json: Json = False,
) -> None:
    """Intersect two files on this machine: two processes, each with one file, over an encrypted connection.

    Example: fedcore psi --left bank.parquet --right telecom.csv --key id --numbers-as-text --to both
    """
    given = {name: value for name, value in locals().items() if name != "context"}
    if context.invoked_subcommand is None:
        intersect_both(**given)


@app.command()
def party(
    role: Annotated[str, typer.Option(help="receiver (learns the result) or sender.")],
    identity: Annotated[Path, typer.Option(help="This party's private key file.")],
    peer_key: Annotated[
        str, typer.Option(help="The other party's public key line, or the file that has it.")
    ],
    data: Annotated[Path | None, typer.Option(help="This party's file.")] = None,
    key: Key = None,
    table: Table = None,
    dataset: Dataset = None,
    listen: Annotated[str | None, typer.Option(help="host:port to wait at.")] = None,
    connect: Annotated[str | None, typer.Option(help="host:port of the other party.")] = None,
    relay: Annotated[
        str | None, typer.Option(help="host:port of a relay, where neither party can be called.")
    ] = None,
    relay_key: Annotated[
        str | None, typer.Option(help="The relay's public key line, or the file that has it.")
    ] = None,
    session: Annotated[str, typer.Option(help="Name of the meeting, the same at both.")] = "psi",
    protocol: Protocol = None,
    reveal: Reveal = "rows",
    both: Annotated[
        bool, typer.Option("--both", help="The sender learns the rows too; the same at both.")
    ] = False,
    min_matches: MinMatches = None,
    amount_scale: AmountScale = None,
    amount_bounds: AmountBounds = None,
    holder: Annotated[
        str | None, typer.Option(help="Whose column is added up where both have it: receiver or sender.")
    ] = None,
    published: Published = None,
    secret: Secret = None,
    memory_limit: MemoryLimit = None,
    trim: Trim = False,
    fold_case: Fold = False,
    numbers_as_text: Numbers = False,
    dates_as_text: Dates = False,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("runs/psi"),
    wait: Annotated[float, typer.Option(help="Seconds to wait for the other party.")] = 300.0,
    as_json: Json = False,
) -> None:
    """Take part in an intersection from this machine. The other party runs the same with the other role.

    With `--secret` it answers a query of the set it published, and needs no data.

    Example: fedcore psi party --role receiver --data bank.parquet --key id --identity bank.key --peer-key telecom.pub --listen 0.0.0.0:9443
    """
    take_part(**locals())


app.command()(publish)
