"""Read, check and complete job, federation, participant and roster files.

`check_file` finds every problem of a file and of the files it names; `load_job`, `load_participant`,
`load_federation` and `load_roster` raise one `JobError` with all of them, or return the model with every
path absolute.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from fedcore.errors import nearest
from fedcore.jobs import meaning, shape
from fedcore.jobs.federation import Federation, Roster
from fedcore.jobs.job import AnyJob, Job
from fedcore.jobs.participant import Participant
from fedcore.jobs.problems import Problem, refuse
from fedcore.jobs.source import Source, read_source
from fedcore.jobs.validation import validate
from fedcore.jobs.virtual import virtual_participants

M = TypeVar("M", bound=BaseModel)

KINDS: dict[str, Any] = {"job": Job, "participant": Participant, "roster": Roster, "federation": Federation}
"""The kinds of file and their models."""

MARKS = {
    "job": ("kind",),
    "participant": ("catalogue",),
    "roster": ("members",),
    "federation": ("participants", "virtual", "engine"),
}
"""The keys by which a kind of file is recognised, the surest kind first."""

_ENOUGH = 1.2
"""Likeness above which a file without a sure mark is taken to be of a kind: more than one key in common."""


@dataclass(frozen=True)
class CheckedFile:
    """What was found in a file.

    Args:
        file: As the person named it.
        kind: `job`, `participant`, `roster` or `federation`; None when it cannot be told.
        model: The validated model, its paths as written; None when the file itself has a problem.
        problems: Of this file and of the files it names, in the order of their lines.
        participants: The participant files that a federation names, in its order.
    """

    file: Path
    kind: str | None
    model: Any
    problems: tuple[Problem, ...]
    participants: tuple[CheckedFile, ...] = ()


@dataclass(frozen=True)
class LoadedFederation:
    """A federation with its participants.

    Args:
        file: The federation file, absolute.
        spec: What it says, paths absolute.
        participants: One per participant, paths absolute; virtual ones are made from `spec.virtual`.
        participant_files: Their files, absolute, in the same order; empty when they are virtual.
    """

    file: Path
    spec: Federation
    participants: tuple[Participant, ...]
    participant_files: tuple[Path, ...]


def load_job(path: str | Path) -> AnyJob:
    """The job of a file.

    Raises:
        JobError: With all problems of the file.
    """
    checked = check_file(path, "job")
    refuse(checked.problems)
    job: AnyJob = _absolute(checked.model, _folder(checked.file))
    return job


def load_participant(path: str | Path) -> Participant:
    """The participant of a file; `state` is `<folder>/.fedcore/<name>` when the file names none.

    Raises:
        JobError: With all problems of the file.
    """
    checked = check_file(path, "participant")
    refuse(checked.problems)
    return _participant(checked)


def load_roster(path: str | Path) -> Roster:
    """The roster of a file.

    Raises:
        JobError: With all problems of the file.
    """
    checked = check_file(path, "roster")
    refuse(checked.problems)
    roster: Roster = checked.model
    return roster


def load_federation(path: str | Path) -> LoadedFederation:
    """The federation of a file and its participants, from their files or made from `virtual`.

    Raises:
        JobError: With all problems of the file, its participant files and its roster.
    """
    checked = check_file(path, "federation")
    refuse(checked.problems)
    folder = _folder(checked.file)
    spec = _absolute(checked.model, folder)
    if spec.virtual is not None:
        participants, files = virtual_participants(spec, folder), ()
    else:
        participants = tuple(_participant(each) for each in checked.participants)
        files = spec.participants
    return LoadedFederation(meaning.absolute(Path.cwd(), checked.file), spec, participants, files)


def check_files(paths: Iterable[str | Path]) -> list[Problem]:
    """Every problem of the files and of the files they name, each problem once."""
    problems = {str(problem): problem for path in paths for problem in check_file(path).problems}
    return list(problems.values())


def check_file(path: str | Path, expected: str | None = None) -> CheckedFile:
    """Read and check one file.

    Args:
        path: The file.
        expected: The kind of file that is needed here; recognised by its keys when absent.

    Returns:
        What was found. The model is None exactly when the file itself has a problem.
    """
    file = Path(path)
    source, problems = read_source(file)
    if source.data is None:
        return CheckedFile(file, expected, None, tuple(problems))
    kind = recognise(source.data)
    if expected is not None and kind not in (None, expected):
        problems = [source.problem((), f"this is a {kind} file; a {expected} file is needed here")]
        return CheckedFile(file, kind, None, tuple(problems))
    kind = expected or kind
    if kind is None:
        return CheckedFile(file, None, None, (*problems, _unrecognised(source)))
    return _check(source, kind, problems)


def _check(source: Source, kind: str, problems: list[Problem]) -> CheckedFile:
    judge = True
    if kind == "job":
        of_kind, judge = meaning.check_job_kind(source)
        problems += of_kind
    model = None
    if judge:
        already = {problem.key for problem in problems}
        model, found = validate(source, KINDS[kind])
        # A value that YAML could not read was replaced; what the model says of the replacement is no news.
        problems += [problem for problem in found if problem.key not in already]
    others: list[CheckedFile] = []
    if kind == "job" and judge:
        problems += meaning.check_job(source)
    elif kind == "participant":
        problems += meaning.check_participant(source)
    elif kind == "federation":
        problems += meaning.check_federation(source)
        others = _participant_files(source, problems)
        others += _roster_file(source, problems)
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    below = [problem for other in others for problem in other.problems]
    members = [other for other in others if other.kind == "participant"]
    return CheckedFile(source.file, kind, None if problems else model, (*problems, *below), tuple(members))


def _participant_files(source: Source, problems: list[Problem]) -> list[CheckedFile]:
    """Check the participant files of a federation; what is wrong with the list itself goes to `problems`."""
    entries = source.value(("participants",))
    checked: list[CheckedFile] = []
    named: dict[str, str] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        keys = ("participants", index)
        if not isinstance(entry, str):
            continue
        if not os.path.isfile(meaning.absolute(source.file.parent, entry)):
            problems.append(meaning.missing_file(source, keys, "paths are relative to this file"))
            continue
        if entry in entries[:index]:
            problems.append(source.problem(keys, f"{entry} stands twice; name each participant once"))
            continue
        found = check_file(source.file.parent / os.path.expanduser(entry), "participant")
        checked.append(found)
        name = getattr(found.model, "name", None)
        if name in named:
            message = f'{entry} has the name "{name}", which {named[name]} has too; names must differ'
            problems.append(source.problem(keys, message))
        elif name is not None:
            named[name] = entry
    return checked


def _roster_file(source: Source, problems: list[Problem]) -> list[CheckedFile]:
    """Check the roster file of a federation; that it is missing goes to `problems`."""
    entry = source.value(("roster",))
    if not isinstance(entry, str):
        return []
    if not os.path.isfile(meaning.absolute(source.file.parent, entry)):
        problems.append(meaning.missing_file(source, ("roster",), "paths are relative to this file"))
        return []
    return [check_file(source.file.parent / os.path.expanduser(entry), "roster")]


def recognise(data: Any) -> str | None:
    """The kind of file that has these values: by its marks, else by the kind most of whose keys it has."""
    if not isinstance(data, dict):
        return None
    for kind in ("job", "participant", "roster"):
        if MARKS[kind][0] in data:
            return kind
    likeness = {kind: _likeness(data, kind) for kind in KINDS}
    kind = max(likeness, key=lambda name: likeness[name])
    second = max(value for name, value in likeness.items() if name != kind)
    return kind if likeness[kind] > second and likeness[kind] >= _ENOUGH else None


def _likeness(data: dict[str, Any], kind: str) -> float:
    """How many keys of a file are keys of the kind, a misspelt one counting in part and a mark for more."""
    picked = shape.choice(KINDS[kind])
    known = [key for model in (picked.models if picked else (KINDS[kind],)) for key in shape.fields(model)]
    near = [(key, nearest(key, known)) for key in data]
    marked = any(name in MARKS[kind] for _, name in near)
    return sum(SequenceMatcher(None, key, name).ratio() for key, name in near if name) + 0.5 * marked


def _unrecognised(source: Source) -> Problem:
    if not isinstance(source.data, dict):
        what = shape.describe_value(source.data)
        message = f"the file holds {what}; it needs keys and values (key: value)"
    else:
        message = "this is none of the four kinds of file"
    kinds = "; ".join(f"a {kind} file has {' or '.join(marks)}" for kind, marks in MARKS.items())
    return source.problem((), f"{message}: {kinds}", value=None)


def _folder(file: Path) -> Path:
    return meaning.absolute(Path.cwd(), file).parent


def _absolute(model: M, folder: Path) -> M:
    """A copy of the model with every path in it made absolute against `folder`."""

    def complete(value: Any) -> Any:
        if isinstance(value, Path):
            return meaning.absolute(folder, value)
        if isinstance(value, BaseModel):
            return _absolute(value, folder)
        if isinstance(value, tuple):
            return tuple(complete(item) for item in value)
        if isinstance(value, dict):
            return {key: complete(item) for key, item in value.items()}
        return value

    return model.model_copy(
        update={name: complete(getattr(model, name)) for name in type(model).model_fields}
    )


def _participant(checked: CheckedFile) -> Participant:
    folder = _folder(checked.file)
    participant: Participant = _absolute(checked.model, folder)
    if participant.state is not None:
        return participant
    return participant.model_copy(update={"state": folder / ".fedcore" / participant.name})
