"""`fedcore psi`: two files, two offices, wrong words, and a party that is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from fedcore.cli.main import run
from fedcore.cli.psi_both import EVENTS, EVENTS_TO, _failure, _free_address
from fedcore.errors import DataError, ProtocolFailed
from fedcore.trust.identity import new_identity

ROOT = Path(__file__).parents[3]
LEFT = [4, 8, None, 15, 16, 23, 42, 8]
RIGHT = ["8", "42", "7", "", "15", "42"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Numbers in Parquet and the same kind of thing in CSV."""
    pq.write_table(pa.table({"id": LEFT, "income": range(len(LEFT))}), tmp_path / "left.parquet")
    pc.write_csv(pa.table({"customer": RIGHT, "calls": range(len(RIGHT))}), tmp_path / "right.csv")
    return str(tmp_path / "left.parquet"), str(tmp_path / "right.csv")


def error(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What a machine is told of a command that fails."""
    code = run(["psi", *words, "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    assert code == told["exit_code"]
    return told


# ---- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [[], ["--left", "a.csv"], ["--left", "a.csv", "--right", "b.csv"], ["--right", "b.csv", "--key", "id"]],
)
def test_what_is_missing_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = error(words, capsys)
    assert (told["type"], told["exit_code"]) == ("JobError", 2)
    assert "give --left FILE, --right FILE and --key COLUMN" in told["message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prty"], 'no such command "prty"; did you mean "party"?'),
        (["--lefft", "x"], 'no such option "--lefft"; did you mean "--left"?'),
        (
            ["--left", "a", "--right", "b", "--key", "id", "--to", "rihgt"],
            'did you mean "right"? allowed: both, left, right',
        ),
        (["party", "--rol", "receiver"], 'did you mean "--role"?'),
        (["party", "--role", "receiver"], "Missing option"),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_allowed(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = error(words, capsys)
    assert told["exit_code"] == 2 and said in told["message"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--key", "id"], 2, "give one of --listen HOST:PORT and --connect HOST:PORT"),
        (["--key", "id", "--listen", "h:1", "--connect", "h:1"], 2, "one party waits, the other calls"),
        (["--listen", "127.0.0.1:0"], 2, "give --key COLUMN"),
        (["--key", "id", "--listen", "here"], 2, "is no address; allowed: host:port"),
        (["--key", "id", "--listen", "127.0.0.1:0", "--role", "reciever"], 2, 'did you mean "receiver"'),
        (["--key", "id", "--listen", "127.0.0.1:0", "--protocol", "vola"], 2, 'did you mean "vole"'),
        (
            ["--key", "id", "--listen", "127.0.0.1:0", "--reveal", "cardinality", "--protocol", "vole"],
            2,
            "take protocol ecdh",
        ),
        (["--key", "id", "--listen", "127.0.0.1:0", "--peer-key", "no.pub"], 2, "neither a file nor"),
        (["--key", "id", "--listen", "127.0.0.1:0", "--identity", "no.key"], 8, "no.key does not exist"),
        (["--key", "id", "--listen", "127.0.0.1:0", "--data", "no.csv"], 3, "no file no.csv"),
        (["--key", "ident", "--listen", "127.0.0.1:0"], 3, "ident"),
        (["--key", "id", "--listen", "127.0.0.1:0", "--wait", "0.2"], 6, "did not connect"),
    ],
)
def test_a_party_says_what_is_wrong(
    words: list[str],
    code: int,
    said: str,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("own", "other"):
        new_identity(tmp_path / f"{name}.key", name)
    given = {
        "--role": "receiver",
        "--data": files[0],
        "--identity": str(tmp_path / "own.key"),
        "--peer-key": str(tmp_path / "other.key.pub"),
        "--out": str(tmp_path / "out"),
    }
    given.update(zip(words[::2], words[1::2], strict=True))
    told = error(["party", *(word for pair in given.items() for word in pair)], capsys)
    assert told["exit_code"] == code and said in told["message"]
    assert not list((tmp_path / "out").glob("*"))


# ---- what a party that failed leaves ------------------------------------------------------------------------------


def ended(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.wait()
    return process


def test_the_error_of_a_party_is_told_with_its_name() -> None:
    told = {"type": "DataError", "message": "no column id", "party": None, "step": "read", "exit_code": 3}
    found = _failure("left", ended(f"import json; print(json.dumps({{'error': {told!r}}}))"))
    assert isinstance(found, DataError) and str(found) == "left, read: no column id"


def test_a_party_that_ends_without_a_word_is_told_of_by_its_last_line() -> None:
    found = _failure("right", ended("raise ZeroDivisionError('a fault')"))
    assert isinstance(found, ProtocolFailed)
    assert str(found) == "right: its process ended with 1: ZeroDivisionError: a fault"


def test_a_party_that_was_killed_is_said_to_be() -> None:
    found = _failure("left", ended("import os; os.kill(os.getpid(), 9)"))
    assert "killed by signal 9" in str(found) and "memory" in str(found)


# ---- two files ----------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_two_files_are_intersected_over_vole_for_both(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared"
    words = ["psi", "--left", files[0], "--right", files[1], "--key", "id", "--right-key", "customer"]
    assert run([*words, "--numbers-as-text", "--to", "both", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "result.json").read_text())
    assert set(told) == {"seconds", "folder", "intersection", "left", "right"}
    assert told["intersection"] == told["left"]["intersection"] == told["right"]["intersection"] == 3
    assert (told["left"]["nulls"], told["left"]["duplicates"], told["left"]["matched_rows"]) == (1, 1, 4)
    assert (told["right"]["nulls"], told["right"]["duplicates"], told["right"]["matched_rows"]) == (1, 1, 4)
    pairs = []
    for name, values in (("left", [str(value) for value in LEFT]), ("right", RIGHT)):
        rows = pq.read_table(out / name / "rows.parquet").to_pydict()
        pairs.append({(match, values[row]) for row, match in zip(rows["row"], rows["match"], strict=True)})
        assert json.loads((out / name / "result.json").read_text()) == told[name]
    assert pairs[0] == pairs[1] and {value for _, value in pairs[0]} == {"8", "15", "42"}


@pytest.mark.system
def test_cardinality_over_ecdh_is_printed_and_no_row_is_written(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared"
    words = ["psi", "--left", files[0], "--right", files[1], "--key", "id", "--right-key", "customer"]
    words += ["--numbers-as-text", "--protocol", "ecdh", "--reveal", "cardinality", "--out", str(out)]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert "3 shared items" in printed and "not told" in printed
    assert not list(out.glob("*/rows.parquet"))


@pytest.mark.system
@pytest.mark.parametrize(
    ("words", "code", "kind", "said"),
    [
        ([], 10, "ProtocolFailed", "--numbers-as-text"),
        (["--left", "nothing.csv"], 3, "DataError", "no file nothing.csv"),
        (["--key", "ident"], 3, "DataError", "income"),
        (["--reveal", "cardinality", "--protocol", "vole"], 2, "JobError", "take protocol ecdh"),
        (["--protocol", "vola"], 2, "JobError", 'did you mean "vole"'),
    ],
)
def test_what_a_party_refuses_is_the_error_of_the_command(
    words: list[str],
    code: int,
    kind: str,
    said: str,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {
        "--left": files[0],
        "--right": files[1],
        "--key": "id",
        "--right-key": "customer",
        "--out": str(tmp_path / "out"),
    }
    given.update(zip(words[::2], words[1::2], strict=True))
    told = error([word for pair in given.items() for word in pair], capsys)
    assert (told["exit_code"], told["type"]) == (code, kind) and said in told["message"]
    assert told["party"] in ("left", "right")
    assert not list(tmp_path.glob("out/*/rows.parquet"))


def test_a_folder_that_cannot_be_made_is_an_error(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--left", files[0], "--right", files[1], "--key", "id", "--out", files[0]]
    told = error(words, capsys)
    assert told["exit_code"] == 2 and "cannot be made" in told["message"]


# ---- two offices --------------------------------------------------------------------------------------------------


@dataclass
class Office:
    """A party as a process of its own.

    Args:
        process: It.
        out: Its folder.
    """

    process: subprocess.Popen[str]
    out: Path

    def reached(self, phase: str) -> None:
        """Wait until it is in a phase."""
        until = time.monotonic() + 60
        events = self.out / EVENTS
        while not (events.exists() and f'["{phase}"' in events.read_text()):
            assert self.process.poll() is None and time.monotonic() < until, self.process.communicate()
            time.sleep(0.005)

    def error(self, within: float) -> dict[str, Any]:
        """What it says when it fails."""
        out, _ = self.process.communicate(timeout=within)
        told: dict[str, Any] = json.loads(out)["error"]
        assert told["exit_code"] == self.process.returncode
        return told


class Offices:
    """Starts the two parties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = _free_address()
        self.started: list[Office] = []
        for name in ("receiver", "sender", "stranger"):
            new_identity(folder / f"{name}.key", name)

    def start(self, role: str, data: Path, *, peer: str | None = None, wait: float = 60) -> Office:
        """The receiver listens, the sender calls."""
        out = self.folder / role
        out.mkdir()
        other = peer or ("sender" if role == "receiver" else "receiver")
        words = ["--role", role, "--data", str(data), "--key", "id", "--out", str(out), "--wait", str(wait)]
        words += ["--identity", str(self.folder / f"{role}.key"), "--both", "--json"]
        words += ["--peer-key", str(self.folder / f"{other}.key.pub")]
        words += ["--listen" if role == "receiver" else "--connect", self.address]
        process = subprocess.Popen(
            [sys.executable, "-m", "fedcore", "psi", "party", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, EVENTS_TO: str(out / EVENTS)},
        )
        self.started.append(Office(process, out))
        return self.started[-1]


@pytest.fixture
def offices(tmp_path: Path) -> Iterator[Offices]:
    """Two parties, ended with the test."""
    made = Offices(tmp_path)
    yield made
    for office in made.started:
        if office.process.poll() is None:
            office.process.kill()
        office.process.wait()


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Enough rows that a run takes a while."""
    file = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"id": range(700_000)}), file)
    return file


@pytest.mark.system
@pytest.mark.parametrize("victim", ["receiver", "sender"])
@pytest.mark.parametrize("phase", ["vole", "exchange"])
def test_a_party_that_is_killed_is_lost_to_the_other_at_a_named_step(
    victim: str, phase: str, offices: Offices, numbers: Path
) -> None:
    parties = {role: offices.start(role, numbers) for role in ("receiver", "sender")}
    killed = parties.pop(victim)
    (left,) = parties.values()
    killed.reached("vole")
    if phase == "exchange":
        # Its name stays; the third line of it says that the first tags have gone over, and there are three messages.
        while (killed.out / EVENTS).read_text().count('["vole"') < 3:
            assert killed.process.poll() is None
            time.sleep(0.002)
    killed.process.kill()
    told = left.error(within=10)
    assert (told["type"], told["exit_code"]) == ("PeerLost", 6)
    assert told["step"].startswith(("vole.", "psi."))
    assert {file.name for file in left.out.iterdir()} == {EVENTS}


@pytest.mark.system
@pytest.mark.parametrize("victim", ["receiver", "sender"])
def test_a_party_that_is_killed_before_they_meet_is_waited_for_no_longer_than_was_said(
    victim: str, offices: Offices, numbers: Path
) -> None:
    killed = offices.start(victim, numbers)
    killed.reached("meet")
    killed.process.kill()
    killed.process.wait()
    left = offices.start("sender" if victim == "receiver" else "receiver", numbers, wait=2)
    left.reached("meet")
    told = left.error(within=10)
    assert (told["type"], told["step"], told["exit_code"]) == ("PeerLost", "connect", 6)
    assert {file.name for file in left.out.iterdir()} == {EVENTS}


@pytest.mark.system
def test_a_party_with_another_key_than_the_pinned_one_gets_no_connection(
    offices: Offices, numbers: Path
) -> None:
    receiver = offices.start("receiver", numbers, peer="sender", wait=6)
    receiver.reached("meet")
    sender = offices.start("sender", numbers, peer="stranger", wait=20)
    told = sender.error(within=40)
    assert (told["type"], told["exit_code"], told["step"]) == ("IdentityError", 8, "connect")
    assert "does not have the key that is pinned" in told["message"]
    assert receiver.error(within=40)["type"] == "PeerLost"
    assert not list(offices.folder.glob("*/rows.parquet"))


@pytest.mark.system
def test_parties_of_different_sessions_are_told_so(
    offices: Offices, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = offices.start("receiver", numbers, wait=10)
    receiver.reached("meet")
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **given: real([*words, "--session", "else"], **given)
    )
    told = offices.start("sender", numbers).error(within=40)
    assert (told["type"], told["exit_code"]) == ("ProtocolFailed", 10)
    assert "different sessions" in told["message"]
