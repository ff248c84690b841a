"""`fedcore validate`: all problems of files at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedcore.cli.output import Json, error_as_json, print_json
from fedcore.errors import JobError
from fedcore.jobs.load import CheckedFile, check_file
from fedcore.jobs.problems import Problem
from fedcore.network.files import check_network_file


def command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Job, federation, participant and roster files; network maps, policies, nodes."),
    ],
    show: Annotated[
        bool, typer.Option("--show", help="Print each sound file with every default filled in.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check files and list every problem with its line, what is allowed and what was probably meant.

    A federation's participant files and roster are checked with it. Exit code 2 when there is a problem.

    Example: fedcore validate configs/jobs/*.yaml configs/federations/five_hospitals.yaml configs/networks/*.yaml
    """
    checked = [check_network_file(file) or check_file(file) for file in files]
    # A participant file may be named by itself and by its federation; its problems are told once.
    problems = list({str(problem): problem for each in checked for problem in each.problems}.values())
    if as_json:
        print_json(_as_json(checked, problems, show))
    else:
        _print(checked, problems, show)
    return JobError.exit_code if problems else 0


def _as_json(checked: list[CheckedFile], problems: list[Problem], show: bool) -> dict[str, Any]:
    from fedcore.jobs.show import filled_in

    listed = []
    for each in checked:
        entry: dict[str, Any] = {"file": str(each.file), "kind": each.kind, "valid": not each.problems}
        if show:
            entry["content"] = filled_in(each.model) if each.model is not None else None
        listed.append(entry)
    answer: dict[str, Any] = {"files": listed, "problems": [problem.as_json() for problem in problems]}
    if problems:
        answer["error"] = error_as_json(JobError(_sum(checked, problems)))
    return answer


def _print(checked: list[CheckedFile], problems: list[Problem], show: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    errors = Console(stderr=True, soft_wrap=True)
    for problem in problems:
        errors.print(Text(str(problem), style="red"))
    if show:
        from fedcore.jobs.show import as_yaml

        sound = [each for each in checked if each.model is not None]
        # One file is printed as it could be saved; between several stands the name of each.
        documents = [(f"# {each.file}\n" if len(checked) > 1 else "") + as_yaml(each.model) for each in sound]
        sys.stdout.write("---\n".join(documents))
    if problems or not show:
        errors.print(Text(_sum(checked, problems), style="red" if problems else "green"))


def _sum(checked: list[CheckedFile], problems: list[Problem]) -> str:
    count = f"{len(checked)} file" + ("s" if len(checked) > 1 else "")
    if not problems:
        return f"{count}, no problems"
    return f"{len(problems)} problem" + ("s" if len(problems) > 1 else "") + f" in {count}"
