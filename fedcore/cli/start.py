"""Where the program begins: commands that are run from scripts by the thousand start without the command line library.

To import that library and to build a command of it takes as long as to intersect a hundred thousand rows. So a
command of `PLAIN` whose words are written out in full (`--key id`, no abbreviation, nothing unknown, nothing missing)
is called at once. Any other line, right or wrong, is `fedcore.cli.main`'s, which answers as always.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fedcore.errors import FedcoreError

PLAIN = {
    ("psi", "party"): "fedcore.cli.psi_party:take_part",
    ("psi",): "fedcore.cli.psi_both:intersect_both",
}
"""Commands, the longer names first, and where the function is that each calls with its options."""

_READ: dict[str, Callable[[str], Any]] = {
    "str": str,
    "str | None": str,
    "Path": Path,
    "Path | None": Path,
    "int | None": int,
    "float": float,
}
_SHORT = {"-k": "key"}


class Interrupted(FedcoreError):
    """A person pressed Ctrl-C."""

    exit_code = 130


def main() -> NoReturn:
    """The `fedcore` program."""
    # The imports alone make half a million objects that stay: looking through them again and again while they
    # come, and once more at the end, took half a second of a run of five.
    gc.set_threshold(100_000, 20, 100)
    words = sys.argv[1:]
    called = plain_call(words)
    if called is None:
        from fedcore.cli.main import run

        code = run(words)
        # DuckDB complains at length of its objects that are not collected at the end.
        if "duckdb" not in sys.modules:
            gc.freeze()
        sys.exit(code)
    # No matrix is multiplied here; numpy's library would start a thread for each processor and have them wait busily.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = _run(called, "--json" in words)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written and closed. To take the interpreter down object by object would change nothing any more.
    os._exit(code)


def plain_call(words: Sequence[str]) -> Callable[[], Any] | None:
    """The call of a command of `PLAIN` for words that are plain; None for any other.

    Args:
        words: What stands after `fedcore`.
    """
    name = next((name for name in PLAIN if tuple(words[: len(name)]) == name), None)
    if name is None:
        return None
    module, attribute = PLAIN[name].split(":")
    function = getattr(importlib.import_module(module), attribute)
    given = plain_options(function, words[len(name) :])
    return None if given is None else lambda: function(**given)


def plain_options(function: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """Options as the arguments of a function that takes keywords only; None where the words are not plain.

    Args:
        function: Its annotations say what each option is; `key` is `--key`, `as_json` is `--json`.
        words: Of the options.
    """
    kinds = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    options = {f"--{name.removeprefix('as_').replace('_', '-')}": name for name in kinds}
    options |= {short: name for short, name in _SHORT.items() if name in kinds}
    given: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        name = options.get(word, "")
        kind = kinds.get(name, "")
        if not kind or (name in given and not kind.startswith("list")):
            return None
        if kind == "bool":
            given[name] = True
            continue
        value = next(left, None)
        if not value or value.startswith("-"):
            return None
        if kind.startswith("list"):
            given.setdefault(name, []).append(value)
            continue
        try:
            given[name] = _READ[kind](value)
        except ValueError:
            return None
    missing = kinds.keys() - given.keys() - (function.__kwdefaults__ or {}).keys()
    return None if missing else given


def carried_out(command: Callable[[], Any]) -> Any:
    """Run a command and send its output off. Ctrl-C becomes an error, so that it is reported as the others are.

    Raises:
        Interrupted: Ctrl-C.
    """
    try:
        result = command()
        sys.stdout.flush()
        return result
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted") from error
    except BrokenPipeError:
        # Whoever read the output has enough (`fedcore show ... | head`); nothing must complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(command: Callable[[], Any], as_json: bool) -> int:
    try:
        result = carried_out(command)
    except FedcoreError as error:
        from fedcore.cli.output import print_error

        print_error(error, as_json)
        return error.exit_code
    return result if isinstance(result, int) else 0
