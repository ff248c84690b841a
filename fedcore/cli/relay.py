"""`fedcore relay`: where two parties meet that can both only call out."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedcore.cli.output import Json, print_json
from fedcore.errors import JobError

if TYPE_CHECKING:
    from fedcore.peer.tls import Peer


def command(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to wait for parties; port 0 takes a free one.")
    ],
    identity: Annotated[Path, typer.Option(help="The relay's private key file.")],
    party: Annotated[
        list[Path] | None,
        typer.Option(
            help="A party's .pub file, or a folder of them; give it once for each. Nobody else is served."
        ),
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Pairs of parties at once, at most.")] = 16,
    as_json: Json = False,
) -> None:
    """Carry frames between parties that cannot be called, until Ctrl-C.

    The frames are encrypted between the two parties: the relay sees who talks to whom, sizes and times, and nothing
    else. Each party names the relay and its key: `fedcore psi party --relay HOST:PORT --relay-key relay.key.pub ...`.

    Example: fedcore relay --listen 0.0.0.0:9444 --identity relay.key --party bank.key.pub --party telecom.key.pub
    """
    from fedcore.peer.relay import Relay
    from fedcore.trust.identity import load_identity

    parties = parties_of(party or [])
    own = load_identity(identity, "relay")
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: over.set())
    with Relay(listen, identity=own, parties=parties, sessions=sessions) as relay:
        names = [each.name for each in parties]
        if as_json:
            print_json({"address": relay.address, "fingerprint": own.fingerprint, "parties": names})
        else:
            typer.echo(f"relay at {relay.address}, key {own.fingerprint}")
            typer.echo(f"for {', '.join(names)}; Ctrl-C ends it")
        typer.get_text_stream("stdout").flush()
        over.wait()
        told = {"frames": relay.frames, "bytes": relay.bytes}
    if as_json:
        print_json(told)
    else:
        typer.echo(f"{told['frames']:,} frames, {told['bytes']:,} bytes carried")


def parties_of(files: list[Path]) -> list[Peer]:
    """The parties of some .pub files and folders, each named by its file.

    Raises:
        JobError: There are fewer than two, or a file is not there.
    """
    from fedcore.peer.tls import Peer
    from fedcore.trust.identity import public_blob

    found: dict[bytes, Peer] = {}
    for file in [
        each for path in files for each in (sorted(path.glob("*.pub")) if path.is_dir() else [path])
    ]:
        try:
            line = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(
                f"--party: {file} cannot be read ({getattr(error, 'strerror', None) or 'no text'})"
            ) from error
        found[public_blob(line)] = Peer(file.name.removesuffix(".pub").removesuffix(".key"), line)
    if len(found) < 2:
        raise JobError(f"--party: {len(found)} parties; give two .pub files or more, or a folder of them")
    return list(found.values())
