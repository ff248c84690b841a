"""`fedcore psi` and `fedcore psi party`: the rows that two parties share, without a coordinator."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, print_json
from fedcore.cli.psi_shown import EVENTS, EVENTS_TO, both_shown, party_shown, print_party, print_result
from fedcore.errors import FedcoreError, JobError, PeerLost, ProtocolFailed
from fedcore.trust.identity import new_identity

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    invoke_without_command=True,
    help="Find the rows that two parties share, and nothing else.",
)

Key = Annotated[list[str] | None, typer.Option("--key", "-k", help="Key column; give it once for each.")]
Protocol = Annotated[str, typer.Option(help="vole or ecdh.")]
Reveal = Annotated[str, typer.Option(help="rows or cardinality.")]
Trim = Annotated[bool, typer.Option("--trim", help="White space around a text does not count.")]
Fold = Annotated[bool, typer.Option("--fold-case", help="Capital and small letters are the same.")]
Numbers = Annotated[
    bool,
    typer.Option("--numbers-as-text", help="A number is its decimal text; for CSV against typed columns."),
]
Dates = Annotated[
    bool,
    typer.Option("--dates-as-text", help="A date is its text, 2026-01-31; for CSV against typed columns."),
]
_POLL = 0.1
_LAST_WORDS = 5.0
"""Seconds that a party has to tell its error when the other has lost it."""


@app.callback()
def psi(
    context: typer.Context,
    left: Annotated[Path | None, typer.Option(help="File of the side that learns the result.")] = None,
    right: Annotated[Path | None, typer.Option(help="File of the other side.")] = None,
    key: Key = None,
    right_key: Annotated[
        list[str] | None, typer.Option("--right-key", help="Key column of the right file where it differs.")
    ] = None,
    protocol: Protocol = "vole",
    reveal: Reveal = "rows",
    to: Annotated[str, typer.Option(help="left, or both sides in the same order.")] = "left",
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
    if context.invoked_subcommand is not None:
        return
    if left is None or right is None or not key:
        raise JobError(
            "give --left FILE, --right FILE and --key COLUMN; `fedcore psi --help` shows an example"
        )
    if to not in ("left", "both"):
        raise JobError(f"--to: {to!r} is not known; allowed: left, both")
    words = ["--protocol", protocol, "--reveal", reveal]
    words += [flag for flag, on in (("--trim", trim), ("--fold-case", fold_case)) if on]
    words += ["--numbers-as-text"] * numbers_as_text + ["--dates-as-text"] * dates_as_text
    words += ["--both"] * (to == "both")
    sides = {"left": ("receiver", left, key), "right": ("sender", right, right_key or key)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedcore-psi-") as keys, both_shown(out, as_json) as poll:
        told = _both(sides, words, out, Path(keys), poll)
    result = {"seconds": time.monotonic() - began, "folder": str(out), **told}
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print_json(result)
    else:
        print_result(result)


@app.command()
def party(
    role: Annotated[str, typer.Option(help="receiver (learns the result) or sender.")],
    data: Annotated[Path, typer.Option(help="This party's file.")],
    identity: Annotated[Path, typer.Option(help="This party's private key file.")],
    peer_key: Annotated[
        str, typer.Option(help="The other party's public key line, or the file that has it.")
    ],
    key: Key = None,
    listen: Annotated[str | None, typer.Option(help="host:port to wait at.")] = None,
    connect: Annotated[str | None, typer.Option(help="host:port of the other party.")] = None,
    session: Annotated[str, typer.Option(help="Name of the meeting, the same at both.")] = "psi",
    protocol: Protocol = "vole",
    reveal: Reveal = "rows",
    both: Annotated[
        bool, typer.Option("--both", help="The sender learns the rows too; the same at both.")
    ] = False,
    trim: Trim = False,
    fold_case: Fold = False,
    numbers_as_text: Numbers = False,
    dates_as_text: Dates = False,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("runs/psi"),
    wait: Annotated[float, typer.Option(help="Seconds to wait for the other party.")] = 300.0,
    as_json: Json = False,
) -> None:
    """Take part in an intersection from this machine. The other party runs the same with the other role.

    Example: fedcore psi party --role receiver --data bank.parquet --key id --identity bank.key --peer-key telecom.pub --listen 0.0.0.0:9443
    """
    if (listen is None) == (connect is None):
        raise JobError(
            "give one of --listen HOST:PORT and --connect HOST:PORT: one party waits, the other calls"
        )
    if not key:
        raise JobError("give --key COLUMN, once for each column of the key")
    from crypto.psi.items import ItemRules
    from fedcore.participant.data.batches import file_data
    from fedcore.participant.intersection import Side, intersect
    from fedcore.trust.identity import load_identity

    keep_freed_memory()
    own = load_identity(identity)
    side = Side(
        role=role,  # type: ignore[arg-type]
        data=file_data(data),
        key=tuple(key),
        session=session,
        rules=ItemRules(
            trim=trim, fold_case=fold_case, numbers_as_text=numbers_as_text, dates_as_text=dates_as_text
        ),
        protocol=protocol,
        reveal=reveal,
        both=both,
    )
    meet = _meeting(own, _public_line(peer_key), session, listen, connect, wait)
    with party_shown(as_json) as watch:
        result = intersect(meet, side, out, watch)
    if as_json:
        print_json(result)
    else:
        print_party(result, out)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next array, where it is glibc.

    A protocol takes and frees arrays of megabytes for every message. Given back to the system each time, their pages
    come back zeroed by the kernel: at ten million rows a side two seconds of processor time out of fifteen.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        for option, value in ((trim_threshold, 2**28), (top_pad, 2**24), (mmap_threshold, 2**25)):
            library.mallopt(option, value)


def _meeting(
    own: Any, peer_line: str, session: str, listen: str | None, connect: str | None, wait: float
) -> Callable[[], Any]:
    from fedcore.peer.grpc_channel import GrpcChannel, Listener
    from fedcore.peer.tls import Peer

    peer = Peer("the other party", peer_line)

    def meet() -> Any:
        if connect is not None:
            return GrpcChannel.connect(connect, identity=own, peer=peer, session=session, deadline=wait)
        return Listener(str(listen), identity=own, peer=peer, session=session).accept(wait)

    return meet


def _public_line(given: str) -> str:
    file = Path(given)
    if given.startswith("ecdsa-"):
        return given
    if not file.is_file():
        raise JobError(
            f"--peer-key: {given!r} is neither a file nor a public key line (ecdsa-sha2-nistp384 ...)"
        )
    return file.read_text().strip()


# ---- two processes on this machine ------------------------------------------------------------------------------


def _both(
    sides: dict[str, tuple[str, Path, list[str]]],
    words: list[str],
    out: Path,
    keys: Path,
    poll: Callable[[], None],
) -> dict[str, Any]:
    """Run both parties; what each found."""
    for name in sides:
        new_identity(keys / f"{name}.key", name)
        try:
            (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(
                f"--out: the folder {out / name} cannot be made ({error.strerror}); choose another place"
            ) from error
        for stale in (EVENTS, "result.json", "rows.parquet"):
            (out / name / stale).unlink(missing_ok=True)
    session, address = secrets.token_hex(8), _free_address()
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, other in (("left", "right"), ("right", "left")):
            role, file, columns = sides[name]
            command = [sys.executable, "-m", "fedcore", "psi", "party", "--role", role, "--data", str(file)]
            command += ["--identity", str(keys / f"{name}.key"), "--peer-key", str(keys / f"{other}.key.pub")]
            command += [word for column in columns for word in ("--key", column)]
            command += ["--session", session, "--out", str(out / name), "--json", *words]
            command += ["--listen" if name == "left" else "--connect", address]
            started[name] = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, EVENTS_TO: str(out / name / EVENTS)},
            )
        return _ended(started, poll)
    finally:
        for process in started.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _ended(started: dict[str, subprocess.Popen[str]], poll: Callable[[], None]) -> dict[str, Any]:
    """Wait for both; the first that fails ends the other, which would tell no more than that it was left alone."""
    while any(process.poll() is None for process in started.values()):
        poll()
        time.sleep(_POLL)
        if any(process.poll() not in (None, 0) for process in started.values()):
            break
    poll()
    failed = [name for name, process in started.items() if process.poll() not in (None, 0)]
    if failed:
        # The party that was left alone may be the first to end.
        until = time.monotonic() + _LAST_WORDS
        while any(process.poll() is None for process in started.values()) and time.monotonic() < until:
            if any(started[name].returncode != PeerLost.exit_code for name in failed):
                break
            time.sleep(_POLL)
        failed = [name for name, process in started.items() if process.poll() not in (None, 0)]
        # Where both failed, the one that lost its peer is not the one with the cause.
        told = {name: _failure(name, started[name]) for name in failed}
        raise next((one for one in told.values() if not isinstance(one, PeerLost)), told[failed[0]])
    found = {name: json.loads(process.communicate()[0]) for name, process in started.items()}
    return {"intersection": found["left"]["intersection"], **found}


def _failure(name: str, process: subprocess.Popen[str]) -> FedcoreError:
    from fedcore import errors

    out, err = process.communicate()
    try:
        told = json.loads(out)["error"]
    except (ValueError, KeyError):
        code = process.returncode
        if code < 0:
            return ProtocolFailed(
                f"its process was killed by signal {-code}; the system does so where memory runs out",
                party=name,
            )
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        return ProtocolFailed(f"its process ended with {code}: {last}", party=name)
    kind = getattr(errors, str(told["type"]), FedcoreError)
    raised: FedcoreError = kind(told["message"], party=told["party"] or name, step=told["step"])
    return raised
