"""The program's start: plain command lines are called at once, with what the command line library would make of them."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.cli import start
from fedcore.cli.main import load
from fedcore.cli.start import Interrupted, carried_out, plain_call, plain_options
from fedcore.errors import DataError

ROOT = Path(__file__).parents[3]
PARTY = ["--role", "receiver", "--identity", "own.key", "--peer-key", "other.pub"]
COMMANDS = sorted(start.PLAIN)


def function_of(name: tuple[str, ...]) -> Callable[..., Any]:
    module, attribute = start.PLAIN[name].split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def command_of(name: tuple[str, ...]) -> click.Command:
    """The command as the library has it, without `--help`."""
    found = load(name[0])
    for each in name[1:]:
        assert isinstance(found, click.Group)
        found = found.commands[each]
    return found


def options_of(name: tuple[str, ...]) -> dict[str, click.Parameter]:
    return {str(option.name): option for option in command_of(name).params if option.name != "help"}


# ---- the same options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_both_ways_know_the_same_options_with_the_same_defaults(name: tuple[str, ...]) -> None:
    function, options = function_of(name), options_of(name)
    parameters = inspect.signature(function).parameters
    assert set(parameters) == set(options)
    for each, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert options[each].required == required, each
        assert required or options[each].default == parameter.default, each
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", COMMANDS)
def test_every_way_to_write_an_option_is_understood_or_left_to_the_library(name: tuple[str, ...]) -> None:
    function, options = function_of(name), options_of(name)
    for each, option in options.items():
        for way in option.opts:
            words = [way] if function.__annotations__[each] == "bool" else [way, "7"]
            base = PARTY if name == ("psi", "party") and each not in ("role", "identity", "peer_key") else []
            given = plain_options(function, [*base, *words])
            assert given is None or str(given[each]) in ("7", "True", "['7']", "7.0"), way


def written(name: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """Command lines of options that are all known."""
    kinds = function_of(name).__annotations__
    option = st.sampled_from(sorted(options_of(name)))

    def words(each: str) -> st.SearchStrategy[list[str]]:
        way = f"--{each.removeprefix('as_').replace('_', '-')}"
        if kinds[each] == "bool":
            return st.just([way])
        values = st.sampled_from(["7", "0.5", "a b", "./x", "ünï", "-1", "", "--key", "nan"])
        return st.tuples(st.just(way), values).map(list)

    return st.lists(option.flatmap(words), max_size=6).map(lambda parts: list(chain.from_iterable(parts)))


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(COMMANDS), st.booleans())
def test_a_plain_line_means_what_the_library_says_it_means(
    data: st.DataObject, name: tuple[str, ...], whole: bool
) -> None:
    words = (PARTY if whole and name == ("psi", "party") else []) + data.draw(written(name))
    mine = plain_options(function_of(name), words)
    if mine is None:
        return
    command = command_of(name)
    with command.make_context(name[-1], list(words), resilient_parsing=False) as context:
        theirs = dict(context.params)
    for each, value in theirs.items():
        if each in mine:
            told = list(value) if isinstance(value, tuple) else value
            assert str(mine[each]) == str(Path(told) if isinstance(mine[each], Path) else told), each
        else:
            assert value in ((), None) or value == options_of(name)[each].default, each


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--rol", "receiver"],
        [*PARTY, "--unknown", "x"],
        [*PARTY, "word"],
        [*PARTY, "--key"],
        [*PARTY, "--key", "--json"],
        [*PARTY, "--key=id"],
        [*PARTY, "--wait", "long"],
        [*PARTY, "--min-matches", "1.5"],
        [*PARTY, "--role", "sender"],
        [*PARTY, "--json", "--json"],
        PARTY[2:],
        [],
    ],
)
def test_what_is_not_plain_is_left_to_the_library(words: list[str]) -> None:
    assert plain_options(function_of(("psi", "party")), words) is None


def test_a_repeated_key_is_a_list() -> None:
    given = plain_options(function_of(("psi", "party")), [*PARTY, "--key", "a", "-k", "b", "--wait", "2"])
    assert given == {
        "role": "receiver",
        "identity": Path("own.key"),
        "peer_key": "other.pub",
        "key": ["a", "b"],
        "wait": 2.0,
    }


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["psi", "prty"], ["psi", "publish"], ["run", "job.yaml"], ["ps"]]
)
def test_other_commands_are_left_to_the_library(words: list[str]) -> None:
    assert plain_call(words) is None


# ---- how it ends ----------------------------------------------------------------------------------------------------


def ended(words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "fedcore", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plain_line_starts_without_the_library() -> None:
    code = (
        "import sys; from fedcore.cli.start import plain_call; call = plain_call(sys.argv[1:]);"
        "print(call is not None, sorted({'typer', 'click', 'rich', 'numpy', 'numba'} & set(sys.modules)))"
    )
    for words in (["psi", "party", *PARTY], ["psi", "--left", "a.csv"]):
        told = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert told.stdout == "True []\n"


def test_an_error_of_a_plain_line_is_told_as_any_other(tmp_path: Path) -> None:
    plain = ended(["psi", "--left", "a.csv", "--json"])
    other = ended(["psi", "--left=a.csv", "--json"])
    assert (plain.returncode, plain.stdout, plain.stderr) == (other.returncode, other.stdout, other.stderr)
    assert json.loads(plain.stdout)["error"]["exit_code"] == plain.returncode == 2
    plain, other = ended(["psi", "--left", "a.csv"]), ended(["psi", "--left=a.csv"])
    assert plain.returncode == 2 and plain.stderr == other.stderr and "give --left FILE" in plain.stderr


def test_ctrl_c_is_an_error_with_its_own_code(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        carried_out(interrupted)
    assert start._run(interrupted, as_json=True) == 130
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "Interrupted"


def test_the_code_is_that_of_the_error_or_what_the_command_returns(capsys: Any) -> None:
    def failing() -> None:
        raise DataError("no column id")

    assert start._run(failing, as_json=False) == DataError.exit_code
    assert "no column id" in capsys.readouterr().err
    assert start._run(lambda: 7, as_json=False) == 7
    assert start._run(lambda: None, as_json=False) == 0


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = "from fedcore.cli.start import carried_out\nraise SystemExit(carried_out(lambda: print('x' * 200000)))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
