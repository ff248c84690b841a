"""Both parties of an intersection on this machine, each a process of its own: what `fedcore psi` does.

It does without the command line library, so that `fedcore.cli.start` can.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedcore.cli.psi_shown import EVENTS, EVENTS_TO, both_shown, print_machine, print_result
from fedcore.cli.psi_words import SumWords, answer_of, data_words
from fedcore.errors import FedcoreError, JobError, PeerLost, ProtocolFailed, did_you_mean
from fedcore.trust.identity import new_identity

_POLL = 0.1
"""Seconds between two looks at how far the parties are."""
_LAST_WORDS = 5.0
"""Seconds that a party has to tell its error when the other has lost it."""


def intersect_both(
    *,
    left: Path | None = None,
    right: Path | None = None,
    key: list[str] | None = None,
    right_key: list[str] | None = None,
    protocol: str | None = None,
    reveal: str = "rows",
    to: str = "left",
    min_matches: int | None = None,
    amount_scale: int | None = None,
    amount_bounds: str | None = None,
    holder: str | None = None,
    left_table: str | None = None,
    right_table: str | None = None,
    left_dataset: str | None = None,
    right_dataset: str | None = None,
    memory_limit: str | None = None,
    trim: bool = False,
    fold_case: bool = False,
    numbers_as_text: bool = False,
    dates_as_text: bool = False,
    out: Path = Path("runs/psi"),
    as_json: bool = False,
) -> None:
    """Run both parties, write what they found, and tell it. The arguments are the command's options.

    Raises:
        FedcoreError: Options that cannot be used, or the error of the party that failed.
    """
    if left is None or right is None or not key:
        raise JobError(
            "give --left FILE, --right FILE and --key COLUMN; `fedcore psi --help` shows an example"
        )
    if to not in ("left", "right", "both"):
        raise JobError(f"--to: {to!r} is not known; {did_you_mean(to, ('left', 'right', 'both'))}")
    words = ["--reveal", reveal]
    for option, value in (
        ("--protocol", protocol),
        ("--min-matches", min_matches),
        ("--memory-limit", memory_limit),
    ):
        words += [option, str(value)] if value is not None else []
    words += [flag for flag, on in (("--trim", trim), ("--fold-case", fold_case)) if on]
    words += ["--numbers-as-text"] * numbers_as_text + ["--dates-as-text"] * dates_as_text
    words += ["--both"] * (to == "both")
    receiver = "right" if to == "right" else "left"
    roles = {name: "receiver" if name == receiver else "sender" for name in ("left", "right")}
    own = {
        "left": data_words(left_table, left_dataset),
        "right": data_words(right_table, right_dataset),
    }
    summed = SumWords(reveal, holder, amount_scale, amount_bounds)
    summed.add_to(own, roles, (left, left_table, left_dataset), (right, right_table, right_dataset))
    sides = {
        "left": (roles["left"], left, key, own["left"]),
        "right": (roles["right"], right, right_key or key, own["right"]),
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedcore-psi-") as keys, both_shown(out, as_json) as poll:
        told = _both(sides, words, out, Path(keys), poll)
    result = {"seconds": time.monotonic() - began, "folder": str(out), **told}
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print_machine(result)
    else:
        print_result(result)


def _both(
    sides: dict[str, tuple[str, Path, list[str], list[str]]],
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
            role, file, columns, own = sides[name]
            command = [sys.executable, "-m", "fedcore", "psi", "party", "--role", role, "--data", str(file)]
            command += ["--identity", str(keys / f"{name}.key"), "--peer-key", str(keys / f"{other}.key.pub")]
            command += [word for column in columns for word in ("--key", column)]
            command += ["--session", session, "--out", str(out / name), "--json", *words, *own]
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
    ended = threading.Event()
    for process in started.values():
        threading.Thread(target=_announce, args=(process, ended), daemon=True).start()
    while any(process.poll() is None for process in started.values()):
        poll()
        ended.wait(_POLL)
        ended.clear()
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
            ended.wait(_POLL)
            ended.clear()
        failed = [name for name, process in started.items() if process.poll() not in (None, 0)]
        # Where both failed, the one that lost its peer is not the one with the cause.
        told = {name: _failure(name, started[name]) for name in failed}
        raise next((one for one in told.values() if not isinstance(one, PeerLost)), told[failed[0]])
    found = {name: json.loads(process.communicate()[0]) for name, process in started.items()}
    return {**answer_of(found), **found}


def _announce(process: subprocess.Popen[str], ended: threading.Event) -> None:
    process.wait()
    ended.set()


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
