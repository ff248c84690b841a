"""`fedcore psi publish`: a large set, masked once, for intersections with small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedcore.cli.output import Json, print_json
from fedcore.cli.psi_options import Dataset, Dates, Fold, Key, MemoryLimit, Numbers, Table, Trim
from fedcore.cli.psi_shown import party_shown
from fedcore.cli.psi_words import data_of
from fedcore.cli.sizes import parse_size
from fedcore.errors import JobError


def publish(
    data: Annotated[Path, typer.Option(help="The file whose keys are published, masked.")],
    out: Annotated[Path, typer.Option(help="The published set, for everyone who may ask.")],
    secret: Annotated[Path, typer.Option(help="The secret that answers for it; stays here.")],
    key: Key = None,
    lifetime: Annotated[
        int | None,
        typer.Option(
            help="Items that may be asked for in all, with 64 for the check of each query; 2^30 when left out.",
            show_default=False,
        ),
    ] = None,
    table: Table = None,
    dataset: Dataset = None,
    memory_limit: MemoryLimit = None,
    trim: Trim = False,
    fold_case: Fold = False,
    numbers_as_text: Numbers = False,
    dates_as_text: Dates = False,
    as_json: Json = False,
) -> None:
    """Publish a large set once, so that small sets can be intersected with it at the cost of the small ones.

    Give the published file to those who may ask; answer each with `fedcore psi party --role sender --secret`.

    Example: fedcore psi publish --data customers.parquet --key id --out customers.psi --secret customers.secret
    """
    if not key:
        raise JobError("give --key COLUMN, once for each column of the key")
    from crypto.psi.items import ItemRules
    from fedcore.participant.intersection import Side
    from fedcore.participant.intersection.published import LIFETIME
    from fedcore.participant.intersection.published import publish as publish_set

    rules = ItemRules(
        trim=trim, fold_case=fold_case, numbers_as_text=numbers_as_text, dates_as_text=dates_as_text
    )
    side = Side(
        role="receiver",
        data=data_of(data, table, dataset),
        key=tuple(key),
        session="",
        rules=rules,
        memory=None if memory_limit is None else parse_size(memory_limit, "--memory-limit"),
    )
    with party_shown(as_json) as watch:
        told = publish_set(
            side, out, secret, lifetime=LIFETIME if lifetime is None else lifetime, watch=watch
        )
    if as_json:
        print_json(told)
        return
    typer.echo(
        f"{told['rows']:,} rows, {told['nulls']:,} without a key, {told['duplicates']:,} duplicates, {told['items']:,} items"
    )
    typer.echo(f"published  {out} ({told['bytes'] / 1e6:,.1f} MB): give it to those who may ask")
    typer.echo(f"secret     {secret} (mode 0600; never leaves this machine)")
    typer.echo(f"counter    {secret}.spent: {told['lifetime']:,} items may be asked for in all")
