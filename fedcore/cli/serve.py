"""`fedcore serve` and `fedcore score`: joint scores of new customers from models that stay apart."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedcore.cli.output import Json, print_json
from fedcore.errors import JobError, ProtocolFailed

if TYPE_CHECKING:
    from fedcore.jobs.participant import Participant
    from fedcore.trust.identity import Identity
    from fedcore.vertical.package import Package

File = Annotated[Path, typer.Argument(metavar="PARTICIPANT.yaml", help="Participant file of this site.")]
Model = Annotated[
    Path, typer.Option(metavar="FOLDER", help="This party's part of the model, as the run wrote it.")
]
Unsigned = Annotated[
    bool, typer.Option("--unsigned", help="Take a part of a model that this party's key has not signed.")
]


def command(
    file: File,
    model: Model,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to wait; inbound of the file when left out."),
    ] = None,
    unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Answer for this party's part of a joint model, until Ctrl-C.

    The model's label holder asks by key, and gets this party's part of each score: it may do so only if a rule of the
    file allows it (jobs: vertical, peers, and reveal: scores, splits or activations) and with the key that the file pins to it.
    Customers that are not in the data set are scored as if all values were missing.

    Example: fedcore serve telecom.yaml --model models/champion
    """
    from fedcore.jobs.load import load_participant
    from fedcore.participant.serving import Service

    participant = load_participant(file)
    own, package = _part(participant, model, unsigned)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: over.set())
    about = package.about
    with Service(participant, package, own, listen) as service:
        told = {
            "address": service.address,
            "fingerprint": own.fingerprint,
            "party": about.party,
            "run": about.run,
            "model": about.model,
            "for": about.holder,
            "rows": len(service.rows),
            "duplicates": service.rows.duplicates,
        }
        if as_json:
            print_json(told)
        else:
            typer.echo(f"{about.party} serves {about.model} of run {about.run} at {service.address}")
            typer.echo(f"for {about.holder} only, {len(service.rows):,} customers, key {own.fingerprint}")
            if service.rows.duplicates:
                typer.echo(f"{service.rows.duplicates:,} rows do not count: an earlier one has their key")
            typer.echo("Ctrl-C ends it")
        typer.get_text_stream("stdout").flush()
        over.wait()
        answered = service.served
    if as_json:
        print_json(
            {"requests": answered.requests, "rows": answered.rows, "unknown": answered.unknown},
        )
    else:
        typer.echo(
            f"{answered.requests:,} requests for {answered.rows:,} customers, {answered.unknown:,} of them unknown here"
        )


def score(
    file: File,
    model: Model,
    new: Annotated[
        Path, typer.Option("--in", metavar="FILE", help="New customers, .csv or .parquet, with their keys.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the scores go, .csv or .parquet.")],
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]HOST:PORT",
            help="Where a partner serves; once for each, the name where there are several. What the file's peers say "
            "when left out.",
        ),
    ] = None,
    single: Annotated[
        int,
        typer.Option(
            min=0, help="Ask for so many customers one at a time besides, and tell how long it takes."
        ),
    ] = 0,
    reasons: Annotated[
        int,
        typer.Option(
            min=0, help="Of a scorecard: name so many own variables that cost each customer most points."
        ),
    ] = 0,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the partners.")] = 30.0,
    unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Score new customers with this party's part of a joint model and those of the partners, which serve them.

    The partners learn which customers are asked for, and no score.

    Example: fedcore score bank.yaml --model models/champion --at telecom.example:7400 --in new.csv --out scores.csv
    """
    from crypto.errors import ProtocolError
    from fedcore.jobs.load import load_participant
    from fedcore.participant.asking import Asking, read_new, reasons_of, write_scores
    from fedcore.vertical.scoring import latency, rows_of

    participant = load_participant(file)
    own, package = _part(participant, model, unsigned)
    about = package.about
    places = _places(at or [], about.partners)
    items, table, keys = read_new(new, about)
    why = reasons_of(package, table, reasons) if reasons else None
    times = None
    try:
        with Asking(participant, package, own, places, wait) as asking:
            found = asking.scorer.score(items, table)
            if single:

                def one(number: int) -> None:
                    row = slice(number % len(items), number % len(items) + 1)
                    asking.scorer.score(items[row], rows_of(table, row))

                times = latency(one, single)
    except ProtocolError as error:
        raise ProtocolFailed(error.message, step=error.step) from error
    write_scores(out, keys, found.values, why)
    if as_json:
        measured = None
        if times is not None:
            measured = {
                "requests": times.requests,
                "p50_ms": times.p50,
                "p99_ms": times.p99,
                "mean_ms": times.mean,
            }
        print_json(
            {
                "out": str(out),
                "run": about.run,
                "model": about.model,
                "rows": len(items),
                "unknown": found.unknown,
                "single": measured,
            }
        )
        return
    typer.echo(f"{len(items):,} customers scored with {about.model} of run {about.run}: {out}")
    for name, unknown in found.unknown.items():
        typer.echo(f"{name} does not have {unknown:,} of them; its values count as missing there")
    if times is not None:
        typer.echo(f"one at a time: {times}")


def _part(participant: Participant, model: Path, unsigned: bool) -> tuple[Identity, Package]:
    """The site's key and its part of the model, which that key must have signed."""
    from fedcore.participant.meeting import identity_of
    from fedcore.vertical.package import load_package

    own = identity_of(participant)
    return own, load_package(model, None if unsigned else [own.public_line])


def _places(given: list[str], partners: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, address = each.rpartition("=")
        if not equals:
            if len(partners) > 1:
                raise JobError(
                    f"--at {each}: the model has the partners {', '.join(partners)}; say which, as in {partners[0]}={each}"
                )
            name = partners[0]
        if name in found:
            raise JobError(f"--at: {name} stands twice; give it once")
        found[name] = address
    return found
