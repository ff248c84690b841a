"""`fedcore participant start`: one site on its own machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedcore.cli.output import Json
from fedcore.engines.site import plan_site, run_site
from fedcore.jobs.load import load_federation

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Run one site on its own machine.",
)


@app.callback()
def _group() -> None:
    """Run one site on its own machine."""


@app.command()
def start(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Participant file of this site.")],
    federation: Annotated[
        Path | None,
        typer.Option(
            metavar="FED.yaml", help="Federation file: says where the coordinator is and has the roster."
        ),
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the coordinator is; instead of the file's.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="ca.crt", help="The certificate that the coordinator gave you.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Connect this site to its coordinator and serve it until Ctrl-C.

    Checks the participant file, its key (mode 0600, the one in the roster) and that the coordinator's
    certificate was made by the key that the roster pins to the coordinator. The site only calls out: no port
    has to be opened for it. Whatever ends the connection, it is tried again.

    Example: fedcore participant start hospital-1.yaml --federation fed.yaml --ca ca.crt
    """
    known = None
    if federation is not None:
        loaded = load_federation(federation)
        known = (loaded.file, loaded.spec)
    plan = plan_site(file, known, coordinator, ca)
    name = plan.site.name
    if not as_json:
        checked = "the key that the roster pins" if plan.pinned else "NOT compared with any pinned key"
        typer.echo(f"{name}: key {plan.site.identity.fingerprint}")
        typer.echo(f"{name}: coordinator {plan.superlink}, its certificate: {checked}")

    def report(stand: str, why: str) -> None:
        if as_json:
            import json

            typer.echo(json.dumps({"participant": name, "status": stand, "reason": why or None}))
        else:
            typer.echo(f"{name}: {stand}" + (f" ({why})" if why else ""))

    run_site(plan, report)
