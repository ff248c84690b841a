"""The program as such: help, wrong words, errors, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import click
import pytest
import typer

from fedcore import __version__, errors
from fedcore.cli import main as program
from fedcore.cli.main import COMMANDS, Entry, Interrupted, load, run
from fedcore.cli.output import Json
from fedcore.errors import FedcoreError

ROOT = Path(__file__).parents[3]


class Toy:
    """A command that does what a test tells it."""

    raises: BaseException | None = None
    returns: int | None = None

    @classmethod
    def command(cls, colour: str = "red", as_json: Json = False) -> int | None:
        """Do as told.

        Example: fedcore toy
        """
        if cls.raises is not None:
            raise cls.raises
        return cls.returns


toys = typer.Typer()
KINDS = click.Choice(["ball", "kite"])


@toys.command()
def first(kind: Annotated[str, typer.Option(click_type=KINDS)] = "ball") -> None:
    """Example: fedcore toys first"""


@toys.command()
def second() -> None:
    """Example: fedcore toys second"""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Toy]]:
    """The commands `toy` and `toys`."""
    module = type(sys)("toy_module")
    module.__dict__.update(command=Toy.command, app=toys)
    monkeypatch.setitem(sys.modules, "toy_module", module)
    monkeypatch.setitem(COMMANDS, "toy", Entry("toy_module:command", "A toy."))
    monkeypatch.setitem(COMMANDS, "toys", Entry("toy_module:app", "Toys."))
    yield Toy
    Toy.raises = Toy.returns = None


def fedcore(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedcore", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_version_is_printed_by_python_dash_m() -> None:
    done = fedcore("--version")
    assert (done.returncode, done.stdout) == (0, f"fedcore {__version__}\n")


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from fedcore.cli.main import run; code = run(['--help']);"
        "print([name for name in ('torch', 'flwr', 'duckdb', 'pyarrow', 'pydantic', 'numpy',"
        " 'fedcore.cli.validate') if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS.keys() - {"toy", "toys"}:
        assert re.search(rf"\b{name}\b", done.stdout)


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "validate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["vlaidate"],
            'no such command "vlaidate"; did you mean "validate"? allowed: approvals, compare, demo, ',
        ),
        (["toys", "frist"], 'no such command "frist"; did you mean "first"? allowed: first, second'),
        (
            ["toy", "--jsno"],
            'no such option "--jsno"; did you mean "--json"? allowed: --colour, --help, --json',
        ),
        (["toy", "--color=1"], 'no such option "--color"; did you mean "--colour"?'),
        (
            ["toys", "first", "--kind", "bal"],
            '--kind: no such value "bal"; did you mean "ball"? allowed: ball, kite',
        ),
        (["validate"], "Missing argument"),
    ],
)
def test_wrong_word_is_answered_with_the_nearest(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {said}")
    assert re.search(r'\(see "fedcore.* --help"\)$', printed.err.strip())


def test_wrong_word_is_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["toys", "frist", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "JobError" and error["exit_code"] == 2
    assert 'did you mean "first"' in error["message"]


@pytest.mark.parametrize(
    "kind", [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, FedcoreError)]
)
def test_error_is_red_text_with_its_exit_code(
    kind: type[FedcoreError], toy: type[Toy], capsys: pytest.CaptureFixture[str]
) -> None:
    toy.raises = kind("no column [b]age[/b]", party="site-a", step="prepare", detail="secret 42")
    assert run(["toy"]) == kind.exit_code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "error: site-a, prepare: no column [b]age[/b]\n")


def test_error_is_json_on_stdout_without_its_detail(
    toy: type[Toy], capsys: pytest.CaptureFixture[str]
) -> None:
    toy.raises = errors.DataError("no column age", party="site-a", step="prepare", detail="secret 42")
    assert run(["toy", "--json"]) == 3
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == {
        "error": {
            "type": "DataError",
            "message": "no column age",
            "party": "site-a",
            "step": "prepare",
            "exit_code": 3,
        }
    }


def test_ctrl_c_ends_with_130(toy: type[Toy], capsys: pytest.CaptureFixture[str]) -> None:
    toy.raises = KeyboardInterrupt()
    assert run(["toy"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert run(["toy", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_long_error_is_not_broken_into_lines(toy: type[Toy], capsys: pytest.CaptureFixture[str]) -> None:
    toy.raises = errors.JobError("a long path/" * 40)
    run(["toy"])
    assert capsys.readouterr().err.count("\n") == 1


def test_fault_of_fedcore_itself_shows_its_trace(toy: type[Toy]) -> None:
    toy.raises = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run(["toy"])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (5, 5)])
def test_number_that_a_command_returns_is_its_exit_code(
    toy: type[Toy], returned: int | None, code: int
) -> None:
    toy.returns = returned
    assert run(["toy"]) == code


def test_reader_that_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "fedcore", "validate", "--show", "configs/jobs/digits.yaml"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, f"{path} {name}")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("toy", "toys")])
def test_every_command_has_a_help_with_an_example_and_speaks_json(name: str) -> None:
    assert COMMANDS[name].help.endswith(".")
    for path, command in leaves(load(name), f"fedcore {name}"):
        assert f"Example: {path}" in (command.help or ""), path
        assert any("--json" in parameter.opts for parameter in command.params), path


def test_page_of_exit_codes_agrees_with_the_errors() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \|\s*(?:`(\w+)`)? \|", page, re.MULTILINE)
    named = {name: int(code) for code, name in rows if name}
    raised = {
        name: cls.exit_code
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, FedcoreError)
    }
    assert named == raised
    assert len(set(raised.values())) == len(raised)
    assert {int(code) for code, name in rows if not name} == {0, Interrupted.exit_code}
    assert program.Interrupted.exit_code == 130
