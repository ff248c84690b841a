"""What a file's model cannot see: the files it names, the parameters of its strategy, names that must agree.

These checks read the file's values as they stand, so they also speak when other parts are wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedcore.errors import nearest
from fedcore.jobs.job import JOB_KINDS
from fedcore.jobs.problems import Keys, Problem, hint
from fedcore.jobs.shape import IMPORT_PATH, describe, describe_value
from fedcore.jobs.source import Source, near_file

_TYPES: dict[type, tuple[type, ...]] = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}
"""What may be written for a parameter of each type."""


def absolute(folder: Path, path: str | Path) -> Path:
    """A path of a file, made absolute against the folder of that file; `~` is the home folder."""
    return Path(os.path.abspath(folder / os.path.expanduser(path)))


def check_job_kind(source: Source) -> tuple[list[Problem], bool]:
    """Problems of `kind`, and whether the rest of the job can be judged."""
    if not isinstance(source.data, dict):
        return [], True
    if "kind" not in source.data:
        misspelt = [key for key in source.data if nearest(key, ("kind", "name", "data", "task")) == "kind"]
        if not misspelt:
            missing = source.problem(("kind",), "missing", allowed=JOB_KINDS)
            # Judged as what it most likely is, so that its other problems are told too.
            source.data["kind"] = _likely(source.data)
            return [missing], True
        return [], True
    kind = source.data["kind"]
    if kind in JOB_KINDS:
        return [], True
    problem = source.problem(
        ("kind",), f"{describe_value(kind)} is not a kind of job", **hint(kind, JOB_KINDS)
    )
    source.data["kind"] = problem.nearest
    return [problem], problem.nearest is not None


def _likely(data: dict[str, Any]) -> str:
    """The kind of a job that does not say it."""
    if "parties" not in data:
        return "analytics" if "ask" in data else "train"
    return "vertical" if "label" in data or "models" in data else "psi"


def check_job(source: Source) -> list[Problem]:
    """The central data set's files and the strategy's parameters."""
    problems = list(_strategy(source))
    problems += _data_set(source, ("evaluation", "central"))
    return problems


def check_participant(source: Source) -> list[Problem]:
    """The catalogue's files, the identity's file, and the data sets that rules name."""
    problems: list[Problem] = []
    catalogue = source.value(("catalogue",))
    names = list(catalogue) if isinstance(catalogue, dict) else []
    for name in names:
        problems += _data_set(source, ("catalogue", name))
    problems += _file(source, ("identity",), 'make it with "fedcore identity new"')
    rules = source.value(("policy", "rules"))
    for index in range(len(rules) if isinstance(rules, list) else 0):
        keys: Keys = ("policy", "rules", index, "data")
        named = source.value(keys)
        if isinstance(named, str) and names and named not in (*names, "any"):
            message = f"{describe_value(named)} is no data set of this catalogue, so the rule allows nothing"
            problems.append(source.problem(keys, message, **hint(named, (*names, "any"))))
    return problems


def check_federation(source: Source) -> list[Problem]:
    """The virtual participants' data. The files of real participants are read by whoever calls this."""
    return list(_data_set(source, ("virtual", "data")))


def _data_set(source: Source, keys: Keys) -> Iterator[Problem]:
    data = source.value(keys)
    if not isinstance(data, dict):
        return
    folder = True if data.get("connector") in ("images", "dicom", "nifti") else None
    if data.get("connector") not in ("parquet", "images", "dicom", "nifti"):
        folder = False
    yield from _file(source, (*keys, "path"), "paths are relative to this file", folder=folder)
    yield from _file(source, (*keys, "labels"), "paths are relative to this file", folder=False)
    yield from _file(source, (*keys, "masks"), "paths are relative to this file", folder=True)


def _file(source: Source, keys: Keys, cure: str, *, folder: bool | None = False) -> Iterator[Problem]:
    """A problem when the path at `keys` is missing, or is a folder where a file is needed or the reverse."""
    written = source.value(keys)
    if not isinstance(written, str):
        return
    path = absolute(source.file.parent, written)
    # os.path, unlike pathlib, answers "no" for a path that is too long to exist.
    if not os.path.exists(path):
        yield missing_file(source, keys, cure)
    elif folder is not None and os.path.isdir(path) != folder:
        here, needed = ("a file", "a folder") if folder else ("a folder", "a file")
        yield source.problem(keys, f"{written} is {here}; {needed} is needed")


def missing_file(source: Source, keys: Keys, cure: str) -> Problem:
    """The problem of a path that leads nowhere, with the file that was probably meant."""
    written = source.value(keys)
    near = near_file(absolute(source.file.parent, written))
    if near is not None:
        near = os.path.join(os.path.dirname(written), os.path.basename(near))
    return source.problem(keys, f"{written or 'an empty path'} does not exist; {cure}", nearest=near)


def _strategy(source: Source) -> Iterator[Problem]:
    strategy = source.value(("strategy",))
    if not isinstance(strategy, dict):
        return
    from strategies import registry  # here, because it imports Flower

    names = registry.names()
    for key in [key for key in strategy if "use" not in strategy and nearest(key, ["use"])]:
        if strategy[key] in names:
            yield source.problem(("strategy", key), "unknown key", nearest="use")
            source.rename(("strategy",), key, "use")
    use = strategy.get("use", "fedavg")
    if not isinstance(use, str) or ":" in use:
        # To know the parameters of a class is to run its module; the coordinator does that, not a check.
        return
    if use not in names:
        near = nearest(use, names)
        message = f"{describe_value(use)} is not known"
        at = ("strategy", "use")
        yield source.problem(at, message, allowed=(*sorted(names), IMPORT_PATH), nearest=near)
        if near is None:
            return
        use = near
    yield from _parameters(source, use, {key: value for key, value in strategy.items() if key != "use"})


def _parameters(source: Source, use: str, given: dict[str, Any]) -> Iterator[Problem]:
    from strategies import registry

    known = registry.allowed_parameters(use)
    names = {name: info for info in known.values() for name in (info.keyword, info.name)}
    set_by: dict[str, str] = {}
    for key, value in given.items():
        keys = ("strategy", key)
        info = names.get(key)
        if info is not None and set_by.setdefault(info.keyword, key) != key:
            yield source.problem(
                keys, f"is the same parameter as {set_by[info.keyword]}; keep one of the two"
            )
            continue
        if info is None:
            yield source.problem(keys, f"unknown parameter of {use}", **hint(key, (*known, "use")))
        elif not isinstance(value, _TYPES.get(info.type, object)) or (
            isinstance(value, bool) and info.type in (int, float)
        ):
            yield source.problem(keys, f"must be {describe(info.type)}, not {describe_value(value)}")
        else:
            yield from _range(source, keys, use, value)
    for info in known.values():
        if info.required and info.name not in given and info.keyword not in given:
            message = f"missing: {use} needs {describe(info.type)} here"
            yield source.problem(("strategy", info.name), message)


def _range(source: Source, keys: Keys, use: str, value: Any) -> Iterator[Problem]:
    """What the strategy itself says of one parameter's value."""
    from strategies import registry

    try:
        registry.build(use, {str(keys[-1]): value})
    except registry.StrategyError as error:
        # Without a value it speaks of other parameters, which this trial left out.
        if error.value is not None:
            yield source.problem(
                keys, f"must be {error.allowed[0]}, not {value}" if error.allowed else str(error)
            )
