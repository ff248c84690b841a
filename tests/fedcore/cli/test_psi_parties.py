"""`fedcore psi` with sums, published sets, catalogues and a relay, each party a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from fedcore.cli.main import run
from fedcore.cli.psi_both import _free_address
from fedcore.trust.identity import new_identity

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("ended")

_started: list[subprocess.Popen[str]] = []


@pytest.fixture
def ended() -> Iterator[None]:
    """No process outlives its test."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parties' files and keys, and a relay's key."""
    pq.write_table(
        pa.table({"id": [1, 2, 3, 4, None], "income": [10.5, 20.25, 30.0, 1e6, None]}),
        tmp_path / "bank.parquet",
    )
    pc.write_csv(
        pa.table({"id": ["2", "3", "3", "9", "1"], "calls": ["7", "8", "9", "10", "-2"]}),
        tmp_path / "telecom.csv",
    )
    (tmp_path / "telecom.yaml").write_text(
        "name: telecom\ncatalogue:\n  calls: {connector: csv, path: telecom.csv}\n  other: {connector: csv, path: telecom.csv}\n"
    )
    for name in ("bank", "telecom", "relay"):
        new_identity(tmp_path / f"{name}.key", name)
    return tmp_path


def start(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fedcore", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    _started.append(process)
    return process


def party(folder: Path, name: str, role: str, *words: str) -> subprocess.Popen[str]:
    other = "telecom" if name == "bank" else "bank"
    keys = ["--identity", str(folder / f"{name}.key"), "--peer-key", str(folder / f"{other}.key.pub")]
    return start(
        "psi", "party", "--role", role, *keys, "--out", str(folder / f"out-{name}"), "--json", *words
    )


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    told: dict[str, Any] = json.loads(out)
    return told


def failure(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=200)
    told: dict[str, Any] = json.loads(out)["error"]
    assert told["exit_code"] == process.returncode
    return told


def published(folder: Path, *words: str) -> None:
    given = ["--data", str(folder / "telecom.yaml"), "--dataset", "calls", "--key", "id"]
    given += ["--out", str(folder / "telecom.psi"), "--secret", str(folder / "telecom.secret")]
    assert run(["psi", "publish", *given, "--numbers-as-text", *words]) == 0


# ---- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_the_sum_of_a_column_goes_to_the_side_that_asked_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "psi",
        "--left",
        str(folder / "bank.parquet"),
        "--right",
        str(folder / "telecom.yaml"),
        "--key",
        "id",
    ]
    words += [
        "--right-dataset",
        "calls",
        "--numbers-as-text",
        "--out",
        str(folder / "out"),
        "--memory-limit",
        "64MiB",
    ]
    words += ["--reveal", "sum:income", "--to", "right", "--min-matches", "3", "--amount-scale", "2"]
    assert run([*words, "--amount-bounds", "0:1e7"]) == 0
    printed = capsys.readouterr().out
    assert "3 shared items; sum of income: 60.75" in printed
    told = json.loads((folder / "out" / "result.json").read_text())
    assert told["sums"] == {"income": "60.75"} == told["right"]["sums"] and told["left"]["sums"] is None
    assert told["intersection"] == 3 and told["left"]["role"] == "sender"
    assert not list((folder / "out").glob("*/rows.parquet"))


@pytest.mark.system
def test_too_few_matches_are_said_to_be_too_few(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "psi",
        "--left",
        str(folder / "bank.parquet"),
        "--right",
        str(folder / "telecom.csv"),
        "--key",
        "id",
    ]
    words += [
        "--numbers-as-text",
        "--out",
        str(folder / "out"),
        "--reveal",
        "cardinality",
        "--min-matches",
        "4",
    ]
    assert run(words) == 0
    assert "fewer than 4 shared items (--min-matches), so nothing is told" in capsys.readouterr().out
    told = json.loads((folder / "out" / "result.json").read_text())
    assert told["intersection"] is None and told["refused"] is True and told["right"]["intersection"] == 3


@pytest.mark.system
def test_an_amount_out_of_bounds_fails_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "psi",
        "--left",
        str(folder / "bank.parquet"),
        "--right",
        str(folder / "telecom.csv"),
        "--key",
        "id",
    ]
    words += ["--numbers-as-text", "--out", str(folder / "out"), "--reveal", "sum:income", "--json"]
    assert run([*words, "--amount-bounds", "0:100"]) == 3
    told = json.loads(capsys.readouterr().out)["error"]
    assert (
        told["party"] == "left"
        and "'income': 1 of 4 keys add less than 0.00 or more than 100.00" in told["message"]
    )


# ---- published sets -------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_published_set_answers_until_its_lifetime_is_spent(folder: Path) -> None:
    published(folder, "--lifetime", "140")
    answers = ["--secret", str(folder / "telecom.secret")]
    asks = ["--data", str(folder / "bank.parquet"), "--key", "id", "--published", str(folder / "telecom.psi")]
    asks += ["--numbers-as-text", "--wait", "100"]

    def query() -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        address = _free_address()
        answering = party(folder, "telecom", "sender", *answers, "--listen", address, "--wait", "100")
        return party(folder, "bank", "receiver", *asks, "--connect", address), answering

    asking, answering = query()
    found, told = result(asking), result(answering)
    assert found["intersection"] == 3 and found["protocol"]["name"] == "ecdh-cached"
    assert sorted(pq.read_table(folder / "out-bank" / "rows.parquet").column("row").to_pylist()) == [0, 1, 2]
    assert (told["asked"], told["left"]) == (68, 72)
    asking, answering = query()
    assert (result(asking)["intersection"], result(answering)["left"]) == (3, 4)
    asking, answering = query()
    refused = failure(asking), failure(answering)
    assert [each["exit_code"] for each in refused] == [4, 4]
    assert (
        "answers for 4 more items" in refused[0]["message"]
        and "4 of the set's lifetime" in refused[1]["message"]
    )


@pytest.mark.system
def test_the_secret_of_another_set_is_named(folder: Path) -> None:
    published(folder)
    (folder / "telecom.psi").rename(folder / "old.psi")
    for file in folder.glob("telecom.secret*"):
        file.unlink()
    published(folder)
    address = _free_address()
    answering = party(
        folder, "telecom", "sender", "--secret", str(folder / "telecom.secret"), "--listen", address
    )
    words = ["--data", str(folder / "bank.parquet"), "--key", "id", "--published", str(folder / "old.psi")]
    asking = party(folder, "bank", "receiver", *words, "--numbers-as-text", "--connect", address)
    told = [failure(asking), failure(answering)]
    assert any("fetch the set that is in use" in each["message"] for each in told)
    assert {each["exit_code"] for each in told} <= {6, 10}


def error(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = run(["psi", *words, "--json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    assert code == told["exit_code"]
    return told


def test_a_set_is_published_once_under_a_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(folder)
    printed = capsys.readouterr().out
    assert (
        "5 rows, 0 without a key, 1 duplicates, 4 items" in printed and "1,073,741,824 items may" in printed
    )
    words = ["publish", "--data", str(folder / "telecom.csv"), "--key", "id"]
    words += ["--out", str(folder / "telecom.psi"), "--secret", str(folder / "new.secret")]
    told = error(words, capsys)
    assert told["exit_code"] == 2 and "telecom.psi is there and is not overwritten" in told["message"]
    assert not (folder / "new.secret").exists()
    assert "give --key COLUMN" in error([*words[:3], *words[5:]], capsys)["message"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--role", "receiver", "--secret", "S"], 2, "give --role sender"),
        (
            ["--role", "sender", "--secret", "S", "--protocol", "vole"],
            2,
            "not vole; leave --secret or --protocol out",
        ),
        (["--role", "sender", "--secret", "S", "--key", "id"], 2, "leave --key out"),
        (["--role", "sender", "--secret", "S", "--reveal", "cardinality"], 2, "leave --reveal out"),
        (["--role", "sender", "--secret", "S", "--trim"], 2, "leave --trim out"),
        (["--role", "sender", "--secret", "no.secret"], 2, "no.secret cannot be read"),
        (
            ["--role", "sender", "--protocol", "ecdh-cached", "--data", "D", "--key", "id"],
            2,
            "answers from the secret",
        ),
        (
            ["--role", "receiver", "--protocol", "ecdh-cached", "--data", "D", "--key", "id"],
            2,
            "published set",
        ),
        (
            ["--role", "receiver", "--published", "cut.psi", "--data", "D", "--key", "id"],
            3,
            "cut.psi cannot be read",
        ),
        (["--role", "receiver", "--published", "D", "--data", "D", "--key", "id"], 3, "not a published set"),
        (["--role", "receiver", "--key", "id"], 2, "give --data FILE"),
        (
            ["--role", "receiver", "--data", "D", "--key", "id", "--memory-limit", "2Gb8"],
            2,
            "no amount of memory",
        ),
        (["--role", "receiver", "--data", "D", "--key", "id", "--memory-limit", "1MiB"], 2, "64 MiB"),
        (["--role", "receiver", "--data", "D", "--key", "id", "--relay", "h:1"], 2, "give one of --listen"),
        (
            ["--role", "receiver", "--data", "D", "--key", "id", "--amount-bounds", "-1:5"],
            2,
            "it is for --reveal sum",
        ),
    ],
)
def test_a_party_says_which_words_do_not_go_together(
    words: list[str], code: int, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"S": str(folder / "telecom.secret"), "D": str(folder / "bank.parquet")}
    keys = ["--identity", str(folder / "bank.key"), "--peer-key", str(folder / "telecom.key.pub")]
    out = ["--out", str(folder / "out"), "--listen", "127.0.0.1:0"]
    told = error(["party", *keys, *out, *(named.get(word, word) for word in words)], capsys)
    assert told["exit_code"] == code and said in told["message"]


def test_a_published_set_that_is_cut_off_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(folder)
    capsys.readouterr()
    file = folder / "telecom.psi"
    file.write_bytes(file.read_bytes()[:-1])
    words = ["party", "--role", "receiver", "--data", str(folder / "bank.parquet"), "--key", "id"]
    words += ["--identity", str(folder / "bank.key"), "--peer-key", str(folder / "telecom.key.pub")]
    told = error([*words, "--published", str(file), "--listen", "127.0.0.1:0"], capsys)
    assert told["exit_code"] == 3 and "cut off or damaged" in told["message"]


# ---- a relay --------------------------------------------------------------------------------------------------------


def relay(folder: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """A relay and its address."""
    given = ["--listen", "127.0.0.1:0", "--identity", str(folder / "relay.key")]
    given += [word for name in ("bank", "telecom") for word in ("--party", str(folder / f"{name}.key.pub"))]
    process = start("relay", *given, *words)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("relay at 127.0.0.1:"), process.communicate()
    return process, line.split()[2].rstrip(",")


@pytest.mark.system
def test_two_parties_that_only_call_meet_at_a_relay(folder: Path) -> None:
    running, address = relay(folder)
    words = ["--relay", address, "--relay-key", str(folder / "relay.key.pub"), "--numbers-as-text", "--both"]
    words += ["--wait", "100", "--key", "id"]
    receiver = party(folder, "bank", "receiver", "--data", str(folder / "bank.parquet"), *words)
    sender = party(folder, "telecom", "sender", "--data", str(folder / "telecom.csv"), *words)
    assert [result(each)["intersection"] for each in (receiver, sender)] == [3, 3]
    pairs = [
        {
            (match, keys[row])
            for row, match in zip(
                *pq.read_table(folder / out / "rows.parquet").to_pydict().values(), strict=True
            )
        }
        for out, keys in (("out-bank", ["1", "2", "3", "4"]), ("out-telecom", ["2", "3", "3", "9", "1"]))
    ]
    assert pairs[0] == pairs[1] and len(pairs[0]) == 3
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    carried = out.splitlines()[-1]
    assert carried.endswith("bytes carried") and int(carried.split()[0].replace(",", "")) > 10


@pytest.mark.system
def test_a_relay_with_another_key_than_the_pinned_one_is_refused(folder: Path) -> None:
    _, address = relay(folder)
    words = ["--relay", address, "--relay-key", str(folder / "telecom.key.pub"), "--wait", "20"]
    told = failure(
        party(folder, "bank", "receiver", "--data", str(folder / "bank.parquet"), "--key", "id", *words)
    )
    assert told["exit_code"] == 8 and "pinned" in told["message"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--party", "bank.key.pub"], 2, "1 parties; give two .pub files or more"),
        (["--party", "bank.key.pub", "--party", "bank.key.pub"], 2, "1 parties"),
        (["--party", "bank.key.pub", "--party", "no.pub"], 2, "no.pub cannot be read"),
        (["--party", "bank.key.pub", "--party", "bank.parquet"], 2, "bank.parquet cannot be read"),
        (["--party", "bank.key.pub", "--party", "telecom.csv"], 8, "not an OpenSSH public key"),
        (["--party", ".", "--listen", "nowhere"], 2, "is no address"),
        (["--party", ".", "--identity", "no.key"], 8, "no.key does not exist"),
        (["--partie", "x"], 2, 'did you mean "--party"'),
    ],
)
def test_a_relay_says_what_is_wrong(
    words: list[str],
    code: int,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    given = ["--listen", "127.0.0.1:0", "--identity", "relay.key"]
    assert run(["relay", *given, *words, "--json"]) == code
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]
