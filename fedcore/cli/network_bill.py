"""`fedcore network bill`: who used what in a run, what it costs, and who is paid what."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.errors import DataError, JobError

if TYPE_CHECKING:
    from rich.console import Console

    from fedcore.network.contribution import Contribution
    from fedcore.network.settlement import Reimbursements, Settlement
    from fedcore.network.usage import UsageRecord
    from fedcore.network.usage_log import Totals

_PLACES = {"JPY": 0, "KRW": 0, "VND": 0, "CLP": 0, "BHD": 3, "KWD": 3, "OMR": 3, "TND": 3}
"""Decimal places of currencies that have not two (ISO 4217)."""
_PEERS = "peers.json"


@dataclass(frozen=True)
class Bill:
    """What the command found.

    Args:
        run: The run's name.
        owners, everyone: What was used.
        records: All of them.
        checked: Whether signatures were checked; not of a run without keys.
        reimbursements, contribution, settlement: What is paid; the last is None where nothing can be settled.
        notes: What a reader must know.
    """

    run: str
    owners: dict[str, Totals]
    everyone: Totals
    records: tuple[UsageRecord, ...]
    checked: bool
    reimbursements: Reimbursements | None
    contribution: Contribution
    settlement: Settlement | None
    notes: tuple[str, ...]


def bill(
    run: Annotated[
        str, typer.Argument(help='A run folder, a name in runs/, or "last".', metavar="RUN")
    ] = "last",
    as_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write every record to this file, one row each.")
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(help="Check signatures with this roster's keys; the run's own copy otherwise."),
    ] = None,
    gain: Annotated[str, typer.Option(help="An amount to split by contribution, as 1000.00.")] = "0",
    cap: Annotated[str | None, typer.Option(help="Largest share of the gain for one owner, as 0.3.")] = None,
    contributions: Annotated[
        Path | None,
        typer.Option(
            help="JSON file: owner to contribution, as GTG-Shapley gave them; by usage when absent."
        ),
    ] = None,
    owner: Annotated[
        list[str] | None, typer.Option(help="Of this owner only; may be given several times.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show who used what in a run, what it costs, and settle it.

    Each record bears the owner's figures and what the coordinator saw, signed by
    both. A record in dispute is not paid until that is settled. Carbon is shown
    by the grid and by contract; the second never replaces the first.

    Example: fedcore network bill last --csv usage.csv
    """
    from fedcore.cli.show import find_run

    found = make_bill(
        find_run(run),
        roster=roster,
        gain=_decimal(gain, "--gain"),
        cap=None if cap is None else _decimal(cap, "--cap"),
        contributions=contributions,
        owners=owner or [],
    )
    if as_csv is not None:
        write_csv(found.records, as_csv)
    if as_json:
        print_json(bill_json(found))
        return
    from rich.console import Console

    show_bill(found, Console())


def make_bill(
    folder: Path,
    *,
    roster: Path | None = None,
    gain: Decimal = Decimal(0),
    cap: Decimal | None = None,
    contributions: Path | None = None,
    owners: Sequence[str] = (),
) -> Bill:
    """The bill of a run.

    Args:
        folder: Of the run.
        roster: With whose keys signatures are checked.
        gain, cap, contributions: As the command's options.
        owners: Only these; all when empty.

    Raises:
        JobError: The run has no usage records, or a file cannot be read.
        DataError, IdentityError: Records were changed, or are not signed as they must be.
    """
    from fedcore.network.settlement import reimbursements, settle
    from fedcore.network.usage_log import FILE, check_log, read_log, totals

    records = [
        each for each in read_log(folder / "evidence" / FILE) if not owners or each.said.owner in owners
    ]
    if not records:
        raise JobError(
            f"{folder} has no usage records{' of ' + ', '.join(owners) if owners else ''}. They are written by train jobs "
            "over participants with files of their own; virtual participants have none"
        )
    about = _json(folder / "run.json")
    pins = _pins(folder, roster)
    checked = bool(pins) or about.get("engine") == "deployment"
    check_log(records, pins, signed=checked)
    each, everyone = totals(records)
    notes = _notes(records, checked)
    due = settlement = None
    contribution = _contribution(each, contributions, about)
    try:
        due = reimbursements(records)
    except DataError as error:
        notes.append(error.message)
    if due is not None:
        notes += _unpaid(due)
        if due.currency or gain:
            settlement = settle(
                due.due,
                contribution.values,
                gain,
                cap=cap,
                places=_PLACES.get(due.currency, 2),
                currency=due.currency,
            )
    elif gain:
        raise JobError(f"the gain cannot be settled: {notes[-1]}")
    if gain and contribution.why:
        notes.append(f"The gain is split by usage: {contribution.why}")
    run = str(about.get("run") or records[0].said.run)
    return Bill(run, each, everyone, tuple(records), checked, due, contribution, settlement, tuple(notes))


def _notes(records: Sequence[UsageRecord], checked: bool) -> list[str]:
    found = []
    if not checked:
        found.append("Signatures were not asked for: all participants ran on one machine.")
    without = sorted({each.said.owner for each in records if each.said.kwh is None})
    if without:
        found.append(f"Without a node's descriptor, so without energy, carbon and price: {_listed(without)}.")
    plain = sorted({each.said.owner for each in records if each.said.kwh is not None and not each.said.pue})
    if plain:
        found.append(f"PUE is not known, and energy is the machines' own: {_listed(plain)}.")
    found += [
        f"In dispute, {each.said.owner}, {each.seen.phase}: {why}"
        for each in records
        for why in each.disputes
    ]
    return found


def _unpaid(due: Reimbursements) -> list[str]:
    found = [
        f"Held back of {name} until a dispute is settled: {amount:f} {due.currency}"
        for name, amount in due.held.items()
    ]
    if due.currency:
        found += [f"{name} has {count} records without a price." for name, count in due.unpriced.items()]
    return found


def _contribution(owners: Mapping[str, Totals], file: Path | None, about: Mapping[str, Any]) -> Contribution:
    from fedcore.network.contribution import Contribution, by_usage

    if file is not None:
        told = _json(file)
        for name, value in told.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise JobError(f"{file}: the contribution of {name} is {value!r}; allowed: a number")
        return Contribution({name: float(value) for name, value in sorted(told.items())})
    asked = about.get("job", {}).get("protection", {}).get("secure_aggregation", "none")
    protocol = asked.get("protocol", "none") if isinstance(asked, dict) else str(asked)
    why = "no contributions were given; they are computed with fedcore.network.contribution"
    if protocol != "none":
        why = f"updates were summed under {protocol}, so that nobody can know what each contributed"
    if all(each.tflops_h is not None for each in owners.values()):
        return by_usage({name: each.tflops_h or 0.0 for name, each in owners.items()}, f"{why}; by TFLOP/s.h")
    return by_usage(
        {name: each.seconds for name, each in owners.items()}, f"{why}; by seconds, the only measure of all"
    )


def _pins(folder: Path, roster: Path | None) -> dict[str, str]:
    """Whose key is whose: by the roster, else by what the run was started with."""
    if roster is not None:
        from fedcore.jobs.load import load_roster

        return {name: member.public_key for name, member in load_roster(roster).members.items()}
    file = folder / _PEERS
    if not file.exists():
        return {}
    told = _json(file)
    pins = {str(name): str(line) for name, line in told.get("keys", {}).items()}
    beside = Path(f"{told['identity']}.pub") if told.get("identity") else None
    if beside is not None and beside.is_file():
        pins.setdefault("coordinator", beside.read_text(encoding="utf-8").strip())
    return pins


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise JobError(f"{file} holds a {type(found).__name__}; allowed: an object")
    return found


def _decimal(text: str, option: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise JobError(f"{option} is {text!r}; allowed: a decimal number, as 1000.00")
    return found


# ---- how it is shown -------------------------------------------------------------------------------------------


def bill_json(found: Bill) -> dict[str, Any]:
    """The bill for machines; amounts of money as decimal text."""
    return {
        "run": found.run,
        "owners": {name: each.to_json() for name, each in found.owners.items()},
        "total": found.everyone.to_json(),
        "signatures": {"checked": found.checked, "both": found.everyone.signed},
        "disputes": [
            {"id": each.id, "owner": each.said.owner, "step": each.seen.phase, "why": list(each.disputes)}
            for each in found.records
            if each.disputes
        ],
        "contribution": {"how": found.contribution.how, "values": found.contribution.values},
        "settlement": found.settlement.to_json() if found.settlement else None,
        "notes": list(found.notes),
    }


def write_csv(records: Sequence[UsageRecord], file: Path) -> None:
    """One row for each record: the owner's half by its names, then `seen_...`, disputes and signatures.

    Raises:
        JobError: The file cannot be written.
    """
    rows = []
    for each in records:
        seen = {f"seen_{name}": value for name, value in each.seen.model_dump(mode="json").items()}
        rows.append(
            {
                **each.said.to_json(),
                **seen,
                "disputes": "; ".join(each.disputes),
                "owner_signature": each.owner_signature,
                "coordinator_signature": each.coordinator_signature,
            }
        )
    try:
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise JobError(f"{file} cannot be written: {error.strerror}") from error


def show_bill(found: Bill, console: Console) -> None:
    """The bill for people: a table of use, one of who is paid what, and what must be known of them."""
    from rich.table import Table
    from rich.text import Text

    head = Text(found.run, style="bold")
    head.append(f"  {found.everyone.records} records", style="dim")
    head.append(f", {found.everyone.signed} signed by both" if found.checked else ", not signed", style="dim")
    console.print(head)
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("owner", "s", "TFLOP/s.h", "MB down", "MB up", "kWh", "g grid", "g contract", "price")
    for column in columns:
        table.add_column(column, justify="left" if column == "owner" else "right", no_wrap=True)
    for name, each in found.owners.items():
        table.add_row(*_row(name, each))
    if len(found.owners) > 1:
        table.add_row(*_row("all", found.everyone), style="bold")
    console.print(table)
    console.print(Text("kWh with PUE. Grams by the grid's mean and by the owners' contracts.", style="dim"))
    if found.settlement is not None:
        _show_settlement(found.settlement, console)
    for note in found.notes:
        style = "yellow" if note.startswith(("In dispute", "Held back")) else "dim"
        console.print(Text(note, style=style))


def _show_settlement(settlement: Settlement, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left")
    for column in ("owner", "reimbursed", "gain", "gets"):
        table.add_column(column, justify="left" if column == "owner" else "right", no_wrap=True)
    for name, share in settlement.shares.items():
        capped = " (cap)" if share.capped else ""
        table.add_row(name, f"{share.reimbursed}", f"{share.gain}{capped}", f"{share.total}")
    console.print(Text(f"\npot {settlement.pot} {settlement.currency}".rstrip(), style="bold"))
    console.print(table)
    for name, value in settlement.clipped.items():
        console.print(Text(f"{name} contributed {value:.3g}, which counts as 0.", style="yellow"))


def _row(name: str, each: Totals) -> list[str]:
    return [
        name,
        _number(each.seconds),
        _number(each.tflops_h),
        f"{each.bytes_down / 1e6:.3f}",
        f"{each.bytes_up / 1e6:.3f}",
        _number(each.energy),
        _grams(each.gco2_location),
        _grams(each.gco2_market),
        " + ".join(f"{value:.4f} {currency}" for currency, value in sorted(each.prices.items())) or "-",
    ]


def _grams(found: Mapping[str, float]) -> str:
    return " + ".join(f"{_number(value)} {gas}" for gas, value in sorted(found.items())) or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
