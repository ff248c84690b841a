"""`fedcore network probe`: what this machine can do, measured, and signed by its owner."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedcore.cli.network_bill import bill
from fedcore.cli.network_plan import plan
from fedcore.cli.network_show import show
from fedcore.cli.output import Json, print_json
from fedcore.errors import IdentityError, JobError

if TYPE_CHECKING:
    from fedcore.network.node import NodeFile
    from fedcore.network.quantity import Quantity
    from fedcore.trust.identity import Identity

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The compute network: measure nodes, place the work, account for it.",
)


@app.callback()
def _group() -> None:
    """The compute network: measure nodes, place the work, account for it."""


app.command()(bill)
app.command()(plan)
app.command()(show)


@app.command()
def probe(
    node: Annotated[
        Path | None,
        typer.Argument(metavar="[NODE.yaml]", help="What its owner says of the node: name, place, price."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The owner's private key; the descriptor is signed with it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the descriptor goes; beside NODE.yaml when there is a key.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for measuring: 10 when a node joins, 1 later.")] = 10.0,
    devices: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    run: Annotated[
        Path | None,
        typer.Option(help="A finished run of the owner's: its samples per second are taken over."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure this machine, and make the signed descriptor that others plan with.

    Products of matrices, memory, elliptic curves and ciphers are timed; power is
    counted where the hardware does that. What spreads too widely, or was
    measured while others used the machine, is marked as unreliable.

    Without NODE.yaml it is only shown. With one, and the owner's key, the
    descriptor is written and signed.

    Example: fedcore network probe node.yaml --key keys/hospital-1.key
    """
    from fedcore.network import descriptor
    from fedcore.network import node as nodes
    from fedcore.network import probe as probing
    from fedcore.network.quantity import check_quantities

    # What can be wrong is found before ten seconds are spent.
    said = nodes.load_node(node) if node else None
    if said is None and (key or out):
        raise JobError(
            "a descriptor needs a file that says whose node it is. Cure: fedcore network probe NODE.yaml --key KEY"
        )
    if said is not None:
        nodes.declared_quantities(said)
    identity = _owner_key(key, said.owner) if key and said else None
    found: dict[str, Any] = {}
    if run is not None:
        if said is None:
            raise JobError(
                "a run has several participants. Cure: name the node's file, which says whose it is"
            )
        name, rate = probing.work_rate(_result(run), said.owner)
        found[name] = rate
    with _progress(as_json) as report:
        probed = probing.probe(seconds, devices=devices, report=report)
    found = {**probed.quantities, **found}
    told: dict[str, Any] = {
        "processor": probed.processor,
        "seconds": round(probed.seconds, 3),
        "busy": round(probed.busy, 3),
        "skipped": probed.skipped,
    }
    if said is None:
        check_quantities(found)
        quantities = found
    else:
        file = out or (node.with_name(f"{said.node}.descriptor.json") if identity and node else None)
        # A short probe looks at a part only; the rest keeps its value and its age.
        found = probing.newer(_known(file, said, identity), found)
        made = descriptor.describe(said, found)
        if identity is not None:
            made = descriptor.sign_descriptor(made, identity)
        if file is not None:
            descriptor.write_descriptor(made, file)
        quantities = made.quantities
        told |= {
            "node": made.node,
            "owner": made.owner,
            "exposure": made.exposure,
            "expires": made.expires,
            "signed": bool(made.signature),
            "fingerprint": identity.fingerprint if identity else None,
            "file": str(file) if file else None,
        }
    told["unreliable"] = {name: each.doubt for name, each in quantities.items() if each.doubt}
    if as_json:
        print_json(
            {
                **told,
                "quantities": {name: asdict(quantities[name]) for name in probing.names(list(quantities))},
            }
        )
        return
    from fedcore.cli.network_shown import show_probe

    show_probe(told, {name: quantities[name] for name in probing.names(list(quantities))})


def _owner_key(key: Path, owner: str) -> Identity:
    """The owner's key; one that was made for another name is refused before ten seconds are spent on it."""
    from fedcore.trust.identity import load_identity

    named = load_identity(key).name
    # What ssh-keygen writes as a comment is no party's name.
    if key.with_name(f"{key.name}.pub").exists() and "@" not in named and named != owner:
        raise IdentityError(
            f"{key} is the key of {named}, and the node is {owner}'s; allowed: the owner's key. Cure: --key with the key of "
            f"{owner}, or owner: {named} in the node's file"
        )
    return load_identity(key, owner)


def _known(file: Path | None, said: NodeFile, identity: Identity | None) -> dict[str, Quantity]:
    """What was measured of the node before, as its last descriptor has it under the owner's own signature."""
    from fedcore.network import descriptor
    from fedcore.network.signed import check_signature

    if file is None or identity is None or not file.is_file():
        return {}
    last = descriptor.load_descriptor(file)
    if (last.owner, last.node) != (said.owner, said.node):
        raise JobError(
            f"{file} is the descriptor of {last.owner}/{last.node}, and {said.owner}/{said.node} is probed. Cure: another "
            "--out"
        )
    check_signature(
        descriptor.KIND,
        descriptor.payload(last),
        last.signature,
        said.owner,
        {said.owner: identity.public_line},
    )
    if last.exposure != "L0":
        return {}
    return {name: each for name, each in last.quantities.items() if each.source in ("measured", "attested")}


def _result(run: Path) -> dict[str, Any]:
    """What `result.json` of a run holds."""
    file = run / "result.json" if run.is_dir() else run
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise JobError(
            f"{file} cannot be read as a run's result. Cure: name a folder such as runs/<name>-<time>"
        ) from exc
    if not isinstance(found, dict):
        raise JobError(f"{file} is no run's result. Cure: name a folder such as runs/<name>-<time>")
    return found


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str], None]]:
    """A line that says what is being measured; nothing where nobody looks."""
    if as_json or not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status("loading") as line:
        yield lambda name: line.update(f"measuring {name}")
