"""The command line: finds the command's file, imports that one only, and turns errors into exit codes.

How a command is added:

1. Write `fedcore/cli/<noun>.py`. A single command is a function with typer's annotations, a group is an
   `app = typer.Typer()` with several. The function's docstring is the help; its last paragraph begins with
   `Example:`. Take `as_json: Json = False` from `fedcore.cli.output`.
2. Add a line to `COMMANDS`: the name a person types, the module and its attribute, one sentence for
   `fedcore --help`. The module is imported when its command is used, so it may import what it needs.
3. Raise a `FedcoreError` for what the user can cure: `run` prints it and exits with its code. An `int` that
   the function returns is the exit code; `None` is 0.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import click
import typer
from typer.core import TyperGroup

from fedcore.cli.output import print_error
from fedcore.cli.start import Interrupted, carried_out, main
from fedcore.errors import FedcoreError, JobError, did_you_mean

__all__ = ["COMMANDS", "Entry", "Interrupted", "load", "main", "run"]


class Entry(NamedTuple):
    """Where a command is.

    Args:
        place: `module:attribute`; a function or a `typer.Typer`.
        help: One sentence.
    """

    place: str
    help: str


COMMANDS = {
    "demo": Entry("fedcore.cli.demo:command", "A real result in a minute, nothing to prepare."),
    "validate": Entry("fedcore.cli.validate:command", "Check files and list all their problems."),
    "run": Entry("fedcore.cli.run:command", "Run a job over a federation."),
    "resume": Entry("fedcore.cli.run:resume", "Go on with an interrupted run."),
    "show": Entry("fedcore.cli.show:command", "Look at a run."),
    "compare": Entry("fedcore.cli.show:compare", "Put two runs side by side."),
    "sql": Entry("fedcore.cli.sql:command", "Ask a federation in SQL."),
    "psi": Entry("fedcore.cli.psi:app", "Find the rows that two parties share."),
    "relay": Entry(
        "fedcore.cli.relay:command", "Carry encrypted frames between parties that cannot be called."
    ),
    "serve": Entry("fedcore.cli.serve:command", "Answer for one party's part of a joint model."),
    "score": Entry("fedcore.cli.serve:score", "Score new customers with a joint model."),
    "federation": Entry("fedcore.cli.federation:app", "Start, watch and stop a federation on this machine."),
    "participant": Entry("fedcore.cli.participant:app", "Run one site on its own machine."),
    "network": Entry("fedcore.cli.network:app", "Measure nodes, place the work, account for it."),
    "approvals": Entry("fedcore.cli.approvals:app", "The site's desk: requests that wait for a person."),
    "privacy": Entry("fedcore.cli.privacy:app", "Show what was spent of a privacy budget."),
    "identity": Entry("fedcore.cli.identity:app", "Make and show keys."),
}


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A stand-in that has the name and the help, which is all that `--help` shows."""
        entry = COMMANDS.get(cmd_name)
        return click.Command(cmd_name, help=entry.help) if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The real command and the words that are left for it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Ctrl-C becomes an error, so that it is reported as the others are."""
        return carried_out(functools.partial(super().invoke, ctx))


def load(name: str) -> click.Command:
    """Import a command of `COMMANDS`."""
    module, attribute = COMMANDS[name].place.split(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name)(found)
        found = alone
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, add_completion=False, no_args_is_help=True, rich_markup_mode="rich")


def _version(asked: bool) -> None:
    if asked:
        from fedcore import __version__

        typer.echo(f"fedcore {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Privacy-preserving federated analytics: data stays home, results travel.

    Example: fedcore demo
    """


def run(words: Sequence[str]) -> int:
    """Run the command line `fedcore <words>`.

    Args:
        words: What stands after `fedcore`.

    Returns:
        The exit code (`docs/exit-codes.md`).
    """
    as_json = "--json" in words
    try:
        result = typer.main.get_command(app).main(list(words), "fedcore", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError:
        return JobError.exit_code  # the help was printed when the error was made
    except click.UsageError as error:
        return _report(JobError(_usage(error)), as_json)
    except click.ClickException as error:
        return _report(JobError(error.format_message()), as_json)
    except click.Abort:
        return _report(Interrupted("the input ended before it was complete"), as_json)
    except FedcoreError as error:
        return _report(error, as_json)


def _report(error: FedcoreError, as_json: bool) -> int:
    print_error(error, as_json)
    return error.exit_code


def _usage(error: click.UsageError) -> str:
    """The message of a wrong command line, with the nearest right word and where to read more."""
    said = error.format_message().rstrip(".")
    context = error.ctx
    if context is None:
        return said
    command = context.command
    unknown = re.match(r"No such command ['\"](.*?)['\"]", said)
    if unknown and isinstance(command, click.Group):
        said = f'no such command "{unknown[1]}"; {did_you_mean(unknown[1], command.list_commands(context))}'
    elif isinstance(error, click.NoSuchOption):
        options = [
            option
            for parameter in command.get_params(context)
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        ]
        said = f'no such option "{error.option_name}"; {did_you_mean(error.option_name, options)}'
    elif isinstance(error, click.BadParameter) and error.param is not None:
        kind = error.param.type
        wrong = re.match(r"['\"](.*?)['\"] is not one of", error.message)
        if wrong and isinstance(kind, click.Choice):
            hint = did_you_mean(wrong[1], [str(word) for word in kind.choices])
            said = f'{"/".join(error.param.opts)}: no such value "{wrong[1]}"; {hint}'
    return f'{said} (see "{context.command_path} --help")'
