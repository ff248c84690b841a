"""`fedcore identity new | show`: the long-term key by which a party is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.trust.identity import Identity, load_identity, new_identity

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", help="Make and show keys."
)


@app.command()
def new(
    file: Annotated[
        Path, typer.Argument(help="Where the private key goes; the public one goes to FILE.pub.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Whose key it is, as in the roster; the file's name when absent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key pair for a participant or the coordinator.

    The private key stays in its file, which only you can read (mode 0600). Give the public line to whoever
    keeps the federation's roster, and read the fingerprint to them over the telephone.

    Example: fedcore identity new keys/hospital-1.key --name hospital-1
    """
    identity = new_identity(file, name or file.stem)
    _tell(identity, as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A private key file.")],
    as_json: Json = False,
) -> None:
    """Show the public half of a key: its fingerprint and the line for the roster.

    Refuses (exit code 8) a key file that others can read.

    Example: fedcore identity show keys/hospital-1.key
    """
    _tell(load_identity(file), as_json)


def _tell(identity: Identity, as_json: bool) -> None:
    told: dict[str, Any] = {
        "name": identity.name,
        "file": str(identity.path),
        "fingerprint": identity.fingerprint,
        "public_key": identity.public_line,
    }
    if as_json:
        print_json(told)
        return
    # Plain lines: the roster's line is there to be copied.
    typer.echo(f"name         {told['name']}")
    typer.echo(f"private key  {told['file']} (mode 0600; never leaves this machine)")
    typer.echo(f"public key   {told['file']}.pub")
    typer.echo(f"fingerprint  {told['fingerprint']}")
    typer.echo("for the roster:")
    typer.echo(f'  {told["name"]}: {{public_key: "{told["public_key"]}"}}')
