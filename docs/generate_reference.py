"""Write `docs/jobs.md`: every key of every file, from the schemas in `fedcore.jobs` and the strategy registry.

    python docs/generate_reference.py            # writes docs/jobs.md
    python docs/generate_reference.py --check    # exit code 1 when the page is not what this would write

What a key means is taken from its model's docstring: the `Args:` section, or the string below the field. A key
without either is an error, so that none is added unexplained.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedcore.jobs import asks, common, datasets, job, shape, vertical
from strategies import registry

sys.path.insert(0, str(Path(__file__).resolve().parent))
from reference_sections import INTRODUCTION, SECTIONS

PAGE = Path(__file__).resolve().parent / "jobs.md"

_TITLES = {model: heading.lstrip("# ") for heading, _, model in SECTIONS if model is not None}
_TITLES[job.Strategy] = "strategy"
_ALSO = {"path": "The file or folder.", "confidence": "Level of the intervals."}
"""What a key means that several models have."""

_CHOOSING = {
    "use": "Says which task or model it is.",
    "connector": "Says which connector it is.",
    "kind": "The kind of job.",
}
"""Keys whose value selects the model."""

_BOUNDS = {"ge": "≥ {:g}", "gt": "> {:g}", "le": "≤ {:g}", "lt": "< {:g}"}
_SHORT = 2**31
"""Bounds beyond this are of the machine, not of the matter."""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for heading, text, model in SECTIONS:
        parts.append(f"{heading}\n")
        if model not in (None, datasets._DataSet):
            parts.append(summary(model))
        parts.append(text)
        parts.append(strategies() if model is None else table(model))
    return "\n".join(part for part in parts if part)


def summary(model: type[BaseModel] | None) -> str:
    """The model's docstring before its `Args:`."""
    return (inspect.getdoc(model) or "").split("\nArgs:")[0].strip() + "\n"


def table(model: type[BaseModel]) -> str:
    """One line per key.

    Raises:
        ValueError: A key has no meaning.
    """
    shared: tuple[type[BaseModel], ...] = (datasets._DataSet, asks.Ask)
    inherited = {
        name for each in shared if issubclass(model, each) and model is not each for name in each.model_fields
    }
    # What a kind of question shares with others is told by the one that it is made from.
    line = [each for each in reversed(model.__mro__) if each.__module__ == asks.__name__] or [model]
    meanings = {**_ALSO, **_CHOOSING, **{key: text for each in line for key, text in _meanings(each)}}
    lines = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    annotations = shape.fields(model)
    for name, info in model.model_fields.items():
        if name in inherited:
            continue
        key = info.alias or name
        linked = _linked(annotations[key])
        meaning = (
            meanings.get(key)
            or meanings.get(name)
            or (f"See [{linked}](#{anchor(linked)})." if linked else "")
        )
        if not meaning:
            raise ValueError(f"{model.__name__}.{name} has no meaning; add it to the Args: of its docstring")
        cells = (f"`{key}`", _value(annotations[key], info), _default(info), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def strategies() -> str:
    """The strategies that have a name, with their parameters."""
    lines = ["| `use` | Parameters (default) | Mean only | Site half |", "|---|---|---|---|"]
    for name in registry.names():
        entry = registry.resolve(name)
        parameters = [
            f"`{info.name}` ({'needed' if info.required else _yaml(info.default)}{'; ' if info.allowed else ''}{info.allowed})"
            for info in registry.allowed_parameters(name).values()
        ]
        cells = (
            f"`{name}`",
            ", ".join(parameters) or "none",
            _yes(entry.summable),
            _yes(entry.client is not None),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def anchor(title: str) -> str:
    """The link target that GitHub makes of a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")


def _meanings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Key and meaning: from the strings below fields and from `Args:`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, below in itertools.pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(below, ast.Expr)
            and isinstance(field.target, ast.Name)
        ):
            yield field.target.id, " ".join(ast.literal_eval(below.value).split())
    section = (inspect.getdoc(model) or "").partition("\nArgs:\n")[2].split("\n\n")[0]
    for entry in re.split(r"\n(?= {4}\S)", section):
        names, _, text = entry.strip().partition(": ")
        for name in filter(None, re.split(r",\s*", names)):
            yield name, " ".join(text.split()).replace("`fedcore.jobs.datasets.Part`", "[part](#part)")


def _linked(annotation: Any) -> str | None:
    """The section that tells more of a value."""
    inner = shape.plain(annotation)
    if get_origin(inner) in (dict, tuple):
        inner = shape.plain(get_args(inner)[1 if get_origin(inner) is dict else 0])
    if inner == shape.plain(datasets.DataSet):
        return "Data sets"
    return _TITLES.get(inner) if shape.is_model(inner) else None


def _value(annotation: Any, info: FieldInfo) -> str:
    """What may stand there."""
    plain, linked = shape.plain(annotation), _linked(annotation)
    if plain == shape.plain(job.Task):
        kinds = [
            _TITLES[kind] for kind in (job.TabularTask, job.ImageTask, job.SegmentationTask, job.CustomTask)
        ]
        return ", ".join(f"[{kind.removeprefix('task: ')}](#{anchor(kind)})" for kind in kinds)
    if get_origin(plain) is dict and shape.plain(get_args(plain)[1]) == shape.plain(vertical.Model):
        kinds = [_TITLES[kind] for kind in (vertical.Logistic, vertical.Boosting, vertical.SplitNetwork)]
        listed = ", ".join(f"[{kind.removeprefix('model: ')}](#{anchor(kind)})" for kind in kinds)
        return f"mapping of name to {listed}"
    if linked:
        of_many = {dict: "mapping of name to ", tuple: "list of "}.get(get_origin(plain), "")
        return f"{of_many}[{linked}](#{anchor(linked)})"
    if _same(annotation, common.Seconds):
        return "duration"
    if _same(annotation, common.Bytes):
        return "memory"
    if _same(annotation, common.Address):
        return "address"
    if get_origin(plain) is Literal:
        return _listed(plain)
    if get_origin(plain) is tuple:
        return _words(plain)
    if words := shape.literals(plain):
        # A union of words and something else, such as `int | Literal["auto"]`.
        rest = [part for part in get_args(plain) if get_origin(part) is not Literal]
        return " or ".join([*(f"`{word}`" for word in words), *(_words(part) for part in rest)])
    if _same(annotation, common.Name):
        return "name"
    return _words(plain) + _bounds(info)


def _words(annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        if get_origin(inner) is Literal:
            return f"list of {_listed(inner)}"
        if _same(inner, common.Name):
            return "list of names"
    return "mapping" if get_origin(annotation) is dict else shape.describe(annotation).removeprefix("a ")


def _listed(literal: Any) -> str:
    return ", ".join(f"`{word}`" for word in get_args(literal))


def _same(annotation: Any, other: Any) -> bool:
    """Whether an annotation is one of `fedcore.jobs.common`, optional or not."""
    marks = get_args(other)[1:]
    return (
        annotation == other
        or any(part == other for part in get_args(annotation))
        or (bool(marks) and getattr(annotation, "__metadata__", None) == marks)
    )


def _bounds(info: FieldInfo) -> str:
    found = [
        form.format(getattr(each, name))
        for each in info.metadata
        for name, form in _BOUNDS.items()
        if getattr(each, name, None) is not None and abs(getattr(each, name)) < _SHORT
    ]
    return f" {', '.join(found)}" if found else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**needed**"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A default as it may stand in a file."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{}" if not value else json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 10**9 and value % 10**9 == 0:
        return f"{value // 10**9}GB"
    if isinstance(value, str):
        return (
            value
            if re.fullmatch(r"[A-Za-z][\w./:-]*", value) and value not in ("null", "NULL")
            else json.dumps(value)
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _yes(value: bool | None) -> str:
    return "yes" if value else "no"


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
