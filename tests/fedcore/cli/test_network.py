"""`fedcore network probe`: what it prints, writes and refuses, with a measurement that takes no time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli.main import run
from fedcore.cli.network_shown import age, number
from fedcore.network import probe as probing
from fedcore.network.descriptor import check_descriptor, load_descriptor
from fedcore.network.quantity import counted, measured
from fedcore.trust.identity import load_identity, new_identity

NODE = """\
node: train-1
owner: anna
site: guiyang
jurisdiction: CN
location: {country: CN, region: Guizhou}
pue: 1.25
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "node.yaml").write_text(NODE)
    new_identity(tmp_path / "anna.key", "anna")
    new_identity(tmp_path / "bert.key", "bert")

    def fake(seconds: float, *, devices: str, report: object) -> probing.Probed:
        found = {
            "cores": counted(2, "cores", "counted"),
            "gemm.cpu.fp32": measured([98.0, 100.0, 102.0], "GFLOP/s", "timed"),
            "ecc.x25519": measured([5_000.0, 10_000.0, 15_000.0], "op/s", "timed"),
        }
        if seconds <= 2:
            del found["ecc.x25519"]
        return probing.Probed(found, seconds * 0.8, 0.05, "A Processor", {"gemm.cpu.fp16": "no kernel"})

    monkeypatch.setattr(probing, "probe", fake)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def told(folder: Path, *words: str) -> str:
    return " ".join(words).replace("@", f"{folder}/")


def test_the_machine_alone_is_shown_with_unit_source_spread_and_age(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", "probe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    fp32 = next(line for line in lines if "gemm.cpu.fp32" in line)
    assert fp32.split()[:7] == ["gemm.cpu.fp32", "100", "GFLOP/s", "measured", "2%", "now", "timed"]
    doubtful = next(line for line in lines if "ecc.x25519" in line)
    assert doubtful.startswith("! ecc.x25519") and "spread 0.50 is above 0.10" in doubtful
    assert any("1 of 3 quantities are unreliable (!)" in line for line in lines)
    assert any("not measured: gemm.cpu.fp16 (no kernel)" in line for line in lines)


def test_reasons_are_told_below_the_table_where_it_is_narrow(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["network", "probe"]) == 0
    printed = capsys.readouterr().out
    assert "! ecc.x25519: spread 0.50 is above 0.10" in printed and max(map(len, printed.splitlines())) <= 80


def test_a_signed_descriptor_is_written_that_others_can_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", "probe", f"{folder}/node.yaml", "--key", f"{folder}/anna.key"]) == 0
    assert "signed by anna (SHA256:" in capsys.readouterr().out
    made = load_descriptor(folder / "train-1.descriptor.json")
    check_descriptor(made, {"anna": load_identity(folder / "anna.key").public_line})
    assert made.quantities["carbon.location"].value == 568.3 and made.quantities["gemm.cpu.fp32"].value == 100


def test_json_has_every_quantity_and_what_is_unreliable(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", "probe", f"{folder}/node.yaml", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["signed"] is False and found["file"] is None and list(found["unreliable"]) == ["ecc.x25519"]
    assert found["quantities"]["gemm.cpu.fp32"]["source"] == "measured"
    assert set(found["quantities"]["pue"]) == {
        "value",
        "unit",
        "source",
        "method",
        "spread",
        "at",
        "samples",
        "doubt",
    }


def test_a_short_probe_later_keeps_what_it_did_not_look_at(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["network", "probe", f"{folder}/node.yaml", "--key", f"{folder}/anna.key"]
    run(words)
    first = load_descriptor(folder / "train-1.descriptor.json")
    assert run([*words, "--seconds", "1"]) == 0
    second = load_descriptor(folder / "train-1.descriptor.json")
    assert second.quantities["ecc.x25519"] == first.quantities["ecc.x25519"]


def test_a_descriptor_that_another_key_signed_is_not_gone_on_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["network", "probe", f"{folder}/node.yaml", "--key", f"{folder}/anna.key"]
    run(words)
    file = folder / "train-1.descriptor.json"
    file.write_text(file.read_text().replace('"value": 100.0', '"value": 300.0'))
    capsys.readouterr()
    assert run([*words, "--json"]) == 8
    assert "not signed by anna" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_the_rate_of_a_run_is_taken_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [{"sites": {"anna": {"seconds": {"train": 0.5}, "examples": 100}}, "lost": []} for _ in range(4)]
    data = {
        "kind": "train",
        "run": "digits-1",
        "started": "2026-03-01T12:00:00+00:00",
        "job": {"name": "digits"},
        "rounds": rounds,
    }
    (folder / "result.json").write_text(json.dumps(data))
    assert run(["network", "probe", f"{folder}/node.yaml", "--run", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quantities"]["work.digits"]["value"] == 200
    assert run(["network", "probe", f"{folder}/node.yaml", "--run", f"{folder}/none", "--json"]) == 2
    assert "cannot be read as a run's result" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--key @anna.key", 2, "needs a file that says whose node it is"),
        ("--out @x.json", 2, "needs a file that says whose node it is"),
        ("--run @", 2, "a run has several participants"),
        ("@absent.yaml", 2, "no such file"),
        ("@node.yaml --key @absent.key", 8, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_measuring(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    code: int,
    said: str,
) -> None:
    def never(*told: object, **more: object) -> None:
        raise AssertionError("it was measured")

    monkeypatch.setattr(probing, "probe", never)
    assert run([*told(folder, "network", "probe", words, "--json").split()]) == code
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]


def test_another_owners_key_makes_no_signature_that_anybody_believes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", "probe", f"{folder}/node.yaml", "--key", f"{folder}/bert.key", "--json"]) == 8
    assert "bert" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (folder / "train-1.descriptor.json").exists()


def test_an_owners_absurd_value_is_refused_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "node.yaml").write_text(NODE.replace("1.25", "0.8"))
    assert run(["network", "probe", f"{folder}/node.yaml", "--json"]) == 2
    assert "node.yaml:6" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", "probe", "--help"]) == 0
    assert "Example: fedcore network probe node.yaml --key" in capsys.readouterr().out


def test_numbers_and_ages_are_told_as_people_write_them() -> None:
    assert [number(value) for value in (98.7654, 15233.4, 2.0, 0.00042, 25284.0)] == [
        "98.8",
        "15,233",
        "2",
        "0.00042",
        "25,284",
    ]
    assert [age(value) for value in (None, 0.4, 40, 90, 7200, 259200)] == [
        "",
        "now",
        "40 s",
        "2 min",
        "2 h",
        "3 d",
    ]
